"""SRResNet and Ranker against RankSRGAN's own code: layouts, results, gradients, two steps."""

from __future__ import annotations

import json

import pytest
import torch
from basicsr.archs import build_network
from golden_weights import fill, formula, image, layout
from repository import REPOSITORY
from torch import nn
from torch.testing import assert_close

from defsr.archs.ranksrgan_arch import Ranker, SRResNet
from defsr.tools.convert import convert

# XPixelGroup/RankSRGAN at b313c24, codes/models/archs/RankSRGAN_arch.py as it is, in float64; the
# steps are those of its Ranker_model.py, written out. Weights and images: golden_weights.py.
GOLDEN = json.loads((REPOSITORY / 'tests/golden/ranksrgan.json').read_text())


def tensor(values) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def filled(net: nn.Module, gain: float) -> nn.Module:
    net = net.double()
    net.load_state_dict(fill(net.state_dict(), gain))
    return net


def test_layouts_of_the_published_files():
    """Number of tensors, and SHA-256 of their names and shapes."""
    assert layout(SRResNet().state_dict()) == tuple(GOLDEN['srresnet_layout'])
    assert layout(Ranker().state_dict()) == tuple(GOLDEN['ranker_layout'])


@pytest.mark.parametrize('upscale', [2, 3, 4])
def test_numbers_of_the_generator(upscale):
    net = filled(SRResNet(num_feat=16, num_block=3, upscale=upscale), 0.9)
    want = GOLDEN[f'srresnet_x{upscale}']
    out = net(image(2, 3, 11, 9))
    scale = float(tensor(want['out']).abs().max())
    assert_close(
        out[:, :, ::7, ::6].flatten() / scale, tensor(want['out']) / scale, rtol=0, atol=1e-9
    )
    (out * formula('loss', out.shape)).sum().backward()
    for name, parameter in net.named_parameters():
        found = torch.cat([parameter.grad.norm().view(1), parameter.grad.flatten()[:3]])
        assert_close(found, tensor(want['grad'][name]), rtol=1e-8, atol=1e-12)


def pair() -> tuple[torch.Tensor, torch.Tensor]:
    first = image(2, 3, 64, 64)
    more = formula('b', torch.Size((2, 3, 64, 64))).abs() * 0.3
    return first, first.flip(3).mul(0.7) + more


def test_two_steps_of_the_ranker():
    """Scores, loss and gradients of both; weights and running statistics after them."""
    net = filled(Ranker(), 3).train()
    images, label = pair(), tensor([[1], [-1]])
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-4, weight_decay=1e-4)
    for want in GOLDEN['ranker_steps']:
        scores = [net(each) for each in images]
        assert_close(torch.cat(scores, 1), tensor(want['scores']).T, rtol=1e-8, atol=1e-9)
        clamped = [score.clamp(-5, 5) for score in scores]
        loss = nn.functional.margin_ranking_loss(*clamped, label, margin=0.5)
        assert loss.item() == pytest.approx(want['loss'], rel=1e-8)
        optimizer.zero_grad()
        loss.backward()
        found = {name: p.grad.norm().item() for name, p in net.named_parameters()}
        assert found == pytest.approx(want['grad'], rel=1e-6, abs=1e-9)
        optimizer.step()
    found = {name: value.double().norm().item() for name, value in net.state_dict().items()}
    assert found == pytest.approx(GOLDEN['ranker_norms'], rel=1e-6)


def test_a_score_is_of_one_image_of_any_size():
    net = filled(Ranker(num_feat=4), 3).eval()
    images = image(2, 3, 40, 67)
    assert_close(net(images), torch.cat([net(images[:1]), net(images[1:])]))
    assert (
        net(images).shape == (2, 1) and abs(float((net(images)[0] - net(images)[1]).detach())) > 0
    )
    with pytest.raises(ValueError, match='image is 31x64 .*needs 32 pixels per side'):
        net(image(2, 3, 31, 64))


@pytest.mark.parametrize(
    'block',
    [
        {'type': 'SRResNet', 'num_feat': 8, 'num_block': 2, 'upscale': 4},
        {'type': 'SRResNet', 'num_feat': 8, 'num_block': 3, 'upscale': 3},
        {'type': 'SRResNet', 'num_feat': 8, 'num_block': 1, 'upscale': 2},
        {'type': 'Ranker', 'num_feat': 4},
    ],
)
def test_their_files_are_told(tmp_path, block):
    """Bare state dicts, as its training saves them; MSRResNet is not meant."""
    net = build_network(dict(block))
    torch.save(net.state_dict(), tmp_path / 'mmsr.pth')
    found = convert(tmp_path / 'mmsr.pth')
    assert found.source == 'RankSRGAN: XPixelGroup/RankSRGAN'
    assert {key: found.network[key] for key in block} == block
    net.load_state_dict(found.state)


@pytest.mark.parametrize('size', [(7, 12), (16, 9)])
def test_two_images_are_two(size):
    net = filled(SRResNet(num_feat=8, num_block=2), 0.9)
    lq = image(2, 3, *size)
    assert_close(net(lq), torch.cat([net(lq[:1]), net(lq[1:])]))
    assert net(lq).shape == (2, 3, 4 * size[0], 4 * size[1])
