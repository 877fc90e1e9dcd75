"""Texture transfer against explicit gathers, and TTSR's fold."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from defsr.archs.interface import Alignment
from defsr.archs.levels import LEVEL_FACTORS
from defsr.archs.transfer_arch import DCNTransferArch, HardTransferArch
from defsr.ops import gather_positions, match_positions

NUM_CH = {'relu1_1': 8, 'relu2_1': 16, 'relu3_1': 16}
QUERY, KEY = (5, 7), (6, 4)


@pytest.fixture
def inputs(rng):
    def features(size):
        return {
            level: torch.rand(2, ch, size[0] * f, size[1] * f, generator=rng)
            for (level, ch), f in zip(NUM_CH.items(), LEVEL_FACTORS.values(), strict=True)
        }

    index = torch.randint(0, KEY[0] * KEY[1], (2, *QUERY), generator=rng)
    confidence = torch.rand(2, *QUERY, generator=rng)
    return features(QUERY), features(KEY), index, confidence, KEY


def ttsr_fold(feat, index, factor):
    """Unfold, pick, fold, divide by nine: TTSR's transfer as its paper describes it."""
    kernel, padding = 3 * factor, factor
    patches = F.unfold(feat, kernel, padding=padding, stride=factor)
    picked = patches.gather(2, index.flatten(1).unsqueeze(1).expand(-1, patches.shape[1], -1))
    size = [side * factor for side in index.shape[-2:]]
    return F.fold(picked, size, kernel, padding=padding, stride=factor) / 9


@pytest.mark.parametrize('level', LEVEL_FACTORS)
def test_hard_transfer_is_ttsrs_gather_and_fold(inputs, level):
    out = HardTransferArch(NUM_CH, overlap='nine')(Alignment(*inputs))[level]
    expected = ttsr_fold(inputs[1][level], inputs[2], LEVEL_FACTORS[level])
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize('overlap', ['count', 'nine'])
def test_gradient_of_the_hard_transfer(inputs, overlap):
    """That of unfold, pick and fold, over how many patches there are or over nine."""
    aligned = Alignment(*inputs)
    for level, factor in LEVEL_FACTORS.items():
        feat = inputs[1][level].double().requires_grad_()
        aligned.feat_ref[level] = feat
        weight = torch.randn(2, NUM_CH[level], *(factor * side for side in QUERY)).double()
        mine = HardTransferArch({level: NUM_CH[level]}, overlap)(aligned)[level]
        ones = ttsr_fold(torch.ones_like(feat), torch.full_like(inputs[2], KEY[1] + 1), factor)
        plain = ttsr_fold(feat, inputs[2], factor) / (ones if overlap == 'count' else 1)
        grads = [torch.autograd.grad((x * weight).sum(), feat)[0] for x in (mine, plain)]
        torch.testing.assert_close(*grads, rtol=1e-10, atol=1e-10)


def test_hard_transfer_of_a_constant(inputs):
    feat_de, feat_ref, index, confidence, key_size = inputs
    ones = {level: torch.ones_like(x) for level, x in feat_ref.items()}
    interior = torch.full_like(index, 2 * KEY[1] + 2)
    exact = HardTransferArch(NUM_CH)(Alignment(feat_de, ones, interior, confidence, key_size))
    ttsr = HardTransferArch(NUM_CH, 'nine')(
        Alignment(feat_de, ones, interior, confidence, key_size)
    )
    for level, factor in LEVEL_FACTORS.items():
        torch.testing.assert_close(exact[level], torch.ones_like(exact[level]))
        corner = ttsr[level][..., :factor, :factor]
        torch.testing.assert_close(corner, torch.full_like(corner, 4 / 9))


def test_dcn_transfer_starts_as_a_plain_gather(inputs):
    feat_de, feat_ref, index, confidence, key_size = inputs
    out = DCNTransferArch(NUM_CH)(Alignment(*inputs))
    for level, factor in LEVEL_FACTORS.items():
        gathered = gather_positions(feat_ref[level], match_positions(index, key_size, factor))
        weight = confidence.unsqueeze(1).repeat_interleave(factor, 2).repeat_interleave(factor, 3)
        torch.testing.assert_close(out[level], gathered * weight, rtol=0, atol=1e-5)


def test_dcn_transfer_with_other_kernels_is_a_convolution_at_the_match(inputs, rng):
    """With zero offsets: nine explicit gathers around the match, weighted."""
    feat_de, feat_ref, index, confidence, key_size = inputs
    net = DCNTransferArch(NUM_CH, use_confidence=False)
    for weight in net.weight.values():
        weight.data = torch.randn(weight.shape, generator=rng)
    out = net(Alignment(*inputs))
    for level, factor in LEVEL_FACTORS.items():
        base = match_positions(index, key_size, factor)
        expected = 0
        for i in range(3):
            for j in range(3):
                tap = base + torch.tensor([i - 1, j - 1]).view(1, 2, 1, 1)
                kernel = net.weight[level][:, :, i, j, None, None]
                expected = expected + F.conv2d(gather_positions(feat_ref[level], tap), kernel)
        torch.testing.assert_close(out[level], expected, rtol=1e-4, atol=1e-4)


def test_every_parameter_of_the_dcn_transfer_learns(inputs):
    net = DCNTransferArch(NUM_CH)
    for branch in net.offset.values():
        torch.nn.init.normal_(branch[-1].weight, std=0.01)
    sum(x.square().sum() for x in net(Alignment(*inputs)).values()).backward()
    for name, parameter in net.named_parameters():
        assert float(parameter.grad.abs().max()) > 0, name


def test_groups_must_divide_the_channels():
    with pytest.raises(ValueError, match='num_group is 5, but must divide the 8 channels'):
        DCNTransferArch(NUM_CH, num_group=5)


def test_unknown_choices_are_refused():
    with pytest.raises(ValueError, match='overlap is .none., .* Did you mean `nine`'):
        HardTransferArch(NUM_CH, overlap='none')
    with pytest.raises(ValueError, match='A level of .*:num_ch is .relu4_1.'):
        HardTransferArch({'relu4_1': 8})
