"""C2-Matching's restoration network (Jiang et al., CVPR 2021) with dynamic aggregation."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from basicsr.utils.registry import ARCH_REGISTRY
from torch import Tensor, nn
from torch.nn import functional as F

from defsr.archs.dynamic_aggregation import AggregationStage, check_aggregation
from defsr.archs.interface import Correspondences
from defsr.archs.layers import doubled, init_normal, residual_blocks, to_image
from defsr.archs.levels import LEVEL_FACTORS, check_channels
from defsr.archs.official_names import count_blocks, renamed
from defsr.ops.deform import TAPS, Backend
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
            stage = AggregationStage(
                num_feat,
                num_ch[level],
                num_ch[level],
                partial(residual_blocks, num_block, num_feat),
                ends,
                num_group=num_group,
                num_offset_feat=num_offset_feat,
            )
            stage.backend = backend
            stages[level] = stage
        self.stage = nn.ModuleDict(stages)
        self.apply(init_normal)
        for stage in stages.values():
            stage.start_at_matches()

    @classmethod
    def check(cls, where: str, block: Mapping[str, Any]) -> None:
        """Refuse arguments that the constructor would; ValueError names the option."""
        check_aggregation(where, block)

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
