"""MASA-SR (Lu et al., CVPR 2021): matching in blocks, spatial adaptation, dual aggregation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import sqrt
from typing import Annotated, Any, NamedTuple

import torch
from basicsr.utils.registry import ARCH_REGISTRY
from torch import Tensor, nn
from torch.nn import functional as F

from defsr.archs.interface import Restoration
from defsr.archs.layers import ResidualBlock, conv3, residual_blocks
from defsr.archs.masa_parts import (
    DualResidualAggregation,
    Encoder,
    SpatialAdaptation,
    encoder_stage,
)
from defsr.archs.official_names import count_blocks, renamed
from defsr.ops.block_matching import BLOCK, match_block_centres, match_in_windows
from defsr.ops.block_transfer import transfer_in_blocks
from defsr.ops.padding import pad_reflect, pad_to
from defsr.ops.patch_cosine import patch_cosine
from defsr.ops.resize import downsample_bicubic
from defsr.utils.kinds import Count, Whole, entries

WINDOW = 1.5  # side of a window over that of the reference's share of one block
MIN_KEY = 3  # positions, one patch
_PARTS = {
    'pAda.conv_shared.0.': 'adapt.shared.0.',
    'pAda.conv_gamma.': 'adapt.gamma.',
    'pAda.conv_beta.': 'adapt.beta.',
    'merge_warp_x1.': 'merge.',
    'conv_out.': 'last.',
}
_STAGES = {'L3': 'lr_quarter', 'L2': 'lr_half', 'L1': 'lr_full'}
_DRAM = {
    'conv_down_a.': 'down_ref.',
    'conv_up_a.': 'up_ref.',
    'conv_down_b.': 'down_lr.',
    'conv_up_b.': 'up_lr.',
    'conv_cat.': 'merge.',
}
OFFICIAL = (  # starts of published names -> ours
    {
        f'enc.{kind}_{level}.': f'encoder.at_{own}.{place}.'
        for level, own in {'L1': 'full', 'L2': 'half', 'L3': 'quarter'}.items()
        for kind, place in {'conv': 0, 'blk': 2}.items()
    }
    | {
        f'decoder.{kind}_{level}.': f'{own}.{place}.'
        for level, own in _STAGES.items()
        for kind, place in {'conv': 0, 'blk': 2}.items()
    }
    | {f'decoder.blk_x{factor}.': f'body_x{factor}.' for factor in (1, 2, 4)}
    | {
        f'decoder.dram_x{factor}.{theirs}': f'aggregate_x{factor}.{own}'
        for factor in (2, 4)
        for theirs, own in _DRAM.items()
    }
    | {f'decoder.{theirs}': own for theirs, own in _PARTS.items()}
)


class EncodedReferences(NamedTuple):
    """Features of references, one above the other in each map.

    Attributes:
        feats: at full, half and quarter size.
        key: (N, C, h', w') of the references reduced to the input's scale, which are matched.
        sizes: height and width of each in ``key``.
    """

    feats: tuple[Tensor, Tensor, Tensor]
    key: Tensor
    sizes: Sequence[tuple[int, int]]

    @property
    def tops(self) -> list[int]:
        """First row of each in ``key``."""
        heights = [height for height, _ in self.sizes]
        return [sum(heights[:i]) for i in range(len(heights))]


@ARCH_REGISTRY.register()
class MASA(nn.Module):
    """Finds a window for each block of the input, matches inside it, and merges what is there.

    Reads ``references``, see ``defsr.archs.interface``; all of it learns, the encoder through the
    soft attention, too. Inputs of any size are padded to multiples of 8 by reflection; of several
    references each block takes the best. As published, the weights see images in BGR.

    Args:
        num_feat (int): width. Default: 64.
        num_block (list): residual blocks of the encoder at full, half and quarter size. Default:
            [4, 4, 4].
        num_block_decoder (list): residual blocks of the input's features at quarter, half and full
            size, then of the merged ones at its size, twice and four times it. Default:
            [2, 2, 2, 12, 8, 4].
        dilations (list): steps of the patches by which blocks are matched, 1 .. 3. Default:
            [1, 2, 3].
    """

    reads = 'references'
    scale = 4
    official_source = 'dvlab-research/MASA-SR'

    def __init__(
        self,
        num_feat: Count = 64,
        num_block: Annotated[Sequence[Whole], entries(3, 3)] = (4, 4, 4),
        num_block_decoder: Annotated[Sequence[Whole], entries(6, 6)] = (2, 2, 2, 12, 8, 4),
        dilations: Sequence[int] = (1, 2, 3),
    ) -> None:
        super().__init__()
        self.check('network_g', {'dilations': dilations})
        self.dilations = tuple(dilations)
        self.encoder = Encoder(num_feat, num_block)

        self.lr_quarter = encoder_stage(num_feat, num_feat, num_block_decoder[0])
        self.lr_half = encoder_stage(2 * num_feat, num_feat, num_block_decoder[1])
        self.lr_full = encoder_stage(2 * num_feat, num_feat, num_block_decoder[2])
        self.adapt = SpatialAdaptation(num_feat)
        self.merge = conv3(2 * num_feat, num_feat)
        self.body_x1 = residual_blocks(num_block_decoder[3], num_feat)
        self.aggregate_x2 = DualResidualAggregation(num_feat)
        self.body_x2 = residual_blocks(num_block_decoder[4], num_feat)
        self.aggregate_x4 = DualResidualAggregation(num_feat)
        self.body_x4 = residual_blocks(num_block_decoder[5], num_feat)
        self.last = conv3(num_feat, 3)
        self._init_weights()

    @classmethod
    def check(cls, where: str, block: Mapping[str, Any]) -> None:
        """Refuse arguments that the constructor would; ValueError names the option."""
        given = block['dilations']
        if not given or any(step not in (1, 2, 3) for step in given):
            raise ValueError(
                f'{where}:dilations is {[*given]}, but must be some of 1, 2 and 3: patches lie '
                f'inside blocks of {BLOCK}x{BLOCK}.'
            )

    def _init_weights(self) -> None:
        """As published: small residual blocks, an adaptation that begins with the statistics."""
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
                spread = 0.5 * sqrt(2 / (9 * module.out_channels))
                nn.init.normal_(module.weight, 0.0, spread)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
        with torch.no_grad():
            for module in self.modules():
                if isinstance(module, ResidualBlock):
                    module.conv1.weight.mul_(0.1)
                    module.conv2.weight.mul_(0.1)
            self.adapt.gamma.weight.zero_()
            self.adapt.beta.weight.zero_()

    def encode(self, refs: Sequence[Tensor]) -> EncodedReferences:
        """What ``forward`` makes of references, to be used for several inputs.

        Args:
            refs: (N, 3, H', W') RGB in [0, 1] each, sides multiples of 4.
        """
        images = [pad_to(ref, MIN_KEY * self.scale).flip(1) for ref in refs]
        small = [downsample_bicubic(image, self.scale) for image in images]
        encoded = [self.encoder(image) for image in images]
        keys = [self.encoder.at_full(image) for image in small]
        full, half, quarter = (_stacked(list(maps)) for maps in zip(*encoded, strict=True))
        sizes = [(image.shape[-2], image.shape[-1]) for image in small]
        return EncodedReferences((full, half, quarter), _stacked(keys), sizes)

    def forward(self, lq: Tensor, refs: Sequence[Tensor] | EncodedReferences) -> Restoration:
        """Super-resolve.

        Args:
            lq: (N, 3, h, w) RGB in [0, 1].
            refs: (N, 3, H', W') RGB in [0, 1] each, sides multiples of 4; or what ``encode`` made
                of them.

        Returns:
            ``sr`` (N, 3, 4h, 4w), about [0, 1], not clamped; the ``attention`` with its gradient,
            and the matches.
        """
        ready = refs if isinstance(refs, EncodedReferences) else self.encode(refs)
        height, width = lq.shape[-2:]
        image = pad_reflect(lq, BLOCK).flip(1)
        feats = self.encoder(image)
        match_yx, winner = self.match(feats[0].detach(), ready)
        attention = patch_cosine(feats[0], ready.key, match_yx, border='replicate').unsqueeze(1)
        textures = [
            transfer_in_blocks(feat, match_yx, attention, factor)
            for feat, factor in zip(ready.feats, (4, 2, 1), strict=True)
        ]
        up = F.interpolate(
            image, scale_factor=float(self.scale), mode='bicubic', align_corners=False
        )
        sr = (self._decode(feats, textures) + up).flip(1)
        found = Restoration(
            sr,
            attention=attention[..., :height, :width],
            index=match_yx[:, 0] * ready.key.shape[-1] + match_yx[:, 1],
            confidence=attention.detach().squeeze(1),
            winner=winner,
            key_size=tuple(ready.key.shape[-2:]),
        )
        return found.cut(height, width, self.scale)

    @torch.no_grad()
    def match(self, query: Tensor, refs: EncodedReferences) -> tuple[Tensor, Tensor]:
        """Blocks first, then positions in the window around their block's match.

        Args:
            query: (N, C, h, w) features of the input, sides multiples of 8.
            refs: encoded references.

        Returns:
            (N, 2, h, w) int64, rows then columns in the references' ``key``, and (N, h, w) int64,
            which reference each is in, from 0.
        """
        key = refs.key.detach()
        scores, centres = [], []
        for (height, width), top in zip(refs.sizes, refs.tops, strict=True):
            part = key[:, :, top : top + height, :width]
            index, score = match_block_centres(query, part, self.dilations)
            scores.append(score)
            centres.append(torch.stack((index // width, index % width), dim=-1))
        winner = torch.stack(scores).argmax(dim=0)  # (N, rows, columns) of blocks
        num, rows, columns = winner.shape
        found = winner.new_empty(num, rows, columns, 2, BLOCK, BLOCK)
        for number, (size, top) in enumerate(zip(refs.sizes, refs.tops, strict=True)):
            mine = winner == number
            window = _window(size[0], rows), _window(size[1], columns)
            most = winner.new_tensor([side - cut for side, cut in zip(size, window, strict=True)])
            middle = winner.new_tensor([side // 2 for side in window])
            origin = (centres[number][mine] - middle).clamp_min(0).minimum(most)
            origin = origin + winner.new_tensor([top, 0])
            if len(origin):
                found[mine] = match_in_windows(query, key, mine.nonzero(), origin, window)
        match_yx = found.permute(0, 3, 1, 4, 2, 5).reshape(num, 2, rows * BLOCK, columns * BLOCK)
        return match_yx, winner.repeat_interleave(BLOCK, 1).repeat_interleave(BLOCK, 2)

    def _decode(self, feats: Sequence[Tensor], textures: Sequence[Tensor]) -> Tensor:
        """Features of the input and textures, both from full to quarter size of their image."""
        quarter = self.lr_quarter(feats[2])
        half = self.lr_half(torch.cat((_doubled(quarter), feats[1]), dim=1))
        x1 = self.lr_full(torch.cat((_doubled(half), feats[0]), dim=1))
        merged = torch.cat((self.adapt(x1, textures[2]), x1), dim=1)
        x1 = self.body_x1(F.relu(self.merge(merged)))
        x2 = self.body_x2(self.aggregate_x2(x1, self.adapt(_doubled(x1), textures[1])))
        x4 = self.body_x4(self.aggregate_x4(x2, self.adapt(_doubled(x2), textures[0])))
        return self.last(x4)

    @classmethod
    def official_block(cls, state: Mapping[str, Tensor]) -> dict[str, Any]:
        """Arguments that published weights need. KeyError for other weights."""
        encoder = [f'enc.blk_{level}' for level in ('L1', 'L2', 'L3')]
        decoder = [f'decoder.blk_{level}' for level in ('L3', 'L2', 'L1', 'x1', 'x2', 'x4')]
        return {
            'num_feat': len(state['enc.conv_L1.weight']),
            'num_block': [count_blocks(state, start) for start in encoder],
            'num_block_decoder': [count_blocks(state, start) for start in decoder],
        }

    @classmethod
    def from_official(cls, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Published weights by our names. KeyError for others."""
        return renamed(state, OFFICIAL)


def _window(side: int, num_block: int) -> int:
    """Side of the windows in a reference of ``side`` positions, for so many blocks beside it."""
    return min(2 * int(side // (2 * num_block) * WINDOW) + 3, side)


def _stacked(maps: Sequence[Tensor]) -> Tensor:
    """(N,C,H_i,W_i) one above the other, zeros to the right of the narrower ones."""
    if len(maps) == 1:
        return maps[0]
    width = max(each.shape[-1] for each in maps)
    return torch.cat([F.pad(each, (0, width - each.shape[-1])) for each in maps], dim=2)


def _doubled(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode='bilinear', align_corners=False)
