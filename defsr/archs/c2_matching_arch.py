"""C2-Matching's restoration network (Jiang et al., CVPR 2021) with dynamic aggregation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from basicsr.utils.registry import ARCH_REGISTRY
from torch import Tensor, nn
from torch.nn import functional as F

from defsr.archs.interface import Correspondences
from defsr.archs.layers import conv3, doubled, init_normal, leaky, residual_blocks, to_image
from defsr.archs.levels import LEVEL_FACTORS, check_channels
from defsr.archs.official_names import count_blocks, renamed
from defsr.ops.deform import TAPS, Backend, deform_conv_at
from defsr.ops.warping import finer_positions
from defsr.utils.checks import check_int
from defsr.utils.kinds import Count, Whole

COARSE_TO_FINE = tuple(reversed(LEVEL_FACTORS))
OFFICIAL = {  # starts of published names -> ours
    'content_extractor.conv_first.': 'content_head.',
    'content_extractor.body.': 'content_body.',
} | {
    f'dyn_agg_restore.{official.format(word)}.': f'stage.{level}.{own}'
    for level, word in zip(COARSE_TO_FINE, ('small', 'medium', 'large'), strict=True)
    for official, own in {
        '{}_offset_conv1': 'offset.0.',
        '{}_offset_conv2': 'offset.2.',
        '{}_dyn_agg.conv_offset_mask': 'offset.4.',
        '{}_dyn_agg': '',
        'head_{}': 'head.',
        'body_{}': 'body.',
        'tail_{}': 'tail.',
    }.items()
}


@ARCH_REGISTRY.register()
class C2Matching(nn.Module):
    """Content features, and at each level textures sampled around their matches and merged in.

    Reads ``correspondences``, see ``defsr.archs.interface``.

    Args:
        num_feat (int): width. Default: 64.
        num_block (int): residual blocks of the content extractor, and of each level. Default: 16.
        num_group (int): deformable groups, a divisor of every level's channels. Default: 8.
        num_ch (dict): level -> channels of the textures, fine to coarse. Default: VGG's.
        num_offset_feat (int | None): width of the offset branches. Default: the level's channels,
            as published.
        backend (str): auto | torchvision | gather, see ``deform_conv_at``. Default: auto.
    """

    reads = 'correspondences'
    scale = 4
    official_source = 'yumingj/C2-Matching'

    def __init__(
        self,
        num_feat: Count = 64,
        num_block: Whole = 16,
        num_group: Count = 8,
        num_ch: Mapping[str, int] | None = None,
        num_offset_feat: Count | None = None,
        backend: Backend = 'auto',
    ) -> None:
        super().__init__()
        self.check('network_g', {'num_ch': num_ch, 'num_group': num_group})
        num_ch = check_channels('network_g', num_ch)
        self.content_head = nn.Conv2d(3, num_feat, 3, padding=1)
        self.content_body = residual_blocks(num_block, num_feat)
        stages = {}
        for level in COARSE_TO_FINE:
            ends = to_image(num_feat) if level == COARSE_TO_FINE[-1] else doubled(num_feat)
            stage = _Stage(num_feat, num_ch[level], num_block, ends, num_group, num_offset_feat)
            stage.backend = backend
            stages[level] = stage
        self.stage = nn.ModuleDict(stages)
        self.apply(init_normal)
        for stage in stages.values():
            for parameter in stage.offset[-1].parameters():
                nn.init.zeros_(parameter)  # no offset, all masks 1/2

    @classmethod
    def check(cls, where: str, block: Mapping[str, Any]) -> None:
        """Refuse arguments that the constructor would; ValueError names the option."""
        num_group = check_int(f'{where}:num_group', block['num_group'], 1)
        num_ch = check_channels(where, block['num_ch'])
        if {*LEVEL_FACTORS} - {*num_ch}:
            raise ValueError(f'{where}:num_ch must have all of {[*LEVEL_FACTORS]}.')
        for level, channels in num_ch.items():
            if channels % num_group:
                raise ValueError(
                    f'{where}:num_group is {num_group}, but must divide the {channels} channels '
                    f'of {level}.'
                )

    def forward(self, lq: Tensor, found: Correspondences) -> Tensor:
        """lq (N,3,h,w) RGB in [0,1] -> (N,3,4h,4w) in about [0,1], not clamped."""
        x = self.content_body(F.leaky_relu(self.content_head(lq), 0.1))
        for level in COARSE_TO_FINE:
            x = self.stage[level](
                x,
                found.feat_ref[level],
                found.feat_here[level],
                found.match_yx,
                LEVEL_FACTORS[level],
            )
        skip = F.interpolate(
            lq, scale_factor=float(self.scale), mode='bilinear', align_corners=False
        )
        return x + skip

    @classmethod
    def official_block(cls, state: Mapping[str, Tensor]) -> dict[str, Any]:
        """Arguments that published weights need. KeyError for other weights."""
        masks = state['dyn_agg_restore.small_dyn_agg.conv_offset_mask.weight']
        return {
            'num_feat': len(state['content_extractor.conv_first.weight']),
            'num_block': count_blocks(state, 'content_extractor.body'),
            'num_group': len(masks) // (3 * len(TAPS)),
        }

    @classmethod
    def from_official(cls, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Published weights by our names. KeyError for others."""
        return renamed(state, OFFICIAL)


