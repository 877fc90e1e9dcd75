"""The trainable network: sizes, skips, the paper's size, TTSR's attention."""

from __future__ import annotations

import pytest
import torch
from basicsr.archs import build_network
from basicsr.utils.registry import ARCH_REGISTRY
from torch import nn

from defsr.archs.interface import Alignment
from defsr.archs.levels import LEVEL_FACTORS
from defsr.archs.ttsr_aggregator_arch import CrossScaleExchange
from defsr.ops import upsample_bicubic

NUM_CH = {'relu1_1': 8, 'relu2_1': 8, 'relu3_1': 16}
SMALL = {'type': 'TTSRAggregator', 'num_feat': 8, 'num_block': [1, 1, 1, 1], 'num_ch': NUM_CH}


def small_net(skip='none', transfer='HardTransferArch', **aggregator):
    torch.manual_seed(0)
    options = {
        'type': 'DEFNet',
        'skip': skip,
        'transfer': {'type': transfer, 'num_ch': NUM_CH},
        'aggregator': {**SMALL, **aggregator},
    }
    return build_network(options)


@pytest.fixture
def inputs(rng):
    def features(h, w):
        return {
            level: torch.rand(2, ch, h * LEVEL_FACTORS[level], w * LEVEL_FACTORS[level])
            for level, ch in NUM_CH.items()
        }

    torch.manual_seed(1)
    lq = torch.rand(2, 3, 6, 9, generator=rng)
    index = torch.randint(0, 35, (2, 6, 9), generator=rng)
    confidence = torch.rand(2, 6, 9, generator=rng)
    return lq, features(6, 9), features(5, 7), index, confidence, (5, 7)


@pytest.mark.parametrize('transfer', ['HardTransferArch', 'DCNTransferArch'])
@pytest.mark.parametrize('use_feat_de', [False, True])
def test_all_parts_reach_the_result_and_learn(inputs, transfer, use_feat_de):
    net = small_net(transfer=transfer, use_feat_de=use_feat_de)
    for name, parameter in net.named_parameters():
        if name.startswith('transfer.offset'):
            torch.nn.init.normal_(parameter, std=0.01)
    sr = net(inputs[0], Alignment(*inputs[1:])).sr
    assert sr.shape == (2, 3, 24, 36)
    sr.square().sum().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None and float(parameter.grad.abs().max()) > 0, name


@pytest.mark.parametrize('skip', ['bicubic', 'de'])
def test_a_skip_starts_from_that_image(inputs, rng, skip):
    de = torch.rand(2, 3, 24, 36, generator=rng)
    expected = upsample_bicubic(inputs[0], 4) if skip == 'bicubic' else de
    torch.testing.assert_close(
        small_net(skip)(inputs[0], Alignment(*inputs[1:], de=de)).sr, expected
    )


def test_without_confidence_ttsrs_attention_lets_no_texture_through(inputs):
    lq, feat_de, feat_ref, index, confidence, key_size = inputs
    net = small_net(use_soft_attention=True)
    none = torch.zeros_like(confidence)
    other = {level: x.flip(2) for level, x in feat_ref.items()}
    torch.testing.assert_close(
        net(lq, Alignment(feat_de, feat_ref, index, none, key_size)).sr,
        net(lq, Alignment(feat_de, other, index, none, key_size)).sr,
    )
    changed = net(lq, Alignment(feat_de, feat_ref, index, confidence, key_size)).sr
    same = net(lq, Alignment(feat_de, other, index, confidence, key_size)).sr
    assert float((changed - same).detach().abs().max()) > 1e-3


def test_without_confidence_the_generated_detail_remains(inputs):
    """DEF: texture undermatch leaves F_DE's contribution in place."""
    lq, feat_de, feat_ref, index, confidence, key_size = inputs
    net = small_net(transfer='DCNTransferArch', use_feat_de=True, use_soft_attention=False)
    none = torch.zeros_like(confidence)
    plain = net(lq, Alignment(feat_de, feat_ref, index, none, key_size)).sr
    other = {level: x.flip(2) for level, x in feat_de.items()}
    moved = plain - net(lq, Alignment(other, feat_ref, index, none, key_size)).sr
    assert float(moved.detach().abs().max()) > 1e-3


def test_the_papers_size():
    """16 + 16 + 8 + 4 blocks of 64 features in TTSR's layout."""
    with torch.device('meta'):
        net = build_network({'type': 'TTSRAggregator'})
    blocks = [m for m in net.modules() if type(m).__name__ == 'ResidualBlock']
    assert len(blocks) == 16 + 16 + 2 * 8 + 3 * 4
    # TTSR's published main network has this many parameters (its textures included, its own
    # extractor not): counted layer by layer from the paper's figure and block numbers.
    head = 3 * 64 * 9 + 64
    conv = 64 * 64 * 9 + 64
    point = 64 * 64 + 64
    merges = sum((64 + ch) * 64 * 9 + 64 for ch in (256, 128, 64))
    up = 2 * (64 * 256 * 9 + 256)
    tails = conv * (1 + 1 + 2 + 3)
    last = 2 * point + 3 * 64 * 64 * 9 + 64 + 64 * 32 * 9 + 32 + 32 * 3 + 3
    total = sum(p.numel() for p in net.parameters())
    csfi2 = point + conv + 2 * (2 * 64 * 64 * 9 + 64)
    csfi3 = 3 * point + 4 * conv + 3 * (3 * 64 * 64 * 9 + 64)
    assert total == head + 2 * conv * 60 + merges + up + csfi2 + csfi3 + tails + last


def test_exchange_keeps_each_scale(rng):
    scales = [torch.rand(2, 4, 3 * f, 5 * f, generator=rng) for f in (1, 2, 4)]
    out = CrossScaleExchange(4, 3)(scales)
    assert [x.shape for x in out] == [x.shape for x in scales]


def test_refusals():
    with pytest.raises(ValueError, match='scale is 2, but DEF is defined for 4'):
        build_network({'type': 'DEFNet', 'transfer': {}, 'aggregator': {}, 'scale': 2})
    with pytest.raises(ValueError, match='skip is .bicubc.* Did you mean `bicubic`'):
        small_net('bicubc')
    with pytest.raises(ValueError, match='must have 4 entries'):
        build_network({'type': 'TTSRAggregator', 'num_block': [1, 2]})


def test_a_skip_wants_a_layer_that_can_start_at_zero():
    """Any aggregator that names its last one will do; one that does not is refused in a line."""

    class Flat(nn.Module):
        def __init__(self, named: bool) -> None:
            super().__init__()
            self.out = nn.Conv2d(3, 3, 1)
            if named:
                self.last_layer = self.out

        def forward(self, lq, texture, confidence, feat_de):
            return self.out(upsample_bicubic(lq, 4))

    transfer = {'type': 'HardTransferArch', 'num_ch': NUM_CH}
    ARCH_REGISTRY.register()(Flat)
    try:
        build = {'type': 'DEFNet', 'transfer': transfer, 'skip': 'bicubic'}
        net = build_network(build | {'aggregator': {'type': 'Flat', 'named': True}})
        assert not any(p.any() for p in net.aggregator.parameters())
        with pytest.raises(ValueError, match='skip is bicubic, but Flat has no `last_layer`'):
            build_network(build | {'aggregator': {'type': 'Flat', 'named': False}})
    finally:
        del ARCH_REGISTRY._obj_map['Flat']
