"""MASA-SR against its own code's numbers, planted places, sizes, files."""

from __future__ import annotations

import json

import pytest
import torch
from golden_noise import noise, noisy, scene
from golden_weights import assert_loads_published, layout
from references import references
from repository import REPOSITORY
from torch.testing import assert_close

from defsr.archs.masa_arch import MASA, OFFICIAL, EncodedReferences
from defsr.archs.masa_parts import DualResidualAggregation, SpatialAdaptation
from defsr.diffusion.degradation import Degradation
from defsr.methods.from_references import FromReferences

GOLDEN = json.loads((REPOSITORY / 'tests/golden/masa.json').read_text())
SMALL = {'num_feat': 16, 'num_block': [1, 1, 1], 'num_block_decoder': [1] * 6}


def golden(values) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def official_name(own: str) -> str:
    begins = {mine: theirs for theirs, mine in OFFICIAL.items()}
    start = next(mine for mine in begins if own.startswith(mine))
    return begins[start] + own.removeprefix(start)


def official_state(net, name=official_name):
    """Weights by their published names."""
    return noisy({name(key): value for key, value in net.state_dict().items()})


def filled(**options) -> MASA:
    net = MASA(**(SMALL | options)).double()
    net.load_state_dict(net.from_official(official_state(net)))
    return net


@pytest.fixture(scope='module')
def net() -> MASA:
    return filled()


@pytest.mark.parametrize('case', ['same', 'larger', 'smaller'])
def test_its_own_codes_numbers(net, case):
    """dvlab-research/MASA-SR at 80d1bd8, models/archs/MASA_arch.py, float64, images in BGR.

    Nothing was replaced; the widths and numbers of blocks are smaller, and the reduced reference
    that it is given is MATLAB's, not PIL's of 8 bits. Sizes: input and reference alike, the
    reference larger, the reference smaller; the gradients of a fixed random projection.
    """
    want = GOLDEN['cases'][case]
    (height, width), (ref_height, ref_width) = want['size'], want['ref_size']
    picture = scene('scene', 2, 3, 192, 160)
    lq = torch.nn.functional.avg_pool2d(picture[..., 4 : 4 + 4 * height, 8 : 8 + 4 * width], 4)
    ref = picture[..., 16 : 16 + ref_height, 20 : 20 + ref_width].contiguous()
    warped = []
    net.zero_grad()
    hook = net.adapt.register_forward_pre_hook(lambda _, args: warped.append(args[1].detach()))
    sr = net(lq, [ref]).sr
    hook.remove()
    for i, (texture, values) in enumerate(zip(warped, want['warp'], strict=True)):
        found = texture[:, ::5, :: 5 + 3 * i, ::7].flatten()
        assert_close(found, golden(values), rtol=1e-8, atol=1e-9)
    assert_close(sr[:, :, ::7, ::9].flatten().detach(), golden(want['sr']), rtol=1e-8, atol=1e-9)
    loss = (sr * (noise('loss', *sr.shape) - 0.5)).sum()
    assert_close(loss.detach(), golden(want['loss']), rtol=1e-7, atol=1e-7)
    loss.backward()
    for name, parameter in net.named_parameters():
        if want['grad']:
            gradient = parameter.grad
            found = torch.cat([gradient.norm().view(1), gradient.flatten()[:3]])
            assert_close(found, golden(want['grad'][official_name(name)]), rtol=1e-6, atol=1e-6)


def test_adaptation_and_aggregation_alone():
    """In the whole network a wrong deviation would move the image by 1e-4 only."""
    names = {'shared.0.': 'conv_shared.0.', 'gamma.': 'conv_gamma.', 'beta.': 'conv_beta.'}
    dram = {'down_ref.': 'conv_down_a.', 'up_ref.': 'conv_up_a.', 'down_lr.': 'conv_down_b.'}
    names |= dram | {'up_lr.': 'conv_up_b.', 'merge.': 'conv_cat.'}
    found = []
    for part in (SpatialAdaptation(8).double(), DualResidualAggregation(8).double()):
        own = part.state_dict()
        official = {
            theirs + key.removeprefix(mine): (key, value)
            for key, value in own.items()
            for mine, theirs in names.items()
            if key.startswith(mine)
        }
        made = noisy({name: value for name, (_, value) in official.items()})
        part.load_state_dict({official[name][0]: value for name, value in made.items()})
        found.append(part)
    a, b = (5 * noise(x, 2, 8, 7, 9) + torch.arange(8).view(1, 8, 1, 1) for x in 'ab')
    adapted = found[0](a, b).detach()[:, :, ::2, ::3].flatten()
    assert_close(adapted, golden(GOLDEN['sam']), rtol=1e-9, atol=1e-9)
    merged = found[1](noise('a', 2, 8, 5, 6), noise('c', 2, 8, 10, 12))
    merged = merged.detach()[:, :, ::2, ::3].flatten()
    assert_close(merged, golden(GOLDEN['dram']), rtol=1e-9, atol=1e-9)


