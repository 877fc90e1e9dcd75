"""TTSR against its own code's numbers, planted places, sizes, files."""

from __future__ import annotations

import json
from functools import partial

import pytest
import torch
from golden_noise import noise, noisy, scene
from golden_weights import layout
from references import references
from repository import REPOSITORY
from torch.testing import assert_close

from defsr.archs.ttsr_arch import OFFICIAL, TTSR
from defsr.diffusion.degradation import Degradation
from defsr.losses.transferal_perceptual_loss import TransferalPerceptualLoss
from defsr.methods.build import trained_with
from defsr.methods.from_references import FromReferences
from defsr.ops import upsample_bicubic
from defsr.utils.weights import load_weights

GOLDEN = json.loads((REPOSITORY / 'tests/golden/ttsr.json').read_text())
SMALL = {'num_feat': 16, 'num_block': [1, 2, 1, 1], 'vgg_type': 'vgg16', 'weights': 'none'}
golden = partial(torch.tensor, dtype=torch.float64)


def official_name(own: str) -> str:
    begins = {mine: theirs for theirs, mine in OFFICIAL.items()}
    start = next(mine for mine in begins if own.startswith(mine))
    return begins[start] + own.removeprefix(start)


def official_state(net: TTSR) -> dict[str, torch.Tensor]:
    """Weights by their published names."""
    own = {k: v for k, v in net.state_dict().items() if k not in ('lte.mean', 'lte.std')}
    state = noisy({official_name(key): value for key, value in own.items()}, LTE=2.0)
    for name, values in GOLDEN['sub_mean'].items():
        shape = (3, 3, 1, 1) if name.endswith('weight') else (3,)
        state[name] = torch.tensor(values).view(shape)
    return state


def filled(**options) -> TTSR:
    net = TTSR(**(SMALL | options)).double()
    net.load_state_dict(net.from_official(official_state(net)))
    return net


@pytest.fixture(scope='module')
def net() -> TTSR:
    return filled()


def images(size, ref_size):
    height, width = size
    picture = scene('scene', 2, 3, 192, 160)
    lq = torch.nn.functional.avg_pool2d(picture[..., 4 : 4 + 4 * height, 8 : 8 + 4 * width], 4)
    return lq, picture[..., 16 : 16 + ref_size[0], 20 : 20 + ref_size[1]].contiguous()


def gradients(net: TTSR) -> dict[str, torch.Tensor]:
    grads = {name: p.grad for name, p in net.named_parameters() if p.grad is not None}
    net.zero_grad()
    return {official_name(name): grad for name, grad in grads.items()}


@pytest.mark.parametrize('case', ['same', 'larger', 'smaller'])
def test_its_own_codes_numbers(net, case):
    """researchmm/TTSR at 550e4c9: model/TTSR.py and loss/loss.py, in float64.

    Replaced: the VGG that it would download, whose weights are by the formula of all others. The
    interpolated images that it is given are ours (its data set's are PIL's of 8 bits). About 3 % of
    the result are beyond the range and clamped. Gradients: of a fixed random projection, and of the
    transferal perceptual loss as published and with the attention.
    """
    want = GOLDEN['cases'][case]
    lq, ref = images(want['size'], want['ref_size'])
    out = net(lq, [ref])
    near = partial(assert_close, rtol=1e-5, atol=1e-6)  # its shift and factor are float32
    near(out.sr[:, :, ::7, ::9].flatten().detach(), golden(want['sr']))
    near(out.attention[:, :, ::3, ::4].flatten().detach(), golden(want['S']))
    for texture, values in zip(out.textures.values(), want['T'], strict=True):
        near(texture[:, ::9, ::6, ::7].flatten().detach(), golden(values))
    loss = (out.sr * (noise('loss', *out.sr.shape) - 0.5)).sum()
    near(loss.detach(), golden(want['loss']))
    loss.backward(retain_graph=True)
    found = gradients(net)
    assert found.keys() == want['grad'].keys()
    for name, values in want['grad'].items():
        near(torch.cat([found[name].norm().view(1), found[name].flatten()[:3]]), golden(values))
    for criterion, use_soft_attention in (('l2', False), ('l1', True)):
        loss = TransferalPerceptualLoss(1, criterion, use_soft_attention)(out, lq, net)
        near(loss.detach(), golden(want['tpl'][criterion]['value']))
        loss.backward(retain_graph=True)
        found = gradients(net)
        assert found.keys() == want['tpl'][criterion]['grad'].keys()
        for name, value in want['tpl'][criterion]['grad'].items():
            near(found[name].norm().view(1), golden(value))


def test_a_published_file_loads(tmp_path):
    """Names and shapes of theirs; of 6,729,603 parameters all are used. A bare state dict."""
    made = TTSR(weights='none')
    state = official_state(made)
    assert layout(state) == tuple(GOLDEN['layout'])
    block = TTSR.official_block(state)
    assert block == {
        'num_feat': 64, 'num_block': [16, 16, 8, 4], 'degradation': 'pil', 'weights': 'none',
    }  # fmt: skip
    assert sum(p.numel() for p in made.parameters()) == GOLDEN['parameters']
    for number, names in enumerate(['', 'module.']):
        file = tmp_path / f'TTSR{number}.pt'
        torch.save({names + key: value for key, value in state.items()}, file)
        load_weights(made, file, option='path:x', network='network_g')
        want = state['MainNet.merge_tail.conv_tail2.weight']
        assert torch.equal(made.aggregator.last_layer.weight.detach(), want)
    untouched = TTSR(weights='none').lte
    assert_close(made.lte.std, untouched.std, rtol=1e-6, atol=0)
    assert_close(made.lte.mean, untouched.mean, rtol=1e-6, atol=0)
    for refuse in (TTSR.official_block, TTSR.from_official):
        with pytest.raises(KeyError):
            refuse({'conv_first.weight': torch.zeros(1)})


