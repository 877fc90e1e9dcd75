"""Counted multiplication-additions, against numbers by hand."""

from __future__ import annotations

from math import prod

import pytest
import torch
from basicsr.archs import build_network
from torch import nn
from torch.nn import functional as F
from workspaces import shrink

from defsr.benchmark.macs import count_macs
from defsr.diffusion.degradation import Degradation
from defsr.methods.build import Restorer
from defsr.ops.deform import deform_conv_at
from defsr.ops.matching import match_patches

MATLAB = Degradation('matlab', 4)


@pytest.mark.parametrize('backend', ['gather', 'torchvision'])
def test_deformable_convolution(backend):
    feat, weight, bias = torch.rand(2, 16, 6, 8), torch.rand(5, 16, 3, 3), torch.rand(5)
    base, offset, mask = torch.zeros(2, 2, 6, 8), torch.zeros(2, 36, 6, 8), torch.ones(2, 18, 6, 8)
    found = count_macs(
        lambda: deform_conv_at(feat, base, offset, mask, weight, bias, backend=backend)
    )
    assert found == 2 * 6 * 8 * 5 * 16 * 9


def test_matching():
    """Of single positions exactly; of patches with the halo and, by 3x3 ones, the norms."""
    query, key = torch.rand(2, 8, 6, 7), torch.rand(2, 8, 9, 11)
    own = 2 * 6 * 7 * 9 * 11 * 8
    norms = 2 * (6 * 7 + 9 * 11)
    assert count_macs(lambda: match_patches(query, key, patch_size=1)) == own + norms
    assert own < count_macs(lambda: match_patches(query, key)) < 3 * own + 9 * norms


def test_attention():
    query, key = torch.rand(1, 2, 12, 4), torch.rand(1, 2, 20, 4)
    found = count_macs(lambda: F.scaled_dot_product_attention(query, key, key))
    assert found == 2 * (2 * 12 * 20 * 4)


def test_threads_are_as_before_and_see_the_same():
    query = torch.rand(1, 8, 40, 40)
    before = torch.get_num_threads()
    counts = set()
    try:
        for number in (1, 3):
            torch.set_num_threads(number)
            counts.add(count_macs(lambda: match_patches(query, query, block_elements=2**12)))
            assert torch.get_num_threads() == number
    finally:
        torch.set_num_threads(before)
    assert len(counts) == 1


def test_a_network_of_convolutions():
    """EDSR: kernel by kernel, at the size of what each gives."""
    opt = shrink('EDSR_x4.yml')
    restorer = Restorer.build(opt, torch.device('cpu'), MATLAB, tile=None)
    by_hand = []

    def note(module: nn.Conv2d, _: tuple, out: torch.Tensor) -> None:
        by_hand.append(prod(module.weight.shape[1:]) * out.numel())

    for module in restorer.net_g.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(note)
    found = count_macs(lambda: restorer(torch.rand(1, 3, 10, 14), []))
    assert found == sum(by_hand) > 1e5


def test_a_whole_method_has_its_matching():
    """DEF: a larger reference costs what its texture extractor and the matching do."""
    opt = shrink('table2_DCN_x4.yml')
    restorer = Restorer.build(opt, torch.device('cpu'), MATLAB, tile=None)
    trunk = build_network(dict(opt['network_t']))
    lq = torch.rand(1, 3, 16, 12)
    small, large = (torch.rand(1, 3, side, side) for side in (32, 64))
    found = [count_macs(lambda ref=ref: restorer(lq, [ref])) for ref in (small, large)]
    extracted = [count_macs(lambda ref=ref: trunk(ref)) for ref in (small, large)]
    products = 16 * 12 * (16 * 16 - 8 * 8) * 256
    more = found[1] - found[0] - (extracted[1] - extracted[0])
    assert products <= more < 2 * products
