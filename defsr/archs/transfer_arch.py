"""Texture transfer: DEF's deformable convolution (Eq. 13) and TTSR's gather and fold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal, get_args

import torch
from basicsr.utils.registry import ARCH_REGISTRY
from torch import Tensor, nn

from defsr.archs.interface import Alignment
from defsr.archs.levels import LEVEL_FACTORS, check_channels, check_groups
from defsr.ops.deform import TAPS, Backend, deform_conv_at
from defsr.ops.exporting import fold_plainly, is_exporting
from defsr.ops.patch_sum import sum_positions
from defsr.ops.warping import (
    flat_positions,
    gather_positions,
    match_positions,
    upsample_nearest,
)
from defsr.utils.checks import check_choice
from defsr.utils.kinds import Count

WHERE = 'network_g:transfer'  # in an option file


@ARCH_REGISTRY.register()
class DCNTransferArch(nn.Module):
    """DEF's texture transfer: a modulated deformable convolution based at the match (Eq. 13).

    At each level ``T(p) = c(p) * sum_j w_j F_ref(match(p) + p_j + dp_j) m_j``, where offsets and
    masks come from convolutions over the warped reference feature and ``F_de``. At the start
    offsets are 0, masks ``2 * sigmoid(0) = 1`` and the kernel is the identity at its centre, so
    that the first output is a plain gather times the confidence.

    Args:
        num_ch (dict): level -> channels of the texture features, fine to coarse.
        num_offset_feat (int | None): width of the offset branch. Default: the level's channels.
        num_group (int): deformable groups, a divisor of every level's channels. Default: 8.
        use_confidence (bool): multiply by c(p), as Eq. 13 does. Default: True.
        backend (str): auto | torchvision | gather, see ``deform_conv_at``. Default: auto.

    Raises:
        ValueError: unknown level or backend, or channels that ``num_group`` does not divide.
    """

    def __init__(
        self,
        num_ch: Mapping[str, int] | None = None,
        num_offset_feat: Count | None = None,
        num_group: Count = 8,
        use_confidence: bool = True,
        backend: Backend = 'auto',
    ) -> None:
        super().__init__()
        self.check(WHERE, {'num_ch': num_ch, 'num_group': num_group, 'backend': backend})
        self.num_ch = check_channels(WHERE, num_ch)
        self.use_confidence = use_confidence
        self.backend = backend
        self.num_group = num_group
        self.offset = nn.ModuleDict()
        self.weight = nn.ParameterDict()
        self.bias = nn.ParameterDict()
        for level, channels in self.num_ch.items():
            self.offset[level] = _offset_branch(channels, num_offset_feat or channels, num_group)
            weight = torch.zeros(channels, channels, 3, 3)
            self.weight[level] = nn.Parameter(nn.init.dirac_(weight))
            self.bias[level] = nn.Parameter(torch.zeros(channels))

    @classmethod
    def check(cls, where: str, block: Mapping[str, Any]) -> None:
        """Refuse arguments that the constructor would; ValueError names the option."""
        check_choice(f'{where}:backend', block['backend'], get_args(Backend))
        check_groups(where, block)

    def forward(self, aligned: Alignment) -> dict[str, Tensor]:
        """Transfer the matched textures: level -> (N, C, f*h, f*w)."""
        out = {}
        for level in self.num_ch:
            factor = LEVEL_FACTORS[level]
            base_yx = _positions_at(level, aligned)
            feat = aligned.feat_ref[level]
            warped = gather_positions(feat, base_yx)
            branch = self.offset[level](torch.cat((warped, aligned.feat_de[level]), dim=1))
            num_mask = len(TAPS) * self.num_group
            offset_yx, mask = branch.split([2 * num_mask, num_mask], dim=1)
            texture = deform_conv_at(
                feat,
                base_yx,
                offset_yx,
                2 * torch.sigmoid(mask),
                self.weight[level],
                self.bias[level],
                self.backend,
            )
            if self.use_confidence:
                gate = aligned.confidence.unsqueeze(1)
                texture = texture * upsample_nearest(gate, factor)
            out[level] = texture
        return out


def _offset_branch(channels: int, num_feat: int, num_group: int) -> nn.Sequential:
    last = nn.Conv2d(num_feat, len(TAPS) * 3 * num_group, 3, padding=1)
    for parameter in last.parameters():
        nn.init.zeros_(parameter)
    return nn.Sequential(
        nn.Conv2d(2 * channels, num_feat, 3, padding=1),
        nn.LeakyReLU(0.1, inplace=True),
        nn.Conv2d(num_feat, num_feat, 3, padding=1),
        nn.LeakyReLU(0.1, inplace=True),
        last,
    )


@ARCH_REGISTRY.register()
class HardTransferArch(nn.Module):
    """TTSR's texture transfer: gather whole matched patches, add up their overlaps.

    A position receives one value from each 3x3-cell patch that covers it, nine inside the map,
    and their average is returned. Has no parameters.

    Args:
        num_ch (dict): level -> channels of the texture features, fine to coarse.
        overlap (str): ``count`` divides by the number of patches that cover a position, so that
            a constant stays constant; ``nine`` divides by 9 everywhere, as TTSR's published code
            does, which darkens the outermost cells. Default: count.
        patches (str | None): ``inside``: those centred on the outermost positions take no part, as
            in SRNTT, whose patches lie inside the map. Default: None, all.
    """

    def __init__(
        self,
        num_ch: Mapping[str, int] | None = None,
        overlap: Literal['count', 'nine'] = 'count',
        patches: Literal['inside'] | None = None,
    ) -> None:
        super().__init__()
        self.check(WHERE, {'num_ch': num_ch, 'overlap': overlap, 'patches': patches})
        self.num_ch = check_channels(WHERE, num_ch)
        self.overlap, self.patches = overlap, patches

    @classmethod
    def check(cls, where: str, block: Mapping[str, Any]) -> None:
        """As of ``DCNTransferArch``."""
        check_channels(where, block['num_ch'])
        check_choice(f'{where}:overlap', block['overlap'], ('count', 'nine'))
        check_choice(f'{where}:patches', block['patches'], (None, 'inside'))

    def forward(self, aligned: Alignment) -> dict[str, Tensor]:
        """As ``DCNTransferArch.forward``; ``feat_de`` and ``confidence`` are not used."""
        return {
            level: _fold(
                aligned.feat_ref[level],
                _positions_at(level, aligned),
                LEVEL_FACTORS[level],
                self.overlap,
                self.patches == 'inside',
            )
            for level in self.num_ch
        }


def _fold(feat: Tensor, position_yx: Tensor, factor: int, overlap: str, inside: bool) -> Tensor:
    """What ``unfold``, index and ``fold`` do: feat (N,C,H',W'), position_yx (N,2,H,W) -> (N,C,H,W).

    ``overlap``, and whether ``patches`` are those ``inside``: as of ``HardTransferArch``.
    """
    if is_exporting():
        by_count = overlap == 'count'
        return fold_plainly(feat, position_yx, factor, by_count=by_count, inside=inside)
    num, _, height, width = position_yx.shape
    index = position_yx.new_zeros((num, height, width, len(TAPS)))
    share = feat.new_zeros(index.shape)
    count = feat.new_zeros((height, width, 1))
    for tap, (rows, columns, neighbour) in enumerate(_neighbours(position_yx, factor, inside)):
        flat, found = flat_positions(neighbour, feat.shape[-2:])
        index[:, rows, columns, tap] = flat
        share[:, rows, columns, tap] = found.to(feat)
        count[rows, columns] += 1
    return sum_positions(feat, index, share.div_(count if overlap == 'count' else len(TAPS)))


def _neighbours(
    position_yx: Tensor, factor: int, inside: bool
) -> Iterator[tuple[slice, slice, Tensor]]:
    """For each tap the rows and columns that it reaches, and where it finds them."""
    height, width = position_yx.shape[-2:]
    edge = factor if inside else 0
    edges = [edge if length >= 3 * factor else 0 for length in (height, width)]
    for dy, dx in TAPS:
        rows, source_rows = _shifted(height, dy * factor, edges[0])
        columns, source_columns = _shifted(width, dx * factor, edges[1])
        shift = position_yx.new_tensor([dy, dx]).view(1, 2, 1, 1) * factor
        yield rows, columns, position_yx[:, :, source_rows, source_columns] + shift


def _positions_at(level: str, aligned: Alignment) -> Tensor:
    """The given positions of a level, or those that the index says."""
    if aligned.positions is not None:
        return aligned.positions[level]
    return match_positions(aligned.index, aligned.key_size, LEVEL_FACTORS[level])


def _shifted(length: int, shift: int, edge: int) -> tuple[slice, slice]:
    """Slices (to, from) such that x[to] = y[from] moves y by ``shift`` without wrapping.

    The first and last ``edge`` of y stay out.
    """
    first, end = max(edge, -shift), length - max(edge, shift)
    return slice(first + shift, end + shift), slice(first, end)
