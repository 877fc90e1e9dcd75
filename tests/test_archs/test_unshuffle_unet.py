from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from defsr.archs.unshuffle_unet_arch import UnshuffleUNet


@pytest.fixture
def net():
    torch.manual_seed(0)
    net = UnshuffleUNet(num_feat=(8, 12, 16), num_block=1, emb_ch=16)
    for block in net.modules():
        if hasattr(block, 'conv2'):
            torch.nn.init.normal_(block.conv2.weight, std=0.1)
    return net.eval()


def test_shape_and_dependence_on_time(net, rng):
    x = torch.randn(2, 3, 16, 24, generator=rng)
    early, late = (net(x, torch.full((2,), t)) for t in (3.5, 400.0))
    assert early.shape == x.shape and net.stride == 8
    assert (early - late).abs().max() > 1e-4
    mixed = net(x, torch.tensor([3.5, 400.0]))
    assert_close(mixed, torch.stack([early[0], late[1]]))


def test_the_interior_does_not_depend_on_the_size_of_the_image(net, rng):
    """No normalisation: a window sees what the whole image would, away from its border."""
    x = torch.randn(1, 3, 96, 128, generator=rng)
    t = torch.tensor([50.0])
    whole, window = net(x, t), net(x[..., 16:80, 24:104], t)
    assert_close(window[..., 28:36, 28:52], whole[..., 44:52, 52:76], rtol=0, atol=1e-5)


def test_every_parameter_learns(net, rng):
    net(torch.randn(1, 3, 16, 16, generator=rng), torch.tensor([7.0])).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


def test_sides_must_fit(net):
    with pytest.raises(ValueError, match='x_t is 16x20 .HxW., but both sides .* multiples of 8'):
        net(torch.zeros(1, 3, 16, 20), torch.zeros(1))
