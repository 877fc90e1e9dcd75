"""VGGTrunk and VGGTextureExtractor: layers, weight files, freezing, and that trained ones match."""

from __future__ import annotations

import urllib.error

import cv2
import numpy as np
import pytest
import torch
import torchvision
from basicsr.archs import build_network
from basicsr.archs.vgg_arch import NAMES
from photos import read_rgb
from repository import REPOSITORY
from torch.nn import functional as F
from torch.testing import assert_close
from torchvision.models import vgg

from defsr.archs.vgg import IMAGENET_MEAN, IMAGENET_STD, VGGTrunk
from defsr.archs.vgg_texture_arch import VGGTextureExtractor

LEVELS = ['relu1_1', 'relu2_1', 'relu3_1']
HED = 'vgg16_trunk_hed.pth'


@pytest.fixture
def img(rng) -> torch.Tensor:
    return torch.rand(2, 3, 37, 52, generator=rng)


@pytest.fixture(scope='module')
def torchvision_file(tmp_path_factory):
    """A VGG19 state dict as torchvision saves it, random, without the classifier."""
    path = tmp_path_factory.mktemp('vgg') / 'vgg19.pth'
    generator = torch.Generator().manual_seed(3)
    state, num_in = {}, 3
    for i, name in enumerate(NAMES['vgg19']):
        if name.startswith('conv'):
            num_out = min(64 * 2 ** (int(name[4]) - 1), 512)
            weight = torch.randn(num_out, num_in, 3, 3, generator=generator)
            state[f'features.{i}.weight'] = weight / (4.5 * num_in) ** 0.5
            state[f'features.{i}.bias'] = 0.1 * torch.randn(num_out, generator=generator)
            num_in = num_out
    torch.save(state, path)
    return path


def test_registered_with_the_three_levels(img):
    net = build_network({'type': 'VGGTextureExtractor', 'weights': 'none'})
    features = net(img)
    assert list(features) == LEVELS
    shapes = [tuple(f.shape) for f in features.values()]
    assert shapes == [(2, 64, 37, 52), (2, 128, 18, 26), (2, 256, 9, 13)]
    assert net.num_feat == {'relu1_1': 64, 'relu2_1': 128, 'relu3_1': 256}
    assert all(f.min() == 0 for f in features.values())


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_equals_torchvision_vgg19(torchvision_file, img, dtype):
    """The path from a torchvision file, against torchvision's own network."""
    reference = vgg.make_layers(vgg.cfgs['E']).eval()  # the features of vgg19
    state = torch.load(torchvision_file, weights_only=True)
    reference.load_state_dict({k.removeprefix('features.'): v for k, v in state.items()})
    layers = ['conv1_1', 'relu1_1', 'pool1', 'relu2_2', 'conv3_4', 'relu3_4', 'relu5_1']
    net = VGGTrunk(layers[::-1], 'vgg19', str(torchvision_file)).to(dtype)
    x = img.to(dtype)
    before = x.clone()
    features = net(x)
    assert list(features) == layers  # in the network's order, whatever was asked first
    assert torch.equal(x, before)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1).to(dtype) for v in (IMAGENET_MEAN, IMAGENET_STD))
    y = (x - mean) / std
    wanted = {NAMES['vgg19'].index(layer): layer for layer in layers}
    for i, module in enumerate(reference.to(dtype)[: max(wanted) + 1]):
        y = torch.relu(y) if isinstance(module, torch.nn.ReLU) else module(y)
        if i in wanted:
            assert_close(features[wanted[i]], y, rtol=1e-5, atol=1e-5)


def test_download_is_torchvision_imagenet_v1(monkeypatch, torchvision_file, img):
    state = torch.load(torchvision_file, weights_only=True)
    asked = []

    def get_state_dict(self, *args, **kwargs):
        asked.append(self)
        return state

    monkeypatch.setattr(torchvision.models.VGG19_Weights, 'get_state_dict', get_state_dict)
    features = VGGTextureExtractor()(img)
    assert asked == [torchvision.models.VGG19_Weights.IMAGENET1K_V1]
    same = VGGTextureExtractor(weights=str(torchvision_file))(img)
    assert torch.equal(features['relu3_1'], same['relu3_1'])


@pytest.mark.parametrize(
    'error', [urllib.error.URLError('no route'), RuntimeError('invalid hash value')]
)
def test_failed_download_names_the_way_out(monkeypatch, error):
    def get_state_dict(self, *args, **kwargs):
        raise error

    monkeypatch.setattr(torchvision.models.VGG19_Weights, 'get_state_dict', get_state_dict)
    with pytest.raises(OSError, match=r'weights: <path>.*vgg16_trunk_hed.pth.*vgg_type: vgg16'):
        VGGTextureExtractor()


def test_frozen_but_differentiable_in_the_image(img):
    net = VGGTextureExtractor(weights='none')
    net.train()
    assert not any(module.training for module in net.modules())
    assert not any(p.requires_grad for p in net.parameters())
    img.requires_grad_()
    sum(f.sum() for f in net(img).values()).backward()
    assert img.grad.abs().min() > 0


