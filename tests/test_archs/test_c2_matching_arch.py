"""C2-Matching against its own code's numbers, planted matches, sizes, tiles and files."""

from __future__ import annotations

import json

import pytest
import torch
from basicsr.archs import build_network
from golden_noise import noise, noisy, scene
from golden_weights import layout
from references import assert_takes_any_sizes, prepared, references
from repository import REPOSITORY
from torch.testing import assert_close

from defsr.archs.c2_matching_arch import OFFICIAL, C2Matching
from defsr.archs.contrastive_extractor_arch import ContrastiveExtractor
from defsr.archs.interface import Correspondences
from defsr.archs.levels import LEVEL_FACTORS, MATCH_LEVEL
from defsr.diffusion.degradation import Degradation
from defsr.methods.build import method_class
from defsr.methods.corresponding import Corresponding
from defsr.ops import upsample_bicubic
from defsr.utils.weights import load_weights

GOLDEN = json.loads((REPOSITORY / 'tests/golden/c2_matching.json').read_text())
SMALL = {'num_feat': 8, 'num_block': 2, 'num_group': 4}
MATLAB = Degradation('matlab', 4)


def official_name(own: str) -> str:
    """Of a parameter of ours, by the longest start that is known."""
    begins = {mine: theirs for theirs, mine in OFFICIAL.items()}
    start = max((mine for mine in begins if own.startswith(mine)), key=len)
    return begins[start] + own.removeprefix(start)


def official_trunk_name(own: str) -> str:
    trunk, name = own.split('.', 1)
    inner = name if name in ('mean', 'std') else f'model.{name}'
    return f'feature_extraction_image{["query", "key"].index(trunk) + 1}.{inner}'


def official_state(net, gain=2.0):
    """Weights by their published names."""
    name = official_trunk_name if isinstance(net, ContrastiveExtractor) else official_name
    state = {name(key): value for key, value in net.state_dict().items()}
    return noisy(state, gain, conv_offset_mask=0.05)


def filled(**options) -> C2Matching:
    net = C2Matching(**(SMALL | options)).double()
    net.load_state_dict(net.from_official(official_state(net)))
    return net


@pytest.fixture(scope='module')
def method() -> Corresponding:
    net_m = ContrastiveExtractor().double()
    net_m.load_state_dict(net_m.from_official(official_state(net_m)))
    trunk = {'type': 'VGGTextureExtractor', 'vgg_type': 'vgg16', 'weights': 'none'}
    net_t = build_network(trunk).double()
    net_t.load_state_dict(noisy(net_t.state_dict(), 2))
    return Corresponding(net_m.requires_grad_(False), net_t, MATLAB)


@pytest.fixture(scope='module')
def images() -> tuple[torch.Tensor, torch.Tensor]:
    """lq (2, 3, 12, 14) and a reference (2, 3, 48, 56) of the same scene, moved by (12, 12)."""
    picture = scene('scene', 2, 3, 72, 84)
    lq = torch.nn.functional.avg_pool2d(picture[..., 4:52, 6:62], 4)
    return lq, picture[..., 16:64, 18:74].contiguous()


def golden(name: str) -> torch.Tensor:
    return torch.tensor(GOLDEN[name], dtype=torch.float64)


