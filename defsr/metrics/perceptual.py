"""LPIPS and DISTS on weights that are at hand; nothing is downloaded."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from defsr.utils.checks import check_image
from defsr.utils.fingerprints import digest_of_file
from defsr.utils.weights import read_checkpoint

Metric = Callable[[Tensor, Tensor], float]
EXTRA = "pip install 'defsr[lpips]'"
SITE = 'https://download.pytorch.org/models'


@dataclass(frozen=True)
class Source:
    """What a metric is made of.

    Attributes:
        title: what it is called in tables.
        package: that brings its learned weights; '' for the trunk that comes with defsr.
        file: torchvision's weights of its trunk; the name ends in the start of its SHA-256.
        smallest: pixels per side that it needs.
    """

    title: str
    package: str = ''
    file: str = ''
    smallest: int = 1


PERCEPTUAL = {
    'lpips': Source('LPIPS (AlexNet, 0.1)', 'lpips', 'alexnet-owt-7be5be79.pth', 31),
    'dists': Source('DISTS', 'DISTS_pytorch', 'vgg16-397923af.pth', 16),
    'trunk': Source('trunk distance (VGG16, not LPIPS)', smallest=4),
}


def place_of(name: str) -> Path:
    """Where the weights of a metric's trunk have to lie: torchvision's cache."""
    return Path(torch.hub.get_dir()) / 'checkpoints' / PERCEPTUAL[name].file


def missing(name: str) -> str:
    """What a metric wants and does not have, and what to do about it, in a line; '' if nothing."""
    source = PERCEPTUAL[name]
    if not source.package:
        return ''
    title, path = source.title, place_of(name)
    if importlib.util.find_spec(source.package) is None:
        return f'{title} is not measured: the package {source.package} is missing. {EXTRA}'
    if not path.is_file():
        return (
            f'{title} is not measured: there is no {path}. Put {SITE}/{source.file} there; '
            'nothing is downloaded.'
        )
    begins = path.stem.rpartition('-')[2]
    if not digest_of_file(path).startswith(begins):
        return (
            f'{title} is not measured: {path} is another file than its name says, its SHA-256 does '
            f'not begin with {begins}. Put {SITE}/{source.file} there.'
        )
    return ''


def load_lpips(device: torch.device) -> Metric:
    """LPIPS (Zhang et al. 2018) by the package of its authors, on AlexNet, version 0.1.

    Returns:
        (1,3,H,W) RGB in [0, 1] twice -> a number, the lower the better.

    Raises:
        ValueError, OSError, ImportError: without what ``missing`` names.
    """
    import lpips

    with torch.random.fork_rng([]), warnings.catch_warnings():
        warnings.simplefilter('ignore')  # of the former name of an argument of torchvision's
        net = lpips.LPIPS(net='alex', pnet_rand=True, verbose=False)  # else it would download
    wanted = net.net.state_dict()  # slice2.3.weight is features.3.weight
    net.net.load_state_dict(_features('lpips', {key: key.split('.', 1)[1] for key in wanted}))
    return partial(_distance, 'lpips', net.to(device).eval(), device, normalize=True)


def load_dists(device: torch.device) -> Metric:
    """DISTS (Ding et al. 2020) with the weights of the package of its authors. As ``load_lpips``.

    The formula is this module's: theirs downloads when it is built.
    """
    spec = importlib.util.find_spec(PERCEPTUAL['dists'].package)
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(missing('dists'))
    learned: Any = read_checkpoint(
        Path(spec.submodule_search_locations[0]) / 'weights.pt', option='the weights of DISTS'
    )
    with torch.device('meta'):
        net = Dists()
    trunk = {f'{name}.{kind}' for name in net.convs for kind in ('weight', 'bias')}
    state = _features('dists', {f'convs.{key}': key for key in trunk})
    state |= {key: learned[key] for key in ('alpha', 'beta')}
    net.load_state_dict(state, assign=True)
    return partial(_distance, 'dists', net.to(device).eval(), device)


LOADERS = {'lpips': load_lpips, 'dists': load_dists}


def _features(name: str, keys: Mapping[str, str]) -> dict[str, Tensor]:
    """Weights of the convolutions of torchvision's trunk, by other names."""
    state: Any = read_checkpoint(place_of(name), option=f'metrics: the trunk of {name}')
    return {own: state[f'features.{theirs}'] for own, theirs in keys.items()}


