"""SRNTT and its texture loss against the PyTorch port's numbers, planted matches, sizes, files."""

from __future__ import annotations

import json
import re

import pytest
import torch
from basicsr.archs import build_network
from golden_noise import noise, noisy, scene
from golden_weights import layout
from references import prepared, references
from repository import REPOSITORY
from torch.nn import functional as F
from torch.testing import assert_close

from defsr.archs.interface import Alignment
from defsr.archs.levels import LEVEL_FACTORS, MATCH_LEVEL
from defsr.archs.srntt_arch import OFFICIAL, SRNTT
from defsr.archs.transfer_arch import HardTransferArch
from defsr.losses.swapped_texture_loss import SwappedTextureLoss
from defsr.methods.build import method_class
from defsr.methods.matched import Matched
from defsr.tools.convert import convert
from defsr.utils.weights import load_weights

# S-aiueo32/srntt-pytorch at c1ee824 in float64: models/vgg.py without its download, swapper.py,
# srntt.py and losses/texture_loss.py, one after the other; each call with maps of its own, since
# they change the caller's. Interpolated images and blurred references by defsr.ops instead of PIL.
GOLDEN = json.loads((REPOSITORY / 'tests/golden/srntt.json').read_text())
SMALL = {'num_feat': 8, 'num_block': [2, 2, 2, 2]}
TRUNK = {'vgg_type': 'vgg19', 'weights': 'none'}
AS_PUBLISHED = {'match_key': 'ref_down_up', 'match_border': 'inside'}


def official_state(net: SRNTT, gain: float = 2) -> dict[str, torch.Tensor]:
    """Weights by their published names, with the content extractor's own way to an image."""
    begins = {mine: theirs for theirs, mine in OFFICIAL.items()}
    state = {}
    for own, value in net.state_dict().items():
        start = max((mine for mine in begins if own.startswith(mine)), key=len)
        name = begins[start] + own.removeprefix(start)
        name = re.sub(r'\.conv([12])\.', lambda found: f'.body.{2 * int(found[1]) - 2}.', name)
        state[name] = value
    width = len(net.content_head.weight)
    for i, out in ((0, 4 * width), (3, 4 * width), (6, width), (8, 3)):
        state[f'content_extractor.tail.{i}.weight'] = torch.zeros(out, width, 3, 3)
        state[f'content_extractor.tail.{i}.bias'] = torch.zeros(out)
    return noisy(state, gain)


def filled(**options) -> SRNTT:
    net = SRNTT(**(SMALL | options)).double()
    net.load_state_dict(net.from_official(official_state(net)))
    return net


@pytest.fixture(scope='module')
def method() -> Matched:
    net_t = build_network({'type': 'VGGTextureExtractor', **TRUNK}).double()
    net_t.load_state_dict(noisy(net_t.state_dict(), 2))
    return Matched(build_network({'type': 'BicubicEnhancer'}), net_t, **AS_PUBLISHED)


@pytest.fixture(scope='module')
def images() -> tuple[torch.Tensor, torch.Tensor]:
    """lq (2, 3, 10, 12) and a reference (2, 3, 44, 64) of the same scene."""
    picture = scene('scene', 2, 3, 72, 84)
    return F.avg_pool2d(picture[..., 4:44, 6:54], 4), picture[..., 8:52, 10:74].contiguous()


@pytest.fixture(scope='module')
def aligned(method, images) -> Alignment:
    return method.align(method.enhance(images[0]), prepared(method, [images[1]]))