def test_an_untrained_adaptation_gives_the_inputs_statistics():
    part, lr = SpatialAdaptation(4).double(), 3 * noise('lr', 2, 4, 9, 8) + 1
    for parameter in (*part.gamma.parameters(), *part.beta.parameters()):
        parameter.data.zero_()
    out = part(lr, noise('ref', 2, 4, 9, 8))
    assert_close(out.mean((2, 3)), lr.mean((2, 3)), rtol=0, atol=1e-12)
    unbiased = lr.flatten(2).std(dim=2)
    assert_close(out.flatten(2).std(dim=2, correction=0), unbiased, rtol=2e-4, atol=0)


def test_a_published_file_loads(tmp_path):
    made = MASA()
    state = official_state(made)
    assert layout(state) == tuple(GOLDEN['layout'])
    assert layout(MASA(**MASA.official_block(state)).state_dict()) == layout(made.state_dict())
    assert_loads_published(made, state, tmp_path)
    assert torch.equal(made.last.weight, state['decoder.conv_out.weight'])


def test_finds_a_planted_place(net):
    """Features of the input, planted elsewhere in a larger key, for two images of a batch."""
    query = noise('query', 2, 4, 16, 16) - 0.5
    key = noise('key', 2, 4, 30, 40) - 0.5
    key[0, :, 7:23, 11:27], key[1, :, 13:29, 2:18] = query
    refs = EncodedReferences((key, key, key), key, [(30, 40)])
    match_yx, winner = net.match(query, refs)
    own = torch.stack(torch.meshgrid(torch.arange(16), torch.arange(16), indexing='ij'))
    for n, place in enumerate(([7, 11], [13, 2])):
        moved = (match_yx[n] - own)[:, 1:-1, 1:-1]  # patches at the input's border repeat it
        assert torch.equal(moved, torch.tensor(place).view(2, 1, 1).expand_as(moved))
    assert int(winner.max()) == 0


def test_each_block_takes_its_best_reference(net):
    """The left half of the input is in one reference, the right half in the other."""
    query = noise('query', 2, 4, 16, 16) - 0.5
    first, second = (noise(name, 2, 4, 20, 18) - 0.5 for name in ('first', 'second'))
    first[:, :, 2:18, 3:11], second[:, :, 4:20, 1:9] = query[..., :8], query[..., 8:]
    key = torch.cat((first, second), dim=2)
    match_yx, winner = net.match(query, EncodedReferences((key, key, key), key, [(20, 18)] * 2))
    assert torch.equal(winner, (torch.arange(16) >= 8).long().expand(2, 16, 16))
    assert match_yx[0, :, 5, 5].tolist() == [7, 8] and match_yx[1, :, 5, 12].tolist() == [29, 5]


@pytest.mark.parametrize('size', [(9, 16), (3, 21)])
@pytest.mark.parametrize('ref_sizes', [[(36, 44)], [(4, 8)], [(20, 16), (28, 53), (17, 40)]])
def test_any_sizes_and_many_references(net, size, ref_sizes):
    lq = scene('lq', 2, 3, *size)
    refs = [scene(f'ref {i}', 2, 3, *sides) for i, sides in enumerate(ref_sizes)]
    method = FromReferences(Degradation('matlab', 4))
    found = method.super_resolve(net, lq, references(refs))
    assert found.sr.shape == (2, 3, 4 * size[0], 4 * size[1]) and found.sr.isfinite().all()
    for matches in (found.index, found.confidence, found.winner, found.attention[:, 0]):
        assert matches.shape == (2, *size)
    assert int(found.winner.max()) < len(refs)
    assert int(found.index.max()) < found.key_size[0] * found.key_size[1]


def test_references_are_encoded_once_for_all_tiles(net, monkeypatch):
    lq, refs = scene('lq', 1, 3, 16, 40), references([scene('ref', 1, 3, 64, 64)])
    method, seen = FromReferences(Degradation('matlab', 4)), []
    encode = MASA.encode
    monkeypatch.setattr(MASA, 'encode', lambda *args: seen.append(1) or encode(*args))
    tiled = method.super_resolve(net, lq, refs, tile=16, overlap=8)
    assert len(seen) == 1 and tiled.sr.shape == (1, 3, 64, 160)
    one = method.super_resolve(net, lq, refs, tile=40, overlap=8)
    assert_close(one.sr, method.super_resolve(net, lq, refs).sr, rtol=0, atol=1e-12)


def test_black_images_have_gradients():
    """Features that are zero all over have no direction, but no NaN either."""
    net = MASA(**SMALL)
    net(torch.zeros(2, 3, 8, 16), [torch.zeros(2, 3, 32, 32)]).sr.sum().backward()
    assert all(p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize('dilations', [[], [1, 4]])
def test_refuses_dilations_that_leave_their_block(dilations):
    with pytest.raises(ValueError, match=r'network_g:dilations is .*, but must be some of 1, 2'):
        MASA(**SMALL, dilations=dilations)
