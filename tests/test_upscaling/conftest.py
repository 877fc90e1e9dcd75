"""A tiny ``Upscaler`` for tests: its description, random weights, and one that is built."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from basicsr.archs import build_network
from workspaces import UPSCALE, save_options

from defsr.config.files import load_options
from defsr.upscaling import Upscaler


@pytest.fixture(scope='package')
def random_weights():
    """Makes a network's weights."""
    return _random_network


def _random_network(block) -> torch.nn.Module:
    """Untrained, but with a last layer that is not zero: about 0.1 around the bicubic image."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        net = build_network(block)
        torch.nn.init.normal_(net.aggregator.tail[-1].weight, std=0.2)
    return net


@pytest.fixture(scope='package')
def network(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp('network') / 'upscale.yml'
    save_options(path, UPSCALE)
    return path


@pytest.fixture(scope='package')
def weights(network) -> Path:
    path = network.with_name('random.pth')
    net = _random_network(load_options(network)['network_g'])
    torch.save({'params': net.state_dict()}, path)
    return path


@pytest.fixture(scope='package')
def upscaler(network, weights) -> Upscaler:
    return Upscaler(weights, 'cpu', network)


@pytest.fixture(scope='package')
def lq() -> torch.Tensor:
    return torch.rand(1, 3, 20, 26, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope='package')
def refs() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    return [torch.rand(1, 3, *size, generator=generator) for size in ((50, 41), (36, 90))]


@pytest.fixture(scope='package')
def sr(upscaler, lq, refs) -> torch.Tensor:
    return upscaler(lq, refs, tile=None)