def test_untrained_weights_are_always_the_same():
    state = torch.get_rng_state()
    first = VGGTextureExtractor(weights='none').state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(7)
    second = VGGTextureExtractor(weights='none').state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_channels_last_stays_and_gives_the_same(img):
    net = VGGTextureExtractor('vgg16', HED)
    plain = net(img)
    fast = net.to(memory_format=torch.channels_last)(img.to(memory_format=torch.channels_last))
    for layer in LEVELS:
        assert fast[layer].is_contiguous(memory_format=torch.channels_last)
        assert_close(fast[layer], plain[layer], rtol=1e-4, atol=1e-4)


def test_smallest_image():
    net = VGGTextureExtractor(weights='none')
    assert net(torch.rand(1, 3, 4, 5))['relu3_1'].shape == (1, 256, 1, 1)
    with pytest.raises(ValueError, match=r'3x9.*at least 4 pixels'):
        net(torch.rand(1, 3, 3, 9))
    with pytest.raises(ValueError, match='img is torch.float32 of shape'):
        net(torch.rand(1, 1, 8, 8))


def test_deeper_state_dict_loads_strictly_and_missing_layers_do_not():
    content = torch.load(REPOSITORY / 'experiments/pretrained_models' / HED, weights_only=True)
    net = VGGTextureExtractor('vgg16', 'none')
    kept = dict(content['params'])
    net.load_state_dict(kept)
    assert torch.equal(net.conv3_1.weight, content['params']['conv3_1.weight'])
    assert torch.equal(net.mean, content['params']['mean'])
    assert 'conv4_1.weight' in kept  # the caller's dict is left alone
    del kept['conv2_1.bias']
    with pytest.raises(RuntimeError, match=r'conv2_1\.bias'):
        net.load_state_dict(kept)
    with pytest.raises(RuntimeError, match='conv9_1'):
        net.load_state_dict({**content['params'], 'conv9_1.weight': torch.ones(1)})


def test_errors_name_the_option(tmp_path, torchvision_file):
    with pytest.raises(ValueError, match="vgg_type is 'vgg18'.*Did you mean `vgg1"):
        VGGTextureExtractor('vgg18')
    with pytest.raises(ValueError, match="layer of vgg19 is 'relu3-1'.*Did you mean `relu3_1`"):
        VGGTextureExtractor(weights='none', layers=['relu3-1'])
    with pytest.raises(ValueError, match='must be a list'):
        VGGTextureExtractor(weights='none', layers='relu3_1')
    with pytest.raises(FileNotFoundError, match=r'nowhere\.pth'):
        VGGTextureExtractor(weights='nowhere.pth')
    with pytest.raises(ValueError, match='is a vgg16, but vgg_type is vgg19'):
        VGGTextureExtractor('vgg19', HED)
    with pytest.raises(ValueError, match='ends at relu4_1 and has no conv4_2, conv4_3, conv5_1'):
        VGGTrunk(['relu5_1'], 'vgg16', HED)
    with pytest.raises(ValueError, match='are a vgg19, but vgg_type is vgg16'):
        VGGTextureExtractor('vgg16', str(torchvision_file))
    other = tmp_path / 'other.pth'
    torch.save({'conv.weight': torch.ones(1)}, other)
    with pytest.raises(ValueError, match='no VGG trunk'):
        VGGTextureExtractor(weights=str(other))
    torch.save([1], other)
    with pytest.raises(ValueError, match='holds a list'):
        VGGTextureExtractor(weights=str(other))


@pytest.mark.parametrize('content', [b'', b'not a checkpoint', b'PK\x03\x04 torn'])
def test_file_that_is_no_checkpoint(tmp_path, content):
    path = tmp_path / 'torn.pth'
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r'torn\.pth, which is no PyTorch file'):
        VGGTextureExtractor(weights=str(path))


def _patches(net, img) -> tuple[torch.Tensor, int]:
    """Normalised 3x3 patches of relu3_1, (9C, h*w), and w."""
    feature = net(img)['relu3_1']
    return F.normalize(F.unfold(feature, 3, padding=1)[0], dim=0), feature.shape[-1]