@torch.no_grad()
def _distance(
    name: str,
    net: nn.Module,
    device: torch.device,
    image: Tensor,
    reference: Tensor,
    **more: object,
) -> float:
    smallest = PERCEPTUAL[name].smallest
    check_image('image', image)
    if min(image.shape[-2:]) < smallest:
        raise ValueError(
            f'A result is {image.shape[2]}x{image.shape[3]} (HxW), but metrics: {name} needs at '
            f'least {smallest} pixels per side. Remove it.'
        )
    return float(net(image.to(device), reference.to(device), **more))


class Dists(nn.Module):
    """DISTS' formula (Ding et al. 2020, Eq. 8 to 10) on VGG16 with L2 pooling.

    ``convs`` are named by their places in torchvision's ``vgg16().features``.
    """

    PLACES = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))
    WIDTHS = (3, 64, 128, 256, 512, 512)  # of the image, and behind each stage
    NORMALISATION = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    TINY = 1e-6

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleDict()
        for stage, places in enumerate(self.PLACES):
            for number, place in enumerate(places):
                num_in = self.WIDTHS[stage + bool(number)]
                self.convs[str(place)] = nn.Conv2d(num_in, self.WIDTHS[stage + 1], 3, padding=1)
        self.alpha, self.beta = (
            nn.Parameter(torch.empty(1, sum(self.WIDTHS), 1, 1)) for _ in range(2)
        )
        self.requires_grad_(False)

    def forward(self, image: Tensor, reference: Tensor) -> Tensor:
        """(N,3,H,W) RGB in [0, 1] twice -> (N,), 0 for two that are alike."""
        total = self.alpha.sum() + self.beta.sum()
        weights = [(x / total).split(self.WIDTHS, dim=1) for x in (self.alpha, self.beta)]
        similar = image.new_zeros(len(image))
        pairs = zip(self._maps(image), self._maps(reference), *weights, strict=True)
        for x, y, alpha, beta in pairs:
            x_mean, y_mean = (f.mean((2, 3), keepdim=True) for f in (x, y))
            means = (2 * x_mean * y_mean + self.TINY) / (x_mean**2 + y_mean**2 + self.TINY)
            spread = ((x - x_mean) ** 2 + (y - y_mean) ** 2).mean((2, 3), keepdim=True)
            shared = (x * y).mean((2, 3), keepdim=True) - x_mean * y_mean
            structures = (2 * shared + self.TINY) / (spread + self.TINY)
            similar = similar + (alpha * means + beta * structures).sum((1, 2, 3))
        return 1 - similar

    def _maps(self, image: Tensor) -> list[Tensor]:
        mean, std = (image.new_tensor(values).view(3, 1, 1) for values in self.NORMALISATION)
        x, maps = (image - mean) / std, [image]
        for stage, places in enumerate(self.PLACES):
            if stage:
                x = _l2_pooled(x)
            for place in places:
                x = F.relu(self.convs[str(place)](x))
            maps.append(x)
        return maps


def _l2_pooled(x: Tensor) -> Tensor:
    """Half as many rows and columns: roots of means of squares, under a Hann window of 3x3."""
    window = x.new_tensor(np.hanning(5)[1:-1])
    kernel = torch.outer(window, window)
    kernel = (kernel / kernel.sum()).expand(x.shape[1], 1, 3, 3)
    return (F.conv2d(x**2, kernel, stride=2, padding=1, groups=x.shape[1]) + 1e-12).sqrt()