def test_its_own_codes_numbers(method, images):
    """yumingj/C2-Matching at 6d60149 in float64, ``_ext`` replaced by torchvision's operator.

    ContrasExtractorSep, CorrespondenceGenerationArch and RestorationNet one after the other, of
    inputs of one size; the gradients of a fixed random projection of the image.
    """
    lq, ref = images
    net, ready = filled(), prepared(method, [ref])
    matches = method.match(lq, ready)
    own = torch.stack(torch.meshgrid(torch.arange(12), torch.arange(14), indexing='ij')) + 1
    flow = matches.ring[..., 2:, 2:] - own  # of the patch at each top left corner
    assert torch.equal(flow.flatten(1), golden('flow').long())
    feat = method.net_m.query(upsample_bicubic(lq, 4).clamp(0, 1))[MATCH_LEVEL]
    assert_close(feat[:, ::37, ::3, ::4].flatten(), golden('feat'), rtol=0, atol=1e-9)
    sr = method.restore(net, lq, ready).sr
    assert_close(sr[:, :, ::7, ::9].flatten().detach(), golden('sr'), rtol=1e-6, atol=1e-6)
    loss = (sr * (noise('loss', *sr.shape) - 0.5)).sum()
    loss.backward()
    assert_close(loss.detach(), golden('loss'), rtol=1e-6, atol=0)
    for name, parameter in net.named_parameters():
        gradient = parameter.grad
        found = torch.cat([gradient.norm().view(1), gradient.flatten()[:3]])
        want = torch.tensor(GOLDEN['grad'][official_name(name)], dtype=torch.float64)
        assert_close(found, want, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ('net', 'key'), [(C2Matching, 'layout'), (ContrastiveExtractor, 'layout_extractor')]
)
def test_a_published_file_loads(net, key, tmp_path):
    """Bare, as they are published, and with the prefix of parallel training."""
    made = net()
    state = official_state(made)
    assert layout(state) == tuple(GOLDEN[key])
    assert layout(net(**net.official_block(state)).state_dict()) == layout(made.state_dict())
    torch.save({f'module.{name}': value for name, value in state.items()}, tmp_path / 'o.pth')
    load_weights(made, tmp_path / 'o.pth', option='path:pretrain_network_g', network='network_g')
    first = 'content_head.weight' if net is C2Matching else 'query.conv1_1.weight'
    name = official_name if net is C2Matching else official_trunk_name
    assert torch.equal(made.state_dict()[first], state[name(first)])
    for other in (made.state_dict(), {'conv_first.weight': torch.zeros(1)}):
        with pytest.raises((KeyError, ValueError)):
            net.official_block(other)
        with pytest.raises((KeyError, ValueError)):
            net.from_official(other)


@pytest.mark.parametrize('factor_level', LEVEL_FACTORS.items())
@pytest.mark.parametrize('tap', [(0, 0), (-1, 1)])
def test_a_tap_reads_its_patchs_match(rng, factor_level, tap):
    """Kernel 1 at one tap d: half of F(f * (match(P - d) + d) + r + d), the masks being 1/2."""
    level, factor = factor_level
    net = C2Matching(num_feat=4, num_block=0, num_group=2, num_ch=dict.fromkeys(LEVEL_FACTORS, 4))
    stage = net.stage[level]
    seen = []
    stage.head.register_forward_pre_hook(lambda _, args: seen.append(args[0][:, 4:]))
    with torch.no_grad():
        stage.weight.zero_()
        stage.weight[:, :, 1 + tap[0], 1 + tap[1]] = torch.eye(4)
    ring = torch.randint(0, 9, (2, 2, 7, 8), generator=rng)
    feat = torch.rand(2, 4, 9 * factor, 9 * factor, generator=rng)
    x = torch.zeros(2, 4, 5 * factor, 6 * factor)
    stage(x, feat, x, ring, factor)
    d = torch.tensor(tap)
    for n, y, x in [(0, 0, 0), (1, 2, 3), (0, 5 * factor - 1, 6 * factor - 1)]:
        place = torch.tensor([y, x])
        cell, rest = place // factor, place % factor
        around = cell - d + 1  # in the ring
        at = factor * (ring[n, :, around[0], around[1]] + d) + rest + d
        inside = bool((at >= 0).all() and (at < 9 * factor).all())
        want = feat[n, :, at[0], at[1]] / 2 if inside else torch.zeros(4)
        assert_close(seen[0][n, :, y, x].detach(), want, rtol=0, atol=1e-6)