def _rate(query, key, index_query, index_key, width) -> tuple[float, float]:
    """AUC and hits of the cosine similarity between corresponding patches.

    AUC is the share of all other positions that look less alike than the right one; a hit is a
    best match within one position of the right one.
    """
    similarity = query[:, index_query].T @ key
    right = similarity.gather(1, index_key[:, None])
    best = similarity.argmax(1)
    away = torch.maximum(
        (best % width - index_key % width).abs(), (best // width - index_key // width).abs()
    )
    return (right > similarity).float().mean().item(), (away <= 1).float().mean().item()


@pytest.fixture(scope='module')
def nets():
    return VGGTextureExtractor('vgg16', HED), VGGTextureExtractor('vgg16', 'none')


def test_trained_trunk_matches_stereo_views_of_different_exposure(nets, stereo, stereo_paths):
    """True correspondences from the pair's disparity map, right view at 0.4 of its brightness.

    Measured: AUC 0.933 and 67 % hits trained, 0.849 and 20 % untrained. With equal exposure the
    untrained trunk does as well (0.972 and 77 %; trained 0.936 and 79 %).
    """
    disparity = np.load(stereo_paths[0].with_name('motorcycle_disp.npz'))['arr_0']
    top, left, height, width = 120, 160, 256, 400
    window = np.s_[..., top : top + height, left : left + width]
    y, x = (g.ravel() for g in np.mgrid[10 : height - 8 : 16, 10 : width - 8 : 16])
    x_right = x - disparity[window][y, x]
    known = np.isfinite(x_right) & (x_right >= 8)
    y, x, x_right = y[known] // 4, x[known] // 4, (x_right[known] // 4).astype(int)
    index_left, index_right = (torch.from_numpy(y * (width // 4) + v) for v in (x, x_right))
    rates = []
    for net in nets:
        (query, _), (key, w) = (
            _patches(net, view[window]) for view in (stereo[0], 0.4 * stereo[1])
        )
        assert w == width // 4
        rates.append(_rate(query, key, index_left, index_right, w))
    (auc, hits), (auc_untrained, hits_untrained) = rates
    assert auc > 0.9 and auc > auc_untrained + 0.04, rates
    assert hits > 0.55 and hits > hits_untrained + 0.3, rates


def _sift_inliers(path_a, path_b) -> tuple[np.ndarray, np.ndarray]:
    """Mutual SIFT matches that agree with one homography: two (K, 2) arrays of x, y."""
    grey = [cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) for path in (path_a, path_b)]
    sift, matcher = cv2.SIFT_create(contrastThreshold=0.02), cv2.BFMatcher()
    (points_a, a), (points_b, b) = (sift.detectAndCompute(image, None) for image in grey)
    back = {m.queryIdx: m.trainIdx for m in matcher.match(b, a)}
    pairs = [
        m
        for m, second in matcher.knnMatch(a, b, k=2)
        if m.distance < 0.75 * second.distance and back[m.trainIdx] == m.queryIdx
    ]
    xy_a = np.float32([points_a[m.queryIdx].pt for m in pairs])
    xy_b = np.float32([points_b[m.trainIdx].pt for m in pairs])
    cv2.setRNGSeed(0)
    _, inlier = cv2.findHomography(xy_a, xy_b, cv2.RANSAC, 2.0)
    inlier = inlier.ravel().astype(bool)
    return xy_a[inlier], xy_b[inlier]


def test_trained_trunk_matches_real_references(nets, data_root):
    """CUFED5 item 001 and two of its references, photographs of the same place.

    Measured: AUC 0.977 and 0.986 trained, 0.903 and 0.927 untrained.
    """
    folder = data_root / 'cufed5'
    rates = np.zeros((2, 2, 2))
    for row, net in enumerate(nets):
        query, width = _patches(net, read_rgb(folder / '001_0.png'))
        for column, view in enumerate((2, 4)):
            points = _sift_inliers(folder / '001_0.png', folder / f'001_{view}.png')
            assert len(points[0]) >= 30
            key, key_width = _patches(net, read_rgb(folder / f'001_{view}.png'))
            index_query, index_key = (
                torch.from_numpy(((xy + 0.5) // 4).astype(int) @ [1, w])
                for xy, w in zip(points, (width, key_width), strict=True)
            )
            rates[row, column] = _rate(query, key, index_query, index_key, key_width)
    auc = rates[..., 0]
    assert auc[0].min() > 0.95 and auc[0].mean() > auc[1].mean() + 0.03, rates


def test_shipped_trunk_has_features_of_unit_size(stereo):
    """Rescaled to RMS 1 over six photographs; this one is among them."""
    net = VGGTrunk([*LEVELS, 'relu4_1'], 'vgg16', HED)
    for layer, feature in net(stereo[0][..., 120:376, 160:560]).items():
        assert 0.6 < feature.square().mean().sqrt() < 1.6, layer


def test_other_layers_serve_the_same_levels(img):
    """One layer for each level, under the level's name: what reads features need not know."""
    layers = ['relu1_2', 'relu2_2', 'relu3_3']
    net, trunk = VGGTextureExtractor('vgg16', HED, layers), VGGTrunk(layers, 'vgg16', HED)
    found, plain = net(img), trunk(img)
    assert list(found) == LEVELS and net.num_feat == {'relu1_1': 64, 'relu2_1': 128, 'relu3_1': 256}
    for level, layer in zip(LEVELS, layers, strict=True):
        assert torch.equal(found[level], plain[layer])
    for wrong in (
        ['relu1_2'],
        ['relu3_1', 'relu2_1', 'relu1_1'],
        ['relu1_1', 'relu2_1', 'relu4_1'],
    ):
        with pytest.raises(ValueError, match='network_t:layers is .* at each of the strides'):
            VGGTextureExtractor('vgg16', HED, wrong)
