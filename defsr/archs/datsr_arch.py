"""DATSR's network (Cao et al., ECCV 2022): deformable attention to references, in a U of levels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from math import isqrt
from typing import Annotated, Any

import torch
from basicsr.utils.registry import ARCH_REGISTRY
from torch import Tensor, nn
from torch.nn import functional as F

from defsr.archs.datsr_parts import WindowedBody
from defsr.archs.dynamic_aggregation import AggregationStage, check_aggregation
from defsr.archs.interface import Correspondences
from defsr.archs.layers import conv3, doubled, init_normal, to_image
from defsr.archs.levels import LEVEL_FACTORS, check_channels
from defsr.archs.official_names import count_blocks, renamed
from defsr.ops.deform import TAPS, Backend
from defsr.ops.warping import finer_positions, gather_positions, upsample_nearest
from defsr.utils.kinds import Count, Flag, Share, entries

FINEST, *_, COARSEST = LEVEL_FACTORS
DOWN = tuple(level for level in LEVEL_FACTORS if level != COARSEST)
UP = tuple(reversed(LEVEL_FACTORS))
MAX_OFFSET = 10.0  # positions of a level that a tap may be away from its match
_SIZES = dict(zip(LEVEL_FACTORS, ('large', 'medium', 'small'), strict=True))
OFFICIAL = {'dyn_agg_restore.unet_head.': 'first.'} | {  # starts of published names -> ours
    f'dyn_agg_restore.{official.format(way=way, size=_SIZES[level])}.': f'{way}.{level}.{own}'
    for way, levels in {'down': DOWN, 'up': UP}.items()
    for level in levels
    for official, own in {
        '{way}_{size}_offset_conv1': 'offset.0.',
        '{way}_{size}_offset_conv2': 'offset.2.',
        '{way}_{size}_dyn_agg.conv_offset_mask': 'offset.4.',
        '{way}_{size}_dyn_agg': '',
        '{way}_head_{size}': 'head.',
        '{way}_body_{size}.patch_embed.norm': 'body.norm_in.',
        '{way}_body_{size}.layers': 'body.layers.',
        '{way}_body_{size}.norm': 'body.norm_out.',
        '{way}_tail_{size}': 'tail.',
    }.items()
}
INSIDE = {'.residual_group.': '.', '.mlp.fc1.': '.mlp.0.', '.mlp.fc2.': '.mlp.3.'}  # of names
# A content extractor, whose features their network takes and does not use, and what is computed.
NOT_READ = 'content_extractor.', '.attn_mask', '.relative_position_index'


@ARCH_REGISTRY.register()
class DATSR(nn.Module):
    """From the interpolated input down to its own size and up again, with textures at each step.

    At each level of each way textures are sampled around their matches, by offsets of at most
    ten positions and masks that grow with the confidence, and blocks of windowed attention work on
    the two together. Reads ``correspondences``, see ``defsr.archs.interface``.

    Args:
        num_feat (int): width, a multiple of all ``num_heads``. Default: 128.
        depths (list): blocks of attention of each layer. Default: [4, 4].
        num_heads (list): heads of each layer. Default: [4, 4].
        window_size (int): side of the windows, at every level, at least 2. Default: 8.
        num_group (int): deformable groups, a divisor of every level's channels. Default: 8.
        num_ch (dict): level -> channels of the textures, fine to coarse. Default: VGG's.
        num_offset_feat (int | None): width of the offset branches. Default: the level's channels,
            as published.
        num_texture_feat (int | None): channels of what is sampled. Default: the level's channels,
            as published.
        drop_path_rate (float): share of images that skip the last block of a body in training,
            0 .. 1; from 0 at the first it grows in equal steps. Default: 0.1.
        use_checkpoint (bool): compute the bodies of the finest level again on the way back, which
            saves memory and changes no result. Default: false.
        backend (str): auto | torchvision | gather, see ``deform_conv_at``. Default: auto.
    """

    reads = 'correspondences'
    scale = 4
    official_source = 'caojiezhang/DATSR'
    not_learned = ('use_checkpoint',)

    def __init__(
        self,
        num_feat: Count = 128,
        depths: Annotated[Sequence[Count], entries(1)] = (4, 4),
        num_heads: Annotated[Sequence[Count], entries(1)] = (4, 4),
        window_size: Count = 8,
        num_group: Count = 8,
        num_ch: Mapping[str, int] | None = None,
        num_offset_feat: Count | None = None,
        num_texture_feat: Count | None = None,
        drop_path_rate: Share = 0.1,
        use_checkpoint: Flag = False,
        backend: Backend = 'auto',
    ) -> None:
        super().__init__()
        block = {'num_feat': num_feat, 'depths': depths, 'num_heads': num_heads}
        block |= {'window_size': window_size, 'num_ch': num_ch, 'num_group': num_group}
        self.check('network_g', block)
        num_ch = check_channels('network_g', num_ch)

        def stage(level: str, tail: nn.Module) -> AggregationStage:
            made = AggregationStage(
                num_feat,
                num_ch[level],
                2 * num_ch[level],
                partial(
                    WindowedBody,
                    num_feat,
                    depths,
                    num_heads,
                    window_size,
                    drop_path_rate=drop_path_rate,
                    use_checkpoint=use_checkpoint and level == FINEST,
                ),
                tail,
                num_group=num_group,
                num_offset_feat=num_offset_feat,
                num_texture_feat=num_texture_feat,
                max_offset=MAX_OFFSET,
            )
            made.backend = backend
            return made

        self.tile_grid = window_size
        self.first = conv3(3, num_feat)
        down = {level: stage(level, nn.Conv2d(num_feat, num_feat, 3, 2, 1)) for level in DOWN}
        ends = {level: to_image if level == FINEST else doubled for level in UP}
        up = {level: stage(level, end(num_feat)) for level, end in ends.items()}
        self.down, self.up = nn.ModuleDict(down), nn.ModuleDict(up)
        self.apply(init_normal)
        for made in (*down.values(), *up.values()):
            made.start_at_matches()

    @classmethod
    def check(cls, where: str, block: Mapping[str, Any]) -> None:
        """Refuse arguments that the constructor would; ValueError names the option."""
        check_aggregation(where, block)
        depths, num_heads = block['depths'], block['num_heads']
        if len(depths) != len(num_heads):
            raise ValueError(
                f'{where}:depths is {[*depths]} and {where}:num_heads {[*num_heads]}, but each '
                'layer needs an entry of both.'
            )
        for heads in num_heads:
            if block['num_feat'] % heads:
                raise ValueError(
                    f'{where}:num_heads is {[*num_heads]}, but each must divide {where}:num_feat, '
                    f'{block["num_feat"]}.'
                )
        if block['window_size'] < 2:
            raise ValueError(
                f'{where}:window_size is {block["window_size"]}, but must be 2 at least: windows '
                'are shifted by half of it.'
            )

    def forward(self, lq: Tensor, found: Correspondences) -> Tensor:
        """lq (N,3,h,w) RGB in [0,1] -> (N,3,4h,4w) in about [0,1], not clamped."""
        base = F.interpolate(
            lq, scale_factor=float(self.scale), mode='bilinear', align_corners=False
        )
        beside = {level: _beside(found, level) for level in LEVEL_FACTORS}
        similarity = found.confidence.unsqueeze(1)

        def step(stage: nn.Module, x: Tensor, level: str, skip: Tensor | None = None) -> Tensor:
            factor = LEVEL_FACTORS[level]
            return stage(
                x,
                found.feat_ref[level],
                beside[level],
                found.match_yx,
                factor,
                similarity=upsample_nearest(similarity, factor),
                skip=skip,
            )

        x, skips = self.first(base), {}
        for level in DOWN:
            skips[level] = x
            x = step(self.down[level], x, level)
        for level in UP:
            x = step(self.up[level], x, level, skips.get(level))
        return x + base

    @classmethod
    def official_block(cls, state: Mapping[str, Tensor]) -> dict[str, Any]:
        """Arguments that published weights need. KeyError for other weights."""
        masks = state['dyn_agg_restore.up_small_dyn_agg.conv_offset_mask.weight']
        layers = 'dyn_agg_restore.up_body_small.layers'
        starts = [f'{layers}.{i}.residual_group.blocks' for i in range(count_blocks(state, layers))]
        tables = [state[f'{start}.0.attn.relative_position_bias_table'] for start in starts]
        return {
            'num_feat': len(state['dyn_agg_restore.unet_head.weight']),
            'depths': [count_blocks(state, start) for start in starts],
            'num_heads': [table.shape[1] for table in tables],
            'window_size': (isqrt(len(tables[0])) + 1) // 2,
            'num_group': len(masks) // (3 * len(TAPS)),
        }

    @classmethod
    def from_official(cls, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Published weights by our names. KeyError for others."""
        own = {}
        for name, value in state.items():
            if name.startswith(NOT_READ[0]) or name.endswith(NOT_READ[1:]):
                continue
            for theirs, ours in INSIDE.items():
                name = name.replace(theirs, ours)
            own[name] = value
        return renamed(own, OFFICIAL)


def _beside(found: Correspondences, level: str) -> Tensor:
    """What the offsets see of the references: (N, 2 * C, f*h, f*w).

    As published, that of each position at its match, by the match of the patch that it is the top
    left corner of; and the first reference at the same place as the input.
    """
    corner_yx = finer_positions(found.match_yx[..., 2:, 2:] - 1, LEVEL_FACTORS[level])
    warped = gather_positions(found.feat_ref[level], corner_yx)
    return torch.cat((warped, found.feat_here[level]), dim=1)