@pytest.fixture
def trunk() -> TTSR:
    torch.manual_seed(0)
    return TTSR(**SMALL | {'weights': 'vgg16_trunk_hed.pth', 'overlap': 'count'})


def test_textures_of_the_own_image_are_its_features(trunk, stereo):
    """The GT as reference: each position finds itself and its own features."""
    gt = stereo[0][..., 100:180, 200:320]
    lq = trunk.degradation.degrade(gt)
    with torch.no_grad():
        out = trunk(lq, [gt])
        feat = trunk.lte(gt)
    own = torch.arange(out.index[0].numel()).view_as(out.index[0])
    assert (out.index[0] == own).float().mean() > 0.9
    for level, texture in out.textures.items():
        scale = feat[level].abs().mean()
        assert (texture - feat[level]).abs().mean() < 0.1 * scale, level
    assert out.attention.min() > 0.9


def test_several_references_are_one(trunk, stereo):
    """Each position takes the reference that shows it, the textures with it, whatever the order."""
    gt = stereo[0][..., 100:160, 200:360]
    lq = trunk.degradation.degrade(gt)
    left, right = gt[..., :48, :80], gt[..., 80:]
    with torch.no_grad():
        both, swapped = trunk(lq, [left, right]), trunk(lq, [right, left])
        alone = trunk(lq, [right])
    assert (both.winner[0, 1:11, 1:19] == 0).float().mean() > 0.8
    assert (both.winner[0, :, 21:] == 1).float().mean() > 0.8
    assert_close(both.attention, swapped.attention, rtol=0, atol=1e-5)
    inner = ..., slice(8, 12), slice(30, 36)  # far from what the other reference reaches
    assert_close(both.attention[inner], alone.attention[inner], rtol=0, atol=1e-5)
    for level, factor in (('relu1_1', 4), ('relu3_1', 1)):
        inner = ..., slice(8 * factor, 12 * factor), slice(30 * factor, 36 * factor)
        assert_close(both.textures[level][inner], alone.textures[level][inner], atol=1e-4, rtol=0)
    assert not torch.equal(both.sr, alone.sr)


@pytest.mark.parametrize('size', [(9, 13), (16, 7)])
@pytest.mark.parametrize('ref_sizes', [[(41, 30)], [(24, 52), (35, 19)]])
def test_any_sizes_and_tiles(net, size, ref_sizes):
    """One tile of all is the same as none; smaller ones share one reading of the references."""
    lq = noise('lq', 2, 3, *size)
    refs = references([noise('ref', 2, 3, *each) for each in ref_sizes])
    method = FromReferences(Degradation('matlab', 4))
    whole = method.super_resolve(net, lq, refs)
    assert whole.sr.shape == (2, 3, 4 * size[0], 4 * size[1])
    reads = []
    hook = net.lte.register_forward_hook(lambda *args: reads.append(1))
    tiled = method.super_resolve(net, lq, refs, tile=16, overlap=0)
    hook.remove()
    assert_close(tiled.sr, whole.sr.detach(), rtol=0, atol=1e-10)
    assert torch.equal(tiled.index, whole.index) and len(reads) == 2 * len(refs) + 1
    parts = method.super_resolve(net, lq, refs, tile=8, overlap=4)
    assert parts.sr.shape == whole.sr.shape and torch.isfinite(parts.sr).all()


def test_a_skip_starts_from_the_interpolated_image(stereo):
    lq = stereo[0][..., 100:120, 200:230].repeat(2, 1, 1, 1)
    net = TTSR(**SMALL, skip='bicubic')
    sr = net(lq, [stereo[1][..., 100:140, 200:240].repeat(2, 1, 1, 1)]).sr
    assert_close(sr, upsample_bicubic(lq, 4).clamp(0, 1), rtol=0, atol=1e-6)


def test_pil_softens_as_pil_does(net, stereo):
    ref = stereo[1][..., 100:140, 200:240]
    pil = TTSR(**SMALL, degradation='pil')
    found = pil.encode([ref])
    small = Degradation('pil', 4).degrade(ref)
    want = pil.lte(upsample_bicubic(small, 4, 'pil').clamp(0, 1))['relu3_1']
    assert_close(found.key, want, rtol=0, atol=1e-6)


def test_weights_do_not_remember_what_they_started_from():
    opt = {'network_g': {'type': 'TTSR', 'weights': 'vgg16_trunk_hed.pth', 'degradation': 'pil'}}
    block = trained_with(opt)['network_g']
    assert block == trained_with({'network_g': {'type': 'TTSR'}})['network_g']
    assert block['overlap'] == 'nine' and 'weights' not in block


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'num_block': [1, 2]}, 'network_g:num_block is .* must have 4 entries'),
        ({'skip': 'de'}, "network_g:skip is 'de'"),
        ({'degradation': 'bilinear'}, "network_g:degradation is 'bilinear'"),
        ({'overlap': 'ten'}, "overlap is 'ten'"),
    ],
)
def test_options_that_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        TTSR(**SMALL | options)


def test_its_loss_wants_a_network_that_has_textures(net):
    lq, ref = images((8, 8), (32, 32))
    out = net(lq, [ref])
    with pytest.raises(ValueError, match='train:transferal_opt is for a network_g with .*Linear'):
        TransferalPerceptualLoss()(out, lq, torch.nn.Linear(1, 1))
    with pytest.raises(ValueError, match="train:transferal_opt:criterion is 'fro'"):
        TransferalPerceptualLoss(criterion='fro')