class _Stage(nn.Module):
    """One level: deformable sampling around the matches, merged into the features.

    A position p is at place d of the patch around p - d; tap d of the kernel reads where that
    patch's match has its place d, and d beside it. Offsets and masks come from the features and
    the reference's at the same place.
    """

    backend: Backend = 'auto'

    def __init__(
        self,
        num_feat: int,
        num_ch: int,
        num_block: int,
        tail: nn.Module,
        num_group: int,
        num_offset_feat: int | None,
    ) -> None:
        super().__init__()
        width = num_offset_feat or num_ch
        self.num_group = num_group
        self.offset = nn.Sequential(
            conv3(num_feat + num_ch, width),
            leaky(),
            conv3(width, width),
            leaky(),
            conv3(width, 3 * len(TAPS) * num_group),
        )
        bound = (9 * num_ch) ** -0.5
        self.weight = nn.Parameter(torch.empty(num_ch, num_ch, 3, 3).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(num_ch))
        self.head = nn.Sequential(conv3(num_feat + num_ch, num_feat), leaky())
        self.body = residual_blocks(num_block, num_feat)
        self.tail = tail

    def forward(
        self, x: Tensor, feat_ref: Tensor, feat_here: Tensor, match_yx: Tensor, factor: int
    ) -> Tensor:
        """(N,C,f*h,f*w) -> the same with textures, or twice as large with them."""
        base_yx, taps_yx = _around_matches(match_yx, factor)
        num_mask = len(TAPS) * self.num_group
        branch = self.offset(torch.cat((x, feat_here), dim=1))
        offset_yx, mask = branch.split([2 * num_mask, num_mask], dim=1)
        texture = deform_conv_at(
            feat_ref,
            base_yx,
            (offset_yx.unflatten(1, (self.num_group, -1)) + taps_yx.unsqueeze(1)).flatten(1, 2),
            torch.sigmoid(mask),
            self.weight,
            self.bias,
            self.backend,
        )
        merged = self.head(torch.cat((x, F.leaky_relu(texture, 0.1, inplace=True)), dim=1))
        return self.tail(self.body(merged) + x)


def _around_matches(match_yx: Tensor, factor: int) -> tuple[Tensor, Tensor]:
    """Each position's own match, and how far from it its patches' matches put each tap.

    Args:
        match_yx: (N, 2, h + 2, w + 2), see ``Correspondences``.
        factor: f, the level's size over that of the matched level.

    Returns:
        (N, 2, f*h, f*w) int64 positions and (N, 9*2, f*h, f*w) float offsets.
    """
    height, width = (side - 2 for side in match_yx.shape[-2:])
    own = match_yx[..., 1:-1, 1:-1]
    offsets = []
    for dy, dx in TAPS:
        around = match_yx[..., 1 - dy : 1 - dy + height, 1 - dx : 1 - dx + width]
        offsets.append(factor * (around + around.new_tensor([dy, dx]).view(1, 2, 1, 1) - own))
    taps_yx = torch.cat(offsets, dim=1).float()
    taps_yx = taps_yx.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
    return finer_positions(own, factor), taps_yx