def golden(values) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_its_own_swap(aligned):
    """Index, similarity (its norms have 1e-5 added) and the swapped maps of all levels."""
    inside = aligned.index[:, 1:-1, 1:-1]
    rows, columns = inside // 16 - 1, inside % 16 - 1  # its index is of top left corners
    assert torch.equal((14 * rows + columns).flatten(1), torch.tensor(GOLDEN['index']))
    confidence = aligned.confidence[:, 1:-1, 1:-1].flatten()
    assert_close(confidence, golden(GOLDEN['weights']), rtol=0, atol=1e-5)
    textures = SRNTT(**SMALL).swap(aligned)
    for level, values in GOLDEN['maps'].items():
        found = textures[level][:, ::29, ::3, ::5].flatten()
        assert_close(found, golden(values), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize('use_confidence', [True, False])
def test_its_own_numbers(method, images, use_confidence):
    """The image, and the gradients of a fixed random projection of it."""
    lq, ref = images
    want = GOLDEN['weighted' if use_confidence else 'plain']
    net = filled(use_confidence=use_confidence)
    sr = method.restore(net, lq, prepared(method, [ref])).sr
    assert_close(sr[:, :, ::7, ::9].flatten().detach(), golden(want['sr']), rtol=0, atol=1e-5)
    loss = (sr * (noise('loss', *sr.shape) - 0.5)).sum()
    loss.backward()
    assert_close(loss.detach(), golden(want['loss']), rtol=1e-5, atol=0)
    own = {
        name: torch.cat([p.grad.norm().view(1), p.grad.flatten()[:3]])
        for name, p in net.named_parameters()
    }
    theirs = net.from_official({name: golden(values) for name, values in want['grad'].items()})
    assert own.keys() == theirs.keys()
    for name, found in own.items():
        assert_close(found, theirs[name], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    ('name', 'options'),
    [
        ('weighted', {}),
        ('mild', {'slope': -2.0}),
        ('plain', {'use_confidence': False}),
    ],
)
def test_its_own_texture_loss(method, images, name, options):
    """It takes H and W of a square image, 48 here, where ours takes a level's own size."""
    lq, ref = images
    out = method.restore(filled(), lq, prepared(method, [ref]))
    x = scene('scene', 2, 3, 72, 84)[..., 4:44, 6:54].clone().requires_grad_()
    loss = SwappedTextureLoss(**TRUNK, criterion='fro', loss_weight=1.0, **options).double()
    loss.vgg.load_state_dict(method.net_t.state_dict())
    out.sr = x
    value = loss(out, None, filled())
    value.backward()
    want, factor = GOLDEN[f'texture_{name}'], (48 * 48 / (10 * 12)) ** 2
    assert_close(value.detach(), factor * golden(want['loss']), rtol=1e-4, atol=0)
    found = torch.cat([x.grad.norm().view(1), x.grad[:, :, ::9, ::11].flatten()])
    scale = factor * want['grad'][0]
    assert_close(found / scale, golden(want['grad']) / want['grad'][0], rtol=0, atol=1e-4)


@pytest.mark.parametrize(('use_confidence', 'key'), [(True, 'layout'), (False, 'layout_plain')])
def test_a_published_file_loads(use_confidence, key, tmp_path):
    """Bare, as its training saves it, and with the prefix of parallel training."""
    made = SRNTT(use_confidence=use_confidence)
    state = official_state(made)
    assert layout(state) == tuple(GOLDEN[key])
    torch.save({f'module.{name}': value for name, value in state.items()}, tmp_path / 'o.pth')
    load_weights(made, tmp_path / 'o.pth', option='path:pretrain_network_g', network='network_g')
    theirs = state['texture_transfer.body_medium.3.body.2.weight']
    assert torch.equal(made.state_dict()['stage.relu2_1.body.3.conv2.weight'], theirs)
    found = convert(tmp_path / 'o.pth')
    assert (found.source, found.network['type']) == (SRNTT.official_source, 'SRNTT')
    assert found.network['use_confidence'] is use_confidence
    for other in (made.state_dict(), {'conv_first.weight': torch.zeros(1)}):
        with pytest.raises(KeyError):
            made.official_block(other)
    with pytest.raises(KeyError):
        made.from_official({**state, 'texture_transfer.norm.weight': torch.zeros(1)})


@pytest.mark.parametrize('layout_of', ['port', 'MSRResNet', 'MMSR'])
def test_starts_from_a_trained_content_extractor(layout_of, tmp_path):
    """The published one alone, and BasicSR's MSRResNet by its names and by its forerunner's."""
    if layout_of == 'port':
        state = {
            name.removeprefix('content_extractor.'): value
            for name, value in official_state(SRNTT()).items()
            if name.startswith('content_extractor.')
        }
        assert layout(state) == tuple(GOLDEN['layout_content'])
        first, last = state['head.0.weight'], state['body.15.body.2.bias']
    else:
        state = noisy(build_network({'type': 'MSRResNet'}).state_dict())
        first, last = state['conv_first.weight'], state['body.15.conv2.bias']
        if layout_of == 'MMSR':
            new = {'body.': 'recon_trunk.', 'conv_hr.': 'HRconv.'}
            for ours, theirs in new.items():
                state = {re.sub(f'^{ours}', theirs, name): v for name, v in state.items()}
    torch.save(state, tmp_path / 'content.pth')
    net = SRNTT()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    where = {'option': 'path:pretrain_network_g', 'network': 'network_g'}
    load_weights(net, tmp_path / 'content.pth', strict=False, **where)
    after = net.state_dict()
    assert torch.equal(after['content_head.weight'], first)
    assert torch.equal(after['content_body.15.conv2.bias'], last)
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed == {name for name in after if name.startswith('content_')}
    with pytest.raises(ValueError, match='is of another architecture than network_g: .* missing'):
        load_weights(net, tmp_path / 'content.pth', **where)


def test_a_planted_copy_is_swapped_in(method):
    """The reference is the input moved by whole cells: its own maps come back, moved."""
    picture = scene('planted', 2, 3, 80, 96)
    here, ref = picture[..., 8:56, 12:76], picture[..., 4:60, 4:84]
    ready = prepared(method, [ref])
    ready.keys[MATCH_LEVEL] = method.net_t(ref)[MATCH_LEVEL]  # as sharp as the query
    found = method.align(here, ready)
    rows, columns = torch.meshgrid(torch.arange(12), torch.arange(16), indexing='ij')
    own = (rows + 1) * 20 + columns + 2
    inside = (slice(None), slice(2, -2), slice(2, -2))  # the trunk pads with zeros
    assert torch.equal(found.index[inside], own.expand(2, -1, -1)[inside])
    textures = SRNTT(**SMALL).swap(found)
    for level, factor in LEVEL_FACTORS.items():
        plain = ready.feat_ref[level][..., factor : 13 * factor, 2 * factor : 18 * factor]
        middle = (..., slice(3 * factor, 9 * factor), slice(3 * factor, 13 * factor))
        assert_close(textures[level][middle], plain[middle])


@pytest.mark.parametrize(
    ('size', 'key_size'), [((5, 7), (6, 4)), ((3, 4), (3, 9)), ((2, 1), (4, 4))]
)
def test_swapped_patches_lie_inside(rng, size, key_size):
    """Patch by patch, added up and divided by how many there are."""
    feat = {'relu2_1': torch.rand(2, 6, 2 * key_size[0], 2 * key_size[1], generator=rng)}
    inner = [max(1, side - 2) for side in size]
    top = torch.randint(0, key_size[0] - 2, (2, *inner), generator=rng)
    left = torch.randint(0, key_size[1] - 2, (2, *inner), generator=rng)
    total, count = torch.zeros(2, 6, 2 * (inner[0] + 2), 2 * (inner[1] + 2)), 0
    count = torch.zeros_like(total)
    for n in range(2):
        for y in range(inner[0]):
            for x in range(inner[1]):
                i, j = 2 * int(top[n, y, x]), 2 * int(left[n, y, x])
                to = (n, slice(None), slice(2 * y, 2 * y + 6), slice(2 * x, 2 * x + 6))
                total[to] += feat['relu2_1'][n, :, i : i + 6, j : j + 6]
                count[to] += 1
    # Every position goes with the nearest patch inside.
    rows = (torch.arange(size[0]) - 1).clamp(0, inner[0] - 1)
    columns = (torch.arange(size[1]) - 1).clamp(0, inner[1] - 1)
    y = top[:, rows][..., columns] + (torch.arange(size[0]) - rows)[:, None]
    x = left[:, rows][..., columns] + torch.arange(size[1]) - columns
    index = y * key_size[1] + x
    found = HardTransferArch({'relu2_1': 6}, patches='inside')(
        Alignment({}, feat, index, torch.ones(2, *size), key_size)
    )
    want = (total / count)[..., : 2 * size[0], : 2 * size[1]]
    assert_close(found['relu2_1'], want)


@pytest.mark.parametrize('size', [(9, 14), (12, 7)])
@pytest.mark.parametrize('sizes', [[(36, 64)], [(29, 50), (60, 31), (28, 28)]])
def test_any_sizes_and_any_number_of_references(method, rng, size, sizes):
    net = filled()
    lq = torch.rand(2, 3, *size, generator=rng).double()
    refs = [torch.rand(2, 3, *side, generator=rng).double() for side in sizes]
    with torch.no_grad():
        both = method.super_resolve(net, lq, references(refs))
        one = method.super_resolve(net, lq[1:], references([ref[1:] for ref in refs]))
    assert both.sr.shape == (2, 3, 4 * size[0], 4 * size[1])
    assert_close(both.sr[1:], one.sr)
    assert int(both.winner.max()) == len(sizes) - 1


def test_tiles_agree_with_the_whole(method, images):
    """Without weights, which are interpolated between the corners of whatever there is."""
    picture = scene('tiles', 1, 3, 160, 48)
    lq, refs = F.avg_pool2d(picture, 4), references([picture[..., 20:100, 8:48]])
    for use_confidence in (False, True):
        net = filled(use_confidence=use_confidence, num_block=[1, 1, 1, 1])
        with torch.no_grad():
            whole = method.super_resolve(net, lq, refs)
            tiled = method.super_resolve(net, lq, refs, tile=20, overlap=12)
        assert torch.equal(whole.index, tiled.index)
        off = float((tiled.sr - whole.sr).abs().max() / whole.sr.std())
        assert off < (1e-2 if use_confidence else 1e-9)


def test_refuses_what_does_not_fit(method, images):
    opt = {'network_g': {'type': 'SRNTT'}}
    assert method_class(opt) is Matched
    block = {'num_block': [2, 2, 2], 'num_ch': None}
    with pytest.raises(ValueError, match=r'network_g:num_block is .* must have 4 entries'):
        SRNTT.check('network_g', block)
    with pytest.raises(ValueError, match='network_g:num_ch must have all of'):
        SRNTT.check('network_g', {'num_block': [1] * 4, 'num_ch': {'relu1_1': 3}})
    with pytest.raises(ValueError, match='query .* must both have a patch of 3x3 inside'):
        method.align(method.enhance(images[0]), prepared(method, [images[1][..., :8]]))
    with pytest.raises(ValueError, match='match_border is inside, but match_search is coarse'):
        Matched(method.net_e, method.net_t, match_search='coarse_to_fine', **AS_PUBLISHED)
    with pytest.raises(ValueError, match="match_border is 'mirror'"):
        Matched(method.net_e, method.net_t, match_border='mirror')