def test_finds_a_planted_place(method):
    """The reference is larger and has the input's interpolation in it, 8 and 12 pixels away."""
    lq = scene('small', 2, 3, 9, 11)
    ref = scene('around', 2, 3, 60, 72)
    ref[..., 8:44, 12:56] = upsample_bicubic(lq, 4).clamp(0, 1)
    method.net_m.key.load_state_dict(method.net_m.query.state_dict())
    matches = method.match(lq, prepared(method, [ref]))
    own = torch.stack(torch.meshgrid(torch.arange(9), torch.arange(11), indexing='ij'))
    inner = (slice(None), slice(None), slice(3, -3), slice(3, -3))  # the VGG sees the border
    found = matches.ring[..., 1:-1, 1:-1] - own
    assert torch.equal(found[inner], torch.tensor([2, 3]).view(1, 2, 1, 1).expand(2, 2, 3, 5))
    outermost = matches.ring[:, :, 1, :], matches.ring[:, :, :, -2]
    assert torch.equal(outermost[0][0, :, 1], torch.tensor([0, 0]))
    assert torch.equal(outermost[1][0, :, 1], torch.tensor([0, 10]))


@pytest.mark.parametrize('size', [(7, 9), (2, 1)])
@pytest.mark.parametrize('ref_sizes', [[(36, 44)], [(8, 16)], [(20, 16), (28, 53), (17, 40)]])
def test_any_sizes_and_many_references(method, size, ref_sizes):
    assert_takes_any_sizes(method, filled(), size, ref_sizes)


def test_each_reference_wins_where_it_shows_the_scene(method, images):
    lq, ref = images
    other = scene('other', 2, 3, 20, 80)
    alone = method.match(lq, prepared(method, [ref]))
    ready = prepared(method, [other, ref])
    both = method._completed(lq, method.match(lq, ready), ready)
    second = both.winner[:, 1:-1, 1:-1] == 1
    assert float(second.double().mean()) > 0.5
    moved = both.index[:, 1:-1, 1:-1] - 6 * 20  # of rows 20 wide, after 5 rows and a gap
    rows, columns = moved // 20, moved % 20
    same = (rows * 14 + columns == alone.place[:, 1:-1, 1:-1])[second]
    assert bool(same.all())


def test_tiles_are_the_whole(method):
    """The search sees the whole image, and each tile its ring of matches, at the border too."""
    net, lq = filled(num_block=0), scene('long', 1, 3, 7, 40)
    refs = references([scene('long ref', 1, 3, 20, 100)])
    whole = method.super_resolve(net, lq, refs)
    parts = method.super_resolve(net, lq, refs, tile=8, overlap=11)
    assert_close(parts.sr, whole.sr, rtol=0, atol=1e-9)
    assert torch.equal(parts.index, whole.index)


def test_starts_at_its_matches():
    """Untrained, offsets are 0 and masks 1/2; so little is added to the interpolated input."""
    net = C2Matching(**SMALL)
    lq, here = torch.rand(2, 3, 5, 6), {}
    for level, channels in {'relu1_1': 64, 'relu2_1': 128, 'relu3_1': 256}.items():
        factor = LEVEL_FACTORS[level]
        here[level] = torch.rand(2, channels, 5 * factor, 6 * factor)
    ring = torch.zeros(2, 2, 7, 8, dtype=torch.int64)
    sr = net(lq, Correspondences(here, here, ring, torch.zeros(2, 5, 6)))
    up = torch.nn.functional.interpolate(lq, scale_factor=4.0, mode='bilinear')
    assert float((sr - up).detach().abs().max()) < 0.05
    for level in LEVEL_FACTORS:
        assert not any(p.any() for p in net.stage[level].offset[-1].parameters())


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'network_g': {'num_group': 3}}, 'num_group is 3, but must divide the 64 channels'),
        ({'network_g': {'num_ch': {'relu1_1': 8}}}, 'num_ch must have all of'),
        ({'scale': 2}, 'scale is 2, but C2Matching works with 4 only'),
        ({'gate': 'evidence'}, 'gate is evidence, but without rectify'),
    ],
)
def test_refuses(change, message):
    opt = {'network_g': {'type': 'C2Matching'}, 'scale': 4} | change
    opt['network_g'] = {'type': 'C2Matching', 'num_ch': None, 'num_group': 8} | opt['network_g']
    with pytest.raises(ValueError, match=message):
        C2Matching.check('network_g', opt['network_g'])
        method_class(opt).check(opt, Degradation('matlab', opt['scale']))


def test_refuses_no_reference(method):
    with pytest.raises(ValueError, match='A network for correspondences reads references, but'):
        method.prepare(None, [])
