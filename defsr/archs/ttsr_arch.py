"""TTSR (Yang et al., CVPR 2020): a texture transformer whose extractor learns with the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from basicsr.utils.registry import ARCH_REGISTRY
from torch import Tensor, nn

from defsr.archs.interface import Alignment, Restoration
from defsr.archs.levels import MATCH_LEVEL
from defsr.archs.official_names import count_blocks, renamed
from defsr.archs.stacked_features import (
    stacked_features,
    stacked_mask,
    stacked_rows,
    texture_features,
    winner_of,
)
from defsr.archs.transfer_arch import HardTransferArch
from defsr.archs.ttsr_aggregator_arch import TTSRAggregator
from defsr.archs.vgg_texture_arch import VGGTextureExtractor
from defsr.diffusion.degradation import BORDERS, DEGRADATIONS, Degradation
from defsr.ops.matching import match_patches
from defsr.ops.patch_cosine import patch_cosine
from defsr.ops.resize import upsample_bicubic
from defsr.ops.warping import match_positions
from defsr.utils.checks import check_choice
from defsr.utils.kinds import Count, Whole, entries

WHERE = 'network_g'  # in an option file
SCALE = 4
OFFICIAL = {  # starts of published names -> ours
    'MainNet.SFE.conv_head.': 'aggregator.shallow_head.',
    'MainNet.SFE.RBs.': 'aggregator.shallow_body.0.',
    'MainNet.SFE.conv_tail.': 'aggregator.shallow_body.1.',
    'MainNet.conv11_head.': 'aggregator.merge_quarter.',
    'MainNet.RB11.': 'aggregator.body_quarter.0.',
    'MainNet.conv11_tail.': 'aggregator.body_quarter.1.',
    'MainNet.conv12.': 'aggregator.up_half.0.',
    'MainNet.conv22_head.': 'aggregator.merge_half.',
    'MainNet.ex12.conv12.': 'aggregator.exchange_half.path.0_1.0.',
    'MainNet.ex12.conv21.': 'aggregator.exchange_half.path.1_0.0.',
    'MainNet.ex12.conv_merge1.': 'aggregator.exchange_half.merge.0.',
    'MainNet.ex12.conv_merge2.': 'aggregator.exchange_half.merge.1.',
    'MainNet.RB21.': 'aggregator.body_half.0.0.',
    'MainNet.conv21_tail.': 'aggregator.body_half.0.1.',
    'MainNet.RB22.': 'aggregator.body_half.1.0.',
    'MainNet.conv22_tail.': 'aggregator.body_half.1.1.',
    'MainNet.conv23.': 'aggregator.up_full.0.',
    'MainNet.conv33_head.': 'aggregator.merge_full.',
    'MainNet.ex123.conv12.': 'aggregator.exchange_full.path.0_1.0.',
    'MainNet.ex123.conv13.': 'aggregator.exchange_full.path.0_2.0.',
    'MainNet.ex123.conv21.': 'aggregator.exchange_full.path.1_0.0.',
    'MainNet.ex123.conv23.': 'aggregator.exchange_full.path.1_2.0.',
    'MainNet.ex123.conv31_1.': 'aggregator.exchange_full.path.2_0.0.',
    'MainNet.ex123.conv31_2.': 'aggregator.exchange_full.path.2_0.2.',
    'MainNet.ex123.conv32.': 'aggregator.exchange_full.path.2_1.0.',
    'MainNet.ex123.conv_merge1.': 'aggregator.exchange_full.merge.0.',
    'MainNet.ex123.conv_merge2.': 'aggregator.exchange_full.merge.1.',
    'MainNet.ex123.conv_merge3.': 'aggregator.exchange_full.merge.2.',
    'MainNet.RB31.': 'aggregator.body_full.0.0.',
    'MainNet.conv31_tail.': 'aggregator.body_full.0.1.',
    'MainNet.RB32.': 'aggregator.body_full.1.0.',
    'MainNet.conv32_tail.': 'aggregator.body_full.1.1.',
    'MainNet.RB33.': 'aggregator.body_full.2.0.',
    'MainNet.conv33_tail.': 'aggregator.body_full.2.1.',
    'MainNet.merge_tail.conv13.': 'aggregator.tail_up.0.',
    'MainNet.merge_tail.conv23.': 'aggregator.tail_up.1.',
    'MainNet.merge_tail.conv_merge.': 'aggregator.tail_merge.',
    'MainNet.merge_tail.conv_tail1.': 'aggregator.tail.0.',
    'MainNet.merge_tail.conv_tail2.': 'aggregator.tail.1.',
    'LTE.slice1.0.': 'lte.conv1_1.',
    'LTE.slice2.2.': 'lte.conv1_2.',
    'LTE.slice2.5.': 'lte.conv2_1.',
    'LTE.slice3.7.': 'lte.conv2_2.',
    'LTE.slice3.10.': 'lte.conv3_1.',
}
_SHIFT = 'LTE.sub_mean.'  # a frozen 1x1 convolution that normalises


class EncodedReferences(NamedTuple):
    """Features of all references in one map, see ``stacked_features``.

    ``textures`` are of the references as they are, ``key`` of what is matched; ``mask`` and
    ``rows`` as of ``stacked_mask`` and ``stacked_rows``.
    """

    textures: dict[str, Tensor]
    key: Tensor
    mask: Tensor | None
    rows: Sequence[tuple[int, int]]


@ARCH_REGISTRY.register()
class TTSR(nn.Module):
    """Texture transformer: learnable extractor, hard and soft attention, cross-scale integration.

    Reads ``references``, see ``defsr.archs.interface``. The interpolated input is matched with the
    references, reduced and interpolated alike (relevance embedding); the best patches of the
    untouched references are carried over at three levels (hard attention) and weighed by their
    cosine, which has a gradient (soft attention).

    Args:
        num_feat (int): width of the main network. Default: 64.
        num_block (list): its residual blocks, see ``TTSRAggregator``. Default: [16, 16, 8, 4].
        res_scale (float): factor on each residual branch. Default: 1.
        overlap (str): of the carried patches: ``nine`` divides by nine everywhere, as the published
            code does and its weights expect, which darkens features in the outermost LR pixels;
            ``count`` divides by how many there are, see ``HardTransferArch``. Default: nine.
        skip (str): what the main network's result is added to: ``none`` (TTSR) or ``bicubic``, the
            interpolated input, from which training then starts. Default: none.
        degradation (str): how references are reduced, ``matlab`` or ``pil`` (TTSR): as the inputs
            were made. Default: matlab.
        vgg_type (str): what the extractor starts from, up to relu3_1, where ``vgg16`` and
            ``vgg19`` have the same layers. Default: vgg19 (TTSR).
        weights (str): of that network, see ``VGGTrunk``; ``none`` where a checkpoint is loaded
            anyhow. Default: torchvision.

    Raises:
        ValueError, OSError: as ``VGGTrunk``; ValueError also for other values of these.
    """

    reads = 'references'
    not_learned = ('degradation', 'weights')
    official_source = 'researchmm/TTSR'

    def __init__(
        self,
        num_feat: Count = 64,
        num_block: Sequence[Whole] = (16, 16, 8, 4),
        res_scale: float = 1.0,
        overlap: Literal['nine', 'count'] = 'nine',
        skip: Literal['none', 'bicubic'] = 'none',
        degradation: str = 'matlab',
        vgg_type: str = 'vgg19',
        weights: str = 'torchvision',
    ) -> None:
        super().__init__()
        self.check(WHERE, {'num_block': num_block, 'skip': skip, 'degradation': degradation})
        self.skip = skip
        self.degradation = Degradation(degradation, SCALE)
        self.lte = VGGTextureExtractor(vgg_type, weights).requires_grad_(True)
        self.transfer = HardTransferArch(overlap=overlap)
        self.aggregator = TTSRAggregator(
            num_feat=num_feat, num_block=num_block, res_scale=res_scale
        )
        for module in self.aggregator.modules():
            if isinstance(module, nn.Conv2d):
                module.reset_parameters()  # PyTorch's, as TTSR starts; BasicSR's blocks have others
        if skip == 'bicubic':
            for parameter in self.aggregator.last_layer.parameters():
                nn.init.zeros_(parameter)

    @classmethod
    def check(cls, where: str, block: Mapping[str, Any]) -> None:
        """Refuse arguments that the constructor would; ValueError names the option."""
        entries(4, 4)(f'{where}:num_block', block['num_block'])
        check_choice(f'{where}:skip', block['skip'], ('none', 'bicubic'))
        check_choice(f'{where}:degradation', block['degradation'], DEGRADATIONS)

    def encode(self, refs: Sequence[Tensor]) -> EncodedReferences:
        """What of the references serves any number of inputs.

        Args:
            refs: (N, 3, H', W') RGB in [0, 1] each, sides multiples of 4.
        """
        soft = [self._enlarged(self.degradation.degrade(ref)) for ref in refs]
        return EncodedReferences(
            stacked_features(self.lte, refs),
            stacked_features(self.lte, soft, [MATCH_LEVEL])[MATCH_LEVEL],
            stacked_mask(refs),
            stacked_rows(refs),
        )

    def forward(self, lq: Tensor, refs: Sequence[Tensor] | EncodedReferences) -> Restoration:
        """Super-resolve.

        Args:
            lq: (N, 3, h, w) RGB in [0, 1].
            refs: as of ``encode``, or what it made of them.

        Returns:
            ``sr`` (N, 3, 4h, 4w) in [0, 1]: TTSR clamps, which stops gradients beyond; the
            ``textures``, the ``attention`` S with its gradient, and the matches.
        """
        ready = refs if isinstance(refs, EncodedReferences) else self.encode(refs)
        enlarged = self._enlarged(lq)
        query = texture_features(self.lte, enlarged, [MATCH_LEVEL])[MATCH_LEVEL]
        key_size = ready.key.shape[-2:]
        index, _ = match_patches(query.detach(), ready.key.detach(), key_mask=ready.mask)
        attention = patch_cosine(query, ready.key, match_positions(index, key_size))
        found = Alignment({}, ready.textures, index, attention, key_size)
        textures = self.transfer(found)
        sr = self.aggregator(lq, textures, attention)  # in [-1, 1]
        if self.skip == 'bicubic':
            sr = sr + (enlarged * 2 - 1)
        return Restoration(
            (sr.clamp(-1, 1) + 1) / 2,
            textures,
            attention.unsqueeze(1),
            index=index,
            confidence=attention.detach(),
            winner=winner_of(index, ready.rows, key_size[1]),
            key_size=tuple(key_size),
        )

    @torch.no_grad()
    def _enlarged(self, image: Tensor) -> Tensor:
        border = BORDERS[self.degradation.name]
        return upsample_bicubic(image, SCALE, border).clamp(0, 1)

    @classmethod
    def official_block(cls, state: Mapping[str, Tensor]) -> dict[str, Any]:
        """Arguments that published weights need. KeyError for other weights."""
        stages = ('SFE.RBs', 'RB11', 'RB21', 'RB31')
        return {
            'num_feat': len(state['MainNet.SFE.conv_head.weight']),
            'num_block': [count_blocks(state, f'MainNet.{stage}') for stage in stages],
            'degradation': 'pil',
            'weights': 'none',
        }

    @classmethod
    def from_official(cls, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Published weights by our names. KeyError for others."""
        rest = {name: value for name, value in state.items() if not name.startswith(_SHIFT)}
        factor, shift = (state[f'{_SHIFT}{kind}'] for kind in ('weight', 'bias'))
        std = factor[:, :, 0, 0].diagonal().reciprocal().view(1, 3, 1, 1)
        return renamed(rest, OFFICIAL) | {'lte.std': std, 'lte.mean': -shift.view_as(std) * std}
