"""LPIPS and DISTS on small weights of our own, against the packages; and what is missing."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torchvision
from torch import nn
from torch.testing import assert_close
from torchvision.models.vgg import cfgs, make_layers

from defsr.metrics import perceptual
from defsr.metrics.perceptual import PERCEPTUAL, load_dists, load_lpips, missing, place_of

CPU = torch.device('cpu')


def alexnet_features() -> nn.Sequential:
    return torchvision.models.alexnet(weights=None).features


def vgg16_features() -> nn.Sequential:
    return make_layers(cfgs['D'])


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A hub's cache with both trunks, drawn by a seed, under names that fit their content."""
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    folder = tmp_path / 'hub/checkpoints'
    folder.mkdir(parents=True)
    trunks = {}
    for name, make in (('lpips', alexnet_features), ('dists', vgg16_features)):
        torch.manual_seed(1)
        trunks[name] = make().eval()
        state = {f'features.{key}': value for key, value in trunks[name].state_dict().items()}
        torch.save(state, folder / name)
        begins = hashlib.sha256((folder / name).read_bytes()).hexdigest()[:8]
        (folder / name).rename(folder / f'{name}-{begins}.pth')
        source = replace(PERCEPTUAL[name], file=f'{name}-{begins}.pth')
        monkeypatch.setitem(PERCEPTUAL, name, source)
    return trunks


@pytest.fixture
def pair(rng):
    image = torch.rand(1, 3, 67, 80, generator=rng)
    return image, (image + 0.1 * torch.rand(1, 3, 67, 80, generator=rng)).clamp(0, 1)


def test_lpips_is_the_papers_formula(cache, pair):
    lpips = pytest.importorskip('lpips')
    assert missing('lpips') == ''
    torch.manual_seed(7)
    drawn = torch.random.get_rng_state()
    found = load_lpips(CPU)
    assert torch.equal(torch.random.get_rng_state(), drawn)
    file = Path(lpips.__file__).parent / 'weights/v0.1/alex.pth'
    learned = torch.load(file, map_location='cpu', weights_only=True)
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    maps = [(2 * x - 1 - shift.view(3, 1, 1)) / scale.view(3, 1, 1) for x in pair]
    total, taps = 0, (1, 4, 7, 9, 11)
    for number, layer in enumerate(cache['lpips']):
        maps = [layer(x) for x in maps]
        if number in taps:
            unit = [x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10) for x in maps]
            weight = learned[f'lin{taps.index(number)}.model.1.weight'].flatten()
            total += (weight.view(-1, 1, 1) * (unit[0] - unit[1]) ** 2).sum(1).mean()
    assert found(*pair) == pytest.approx(total.item(), rel=1e-5) and total > 1e-4
    assert found(pair[0], pair[0]) == 0


def test_dists_is_that_of_its_package(cache, pair, monkeypatch):
    """Its network, with its download replaced by the same small trunk."""
    package = pytest.importorskip('DISTS_pytorch.DISTS_pt')
    features = SimpleNamespace(features=cache['dists'])
    monkeypatch.setattr(torchvision.models, 'vgg16', lambda pretrained: features)
    theirs = package.DISTS(load_weights=False)
    weights = Path(package.__file__).parent / 'weights.pt'
    theirs.load_state_dict(torch.load(weights, weights_only=True), strict=False)
    assert missing('dists') == ''
    found = load_dists(CPU)
    assert_close(found(*pair), theirs(*pair).item(), rtol=1e-5, atol=1e-6)
    assert found(*pair) > 1e-3 and found(pair[0], pair[0]) == pytest.approx(0, abs=1e-5)


def test_a_batch_is_image_by_image(cache, rng):
    net = perceptual.Dists()
    nn.init.uniform_(net.alpha)
    nn.init.uniform_(net.beta)
    image, other = torch.rand(2, 2, 3, 32, 40, generator=rng)
    alone = torch.cat([net(image[i : i + 1], other[i : i + 1]) for i in (0, 1)])
    assert_close(net(image, other), alone)


@pytest.mark.parametrize('name', ['lpips', 'dists'])
def test_what_is_missing_is_said(name, cache, monkeypatch):
    path = place_of(name)
    path.write_bytes(path.read_bytes()[:1000])
    assert 'is another file than its name says' in missing(name)
    path.unlink()
    assert missing(name) == (
        f'{PERCEPTUAL[name].title} is not measured: there is no {path}. Put '
        f'https://download.pytorch.org/models/{path.name} there; nothing is downloaded.'
    )
    monkeypatch.setattr(perceptual.importlib.util, 'find_spec', lambda _: None)
    assert missing(name).endswith(f'is missing. {perceptual.EXTRA}')
    assert missing('trunk') == ''


def test_the_names_are_torchvisions():
    """Nothing is fetched: the addresses are those that its enumerations hold."""
    for name, weights in (
        ('lpips', torchvision.models.AlexNet_Weights),
        ('dists', torchvision.models.VGG16_Weights),
    ):
        assert weights.IMAGENET1K_V1.url == f'{perceptual.SITE}/{PERCEPTUAL[name].file}'


def test_nothing_is_unpickled(cache):
    pytest.importorskip('lpips')
    torch.save({'features.0.weight': Path('x')}, place_of('lpips'))
    with pytest.raises(ValueError, match='metrics: the trunk of lpips is .*plain tensors'):
        load_lpips(CPU)


def test_images_that_are_too_small(cache):
    pytest.importorskip('lpips')
    image = torch.rand(1, 3, 30, 64)
    with pytest.raises(ValueError, match='is 30x64 .*lpips needs at least 31 pixels'):
        load_lpips(CPU)(image, image)
