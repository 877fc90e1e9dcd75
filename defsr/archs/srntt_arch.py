"""SRNTT (Zhang et al., CVPR 2019): the reference's textures swapped in at three levels."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from basicsr.utils.registry import ARCH_REGISTRY
from torch import Tensor, nn
from torch.nn import functional as F

from defsr.archs.interface import Alignment, Restoration
from defsr.archs.layers import conv3, doubled, init_normal, leaky, residual_blocks, to_image
from defsr.archs.levels import LEVEL_FACTORS, check_channels
from defsr.archs.official_names import count_blocks, renamed
from defsr.archs.transfer_arch import HardTransferArch
from defsr.utils.kinds import Count, Whole, entries

COARSE_TO_FINE = tuple(reversed(LEVEL_FACTORS))
WORDS = ('small', 'medium', 'large')
CONTENT = 'content_extractor.'
OFFICIAL = {  # starts of published names -> ours
    f'{CONTENT}head.0.': 'content_head.',
    f'{CONTENT}body.': 'content_body.',
    'texture_transfer.a': 'slope',
    'texture_transfer.b': 'bias',
} | {
    f'texture_transfer.{part}_{word}.': f'stage.{level}.{part}.'
    for level, word in zip(COARSE_TO_FINE, WORDS, strict=True)
    for part in ('head', 'body', 'tail')
}
# A content extractor alone: the published one's, and a modified SRResNet by its two layouts.
ALONE = {
    'head.0.': 'content_head.',
    'conv_first.': 'content_head.',
    'body.': 'content_body.',
    'recon_trunk.': 'content_body.',
}
# What makes an image of the content alone, which no result is made of.
UNUSED = ('tail.', 'upconv1.', 'upconv2.', 'conv_hr.', 'HRconv.', 'conv_last.')


@ARCH_REGISTRY.register()
class SRNTT(nn.Module):
    """Content features, to which each level adds the swapped textures and its residual blocks.

    Patches of 3x3 positions are swapped whole and overlaps averaged, finer levels by the matches of
    the coarsest (the paper's feature swapping). As published: ``match_key: ref_down_up`` and
    ``match_border: inside``. ``textures`` of the result are the swapped ones, not yet weighted.

    Args:
        num_feat (int): width. Default: 64.
        num_block (list): residual blocks of the content extractor and of the levels from coarse
            to fine. Default: [16, 16, 16, 16], the PyTorch port's; the original has 16, 16, 8, 4.
        use_confidence (bool): weigh textures by sigmoid(slope * c + bias), c the similarity of
            the match, slope and bias learned for each level. Default: True, the port's advice.
        num_ch (dict): level -> channels of the textures, fine to coarse. Default: VGG's.
    """

    reads = 'matches'
    scale = 4
    official_source = 'SRNTT: S-aiueo32/srntt-pytorch'

    def __init__(
        self,
        num_feat: Count = 64,
        num_block: Sequence[Whole] = (16, 16, 16, 16),
        use_confidence: bool = True,
        num_ch: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__()
        self.check('network_g', {'num_block': num_block, 'num_ch': num_ch})
        num_ch = check_channels('network_g', num_ch)
        self.swap = HardTransferArch(num_ch, patches='inside')
        self.content_head = conv3(3, num_feat)
        self.content_body = residual_blocks(num_block[0], num_feat)
        self.stage = nn.ModuleDict()
        for level, number in zip(COARSE_TO_FINE, num_block[1:], strict=True):
            tail = to_image(num_feat) if level == COARSE_TO_FINE[-1] else doubled(num_feat)
            self.stage[level] = _Stage(num_feat, num_ch[level], number, tail)
        self.apply(init_normal)
        self.use_confidence = use_confidence
        if use_confidence:
            self.slope = nn.Parameter(torch.ones(len(COARSE_TO_FINE)))
            self.bias = nn.Parameter(torch.ones(len(COARSE_TO_FINE)))

    @classmethod
    def check(cls, where: str, block: Mapping[str, Any]) -> None:
        """Refuse arguments that the constructor would; ValueError names the option."""
        entries(4, 4)(f'{where}:num_block', block['num_block'])
        if {*LEVEL_FACTORS} - {*check_channels(where, block['num_ch'])}:
            raise ValueError(f'{where}:num_ch must have all of {[*LEVEL_FACTORS]}.')

    def forward(self, lq: Tensor, aligned: Alignment) -> Restoration:
        """lq (N,3,h,w) RGB in [0,1] -> ``sr`` (N,3,4h,4w) in about [0,1], and ``textures``."""
        textures = self.swap(aligned)
        x = F.leaky_relu(self.content_head(lq), 0.1)
        x = self.content_body(x) + x
        for i, level in enumerate(COARSE_TO_FINE):
            texture = textures[level]
            if self.use_confidence:
                confidence = confidence_at(aligned.confidence, LEVEL_FACTORS[level])
                texture = texture * torch.sigmoid(self.slope[i] * confidence + self.bias[i])
            x = self.stage[level](x, texture)
        base = F.interpolate(
            lq, scale_factor=float(self.scale), mode='bilinear', align_corners=False
        )
        return Restoration(x + base, textures=textures)

    @classmethod
    def official_block(cls, state: Mapping[str, Tensor]) -> dict[str, Any]:
        """Arguments that published weights need. KeyError for other weights."""
        bodies = [f'{CONTENT}body', *(f'texture_transfer.body_{word}' for word in WORDS)]
        return {
            'num_feat': len(state[f'{CONTENT}head.0.bias']),
            'num_block': [count_blocks(state, body) for body in bodies],
            'use_confidence': 'texture_transfer.a' in state,
        }

    @classmethod
    def from_official(cls, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Published weights by our names. KeyError for others.

        Those of a content extractor or of an ``MSRResNet`` alone become a part of a state dict.
        """
        is_whole = any(name.startswith(CONTENT) for name in state)
        used = {
            _block_name(name): value
            for name, value in state.items()
            if not name.removeprefix(CONTENT).startswith(UNUSED)
        }
        return renamed(used, OFFICIAL if is_whole else ALONE)


class _Stage(nn.Module):
    """One level: features and textures together, residual blocks, a tail that goes on from them."""

    def __init__(self, num_feat: int, num_ch: int, num_block: int, tail: nn.Module) -> None:
        super().__init__()
        self.head = nn.Sequential(conv3(num_feat + num_ch, num_feat), leaky())
        self.body = residual_blocks(num_block, num_feat)
        self.tail = tail

    def forward(self, x: Tensor, texture: Tensor) -> Tensor:
        """(N,num_feat,H,W) and (N,num_ch,H,W) -> what the tail makes of them."""
        return self.tail(self.body(self.head(torch.cat((x, texture), dim=1))) + x)


def confidence_at(confidence: Tensor, factor: int) -> Tensor:
    """(N,h,w) -> (N,1,factor*h,factor*w), bicubic between the corners' centres, as published."""
    gate = confidence.unsqueeze(1)
    if factor == 1:
        return gate
    return F.interpolate(gate, scale_factor=float(factor), mode='bicubic', align_corners=True)


def _block_name(name: str) -> str:
    """A convolution of a residual block by BasicSR's name."""
    for theirs, ours in (('0', 'conv1'), ('2', 'conv2')):
        name = re.sub(rf'(body\w*\.\d+)\.body\.{theirs}\.', rf'\1.{ours}.', name)
    return name
