"""TTSRDiscriminator: size of the published critic, its numbers, size checks."""

from __future__ import annotations

import pytest
import torch
from basicsr.archs import build_network
from torch.testing import assert_close

from defsr.archs.ttsr_discriminator_arch import TTSRDiscriminator


def fill_(net: torch.nn.Module) -> None:
    """Parameter k, in order, becomes sqrt(2/fan_in) sin(0.7 k'); fan_in is 100 for biases."""
    with torch.no_grad():
        for p in net.parameters():
            fan_in = p[0].numel() if p.ndim > 1 else 100
            values = torch.arange(p.numel(), dtype=torch.float64).mul(0.7).sin()
            p.copy_((values * (2 / fan_in) ** 0.5).view(p.shape))


def test_numbers_of_the_published_critic():
    """TTSR's discriminator for 64x64, filled the same way, gave these in float64."""
    net = TTSRDiscriminator(input_size=64).double()
    fill_(net)
    x = torch.arange(2 * 3 * 64 * 64, dtype=torch.float64).mul(0.37).sin().mul(0.5).add(0.5)
    golden = torch.tensor([[3.6280714098880185], [3.7118315707845]], dtype=torch.float64)
    assert_close(net(x.view(2, 3, 64, 64)), golden, rtol=1e-9, atol=0)


def test_parameters_of_the_published_critic():
    net = build_network({'type': 'TTSRDiscriminator'})
    assert sum(p.numel() for p in net.parameters()) == 17_821_473


def test_rectangular_input_and_independent_samples(rng):
    net = TTSRDiscriminator(num_in_ch=1, num_feat=4, input_size=[64, 32]).double()
    x = torch.rand(2, 1, 64, 32, generator=rng, dtype=torch.float64)
    scores = net(x)
    assert scores.shape == (2, 1)
    assert_close(scores, torch.cat([net(x[:1]), net(x[1:])]))
    assert scores[0] != scores[1]


@pytest.mark.parametrize(
    ('size', 'nearest'),
    [
        (100, '96'),
        (0, '32'),
        ([64, 50], r'\[64, 64\]'),
        ([32, 32, 32], r'\[32, 32\]'),
        (159.0, r'160'),
    ],
)
def test_size_that_cannot_be_halved_five_times(size, nearest):
    with pytest.raises(ValueError, match=f'network_d:input_size is .*Nearest: {nearest}'):
        TTSRDiscriminator(input_size=size)


def test_other_image_size_names_both_options(rng):
    net = TTSRDiscriminator(num_feat=2, input_size=[32, 64])
    with pytest.raises(ValueError, match='64x32.*32x64.*network_d:input_size.*gt_size'):
        net(torch.rand(2, 3, 64, 32, generator=rng))
    with pytest.raises(ValueError, match='num_feat is 0'):
        TTSRDiscriminator(num_feat=0)
