"""DATSR against its own code's numbers, what its parts read, sizes, tiles and files."""

from __future__ import annotations

import json

import pytest
import torch
from basicsr.archs import build_network
from golden_noise import noise, noisy, scene
from golden_weights import assert_loads_published, layout
from references import assert_takes_any_sizes, prepared, references
from repository import REPOSITORY
from torch.testing import assert_close

from defsr.archs.contrastive_extractor_arch import ContrastiveExtractor
from defsr.archs.datsr_arch import DATSR, INSIDE, OFFICIAL
from defsr.archs.datsr_parts import WindowedBody
from defsr.archs.interface import Correspondences
from defsr.archs.layers import residual_blocks
from defsr.archs.levels import LEVEL_FACTORS, VGG_CHANNELS
from defsr.archs.published import find_network
from defsr.diffusion.degradation import Degradation
from defsr.methods.corresponding import Corresponding

GOLDEN = json.loads((REPOSITORY / 'tests/golden/datsr.json').read_text())
SMALL = {'num_feat': 8, 'depths': [2, 1], 'num_heads': [2, 4], 'window_size': 4, 'num_group': 4}
TINY = SMALL | {'depths': [2], 'num_heads': [2], 'num_offset_feat': 4, 'num_texture_feat': 8}
SIDES = {'large': 160, 'medium': 80, 'small': 40}  # of the maps that their masks are made for


def official_name(own: str) -> str:
    """Of a parameter of ours, by the longest start that is known."""
    begins = {mine: theirs for theirs, mine in OFFICIAL.items()}
    start = max((mine for mine in begins if own.startswith(mine)), key=len)
    name = begins[start] + own.removeprefix(start).replace('blocks.', 'residual_group.blocks.')
    for theirs, mine in INSIDE.items():
        name = name.replace(mine, theirs) if mine != '.' else name
    return name


def official_state(net):
    """Weights by their published names."""
    state = {official_name(key): value for key, value in net.state_dict().items()}
    return noisy(state, 2, conv_offset_mask=0.05, norm=50)


def published(net) -> dict[str, torch.Tensor]:
    """As their files are: with the content extractor and with what is computed of sizes alone."""
    state = official_state(net)
    ours = {'conv_first': torch.nn.Conv2d(3, 128, 3), 'body': residual_blocks(8, 128)}
    extractor = torch.nn.ModuleDict(ours).state_dict()
    state |= {f'content_extractor.{name}': value for name, value in extractor.items()}
    for name in [name for name in state if name.endswith('bias_table')]:
        block = name.removesuffix('attn.relative_position_bias_table')
        side = next(side for size, side in SIDES.items() if f'_{size}.' in name)
        state[f'{block}attn.relative_position_index'] = torch.zeros(64, 64, dtype=torch.int64)
        if int(block.split('.')[-2]) % 2:
            state[f'{block}attn_mask'] = torch.zeros((side // 8) ** 2, 64, 64)
    return state


def filled(**options) -> DATSR:
    net = DATSR(**(SMALL | options)).double().eval()
    net.load_state_dict(net.from_official(official_state(net)))
    return net


def official_trunk_name(own: str) -> str:
    trunk, name = own.split('.', 1)
    inner = name if name in ('mean', 'std') else f'model.{name}'
    return f'feature_extraction_image{["query", "key"].index(trunk) + 1}.{inner}'


@pytest.fixture(scope='module')
def method() -> Corresponding:
    net_m = ContrastiveExtractor().double()
    state = {official_trunk_name(name): value for name, value in net_m.state_dict().items()}
    net_m.load_state_dict(net_m.from_official(noisy(state, 2)))
    trunk = {'type': 'VGGTextureExtractor', 'vgg_type': 'vgg16', 'weights': 'none'}
    net_t = build_network(trunk).double()
    net_t.load_state_dict(noisy(net_t.state_dict(), 2))
    return Corresponding(net_m.requires_grad_(False), net_t, Degradation('matlab', 4))


@pytest.fixture(scope='module')
def images() -> tuple[torch.Tensor, torch.Tensor]:
    """lq (2, 3, 12, 16) and a reference (2, 3, 48, 64) of the same scene, moved by (12, 12)."""
    picture = scene('scene', 2, 3, 72, 92)
    lq = torch.nn.functional.avg_pool2d(picture[..., 4:52, 6:70], 4)
    return lq, picture[..., 16:64, 18:82].contiguous()


def golden(values) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_its_own_codes_numbers(method, images):
    """caojiezhang/DATSR at 32240b5 in float64, mmcv's operator replaced by torchvision's.

    ContrasExtractorSep, FlowSimCorrespondenceGenerationArch and SwinUnetv3RestorationNet one after
    the other; the gradients of a fixed random projection of the image. Their similarities have
    1e-5 added to both norms, which are 3; the network gets them so.
    """
    lq, ref = images
    net, ready = filled(), prepared(method, [ref])
    matches = method.match(lq, ready)
    own = torch.stack(torch.meshgrid(torch.arange(12), torch.arange(16), indexing='ij')) + 1
    flow = (matches.ring[..., 2:, 2:] - own)[..., :-2, :-2]  # of patches by their top left corner
    assert torch.equal(flow.flatten(1), golden(GOLDEN['flow']).long())
    matches = matches._replace(confidence=matches.confidence * 9 / (3 + 1e-5) ** 2)
    similarity = matches.confidence[:, ::3, ::4].flatten()
    assert_close(similarity, golden(GOLDEN['sim']), rtol=0, atol=1e-11)
    sr = net(lq, method._found(ready, matches, 0, 12, 0, 16))
    found = sr[:, :, ::7, ::9].flatten().detach()
    assert_close(found, golden(GOLDEN['sr']), rtol=1e-9, atol=1e-9)
    plain = method.restore(net, lq, ready).sr.detach()
    assert_close(plain, sr.detach(), rtol=0, atol=1e-6)
    loss = (sr * (noise('loss', *sr.shape) - 0.5)).sum()
    assert_close(loss.detach(), golden(GOLDEN['loss']), rtol=1e-9, atol=0)
    loss.backward()
    for name, parameter in net.named_parameters():
        gradient = parameter.grad
        found = torch.cat([gradient.norm().view(1), gradient.flatten()[:2]])
        want = golden(GOLDEN['grad'][official_name(name)])
        assert_close(found, want, rtol=1e-7, atol=1e-7 * float(want[0]))


def test_a_published_file_loads(tmp_path):
    """Bare, as they are published, and with the prefix of parallel training."""
    made = DATSR()
    state = published(made)
    assert layout(state) == tuple(GOLDEN['layout'])
    found = find_network(state, 'a file')
    block = {'num_feat': 128, 'depths': [4, 4], 'num_heads': [4, 4], 'window_size': 8}
    assert found.network == {'type': 'DATSR', **block, 'num_group': 8}
    assert 'caojiezhang/DATSR' in found.source
    assert_loads_published(made, state, tmp_path)
    assert torch.equal(made.first.weight, state['dyn_agg_restore.unet_head.weight'])


@pytest.mark.parametrize('size', [(8, 12), (4, 8), (7, 9), (3, 5)])
def test_a_body_works_at_any_size(size):
    """That of the reflected features, cut; windows next to each other know of each other."""
    body = WindowedBody(8, [2], [2], 4, drop_path_rate=0).double().eval()
    x = noise('x', 2, 8, *size)
    bottom, right = (-side % 4 for side in size)
    folded = torch.nn.functional.pad(x, (0, right, 0, bottom), mode='reflect')
    out = body(x)
    assert_close(out, body(folded)[..., : size[0], : size[1]], rtol=0, atol=1e-12)
    if size == (8, 12):
        moved = x.clone()
        moved[:, 0, :, 3] += 1
        change = (body(moved) - out).detach().abs()
        assert float(change[..., 5].max()) > 1e-9 and not change[..., 7:].any()


def test_paths_are_dropped_in_training_only():
    """Of the last block of two, in half of the images; computing it again drops the same."""
    body = WindowedBody(8, [2], [2], 4, drop_path_rate=0.5)
    assert [block.stochastic_depth.p for block in body.layers[0].blocks] == [0, 0.5]
    x, outs, slopes = torch.rand(8, 8, 4, 8), [], []
    for body.use_checkpoint in (False, True):
        torch.manual_seed(1)
        body.zero_grad()
        outs.append(body(x))
        (outs[-1] ** 3).sum().backward()
        slopes.append(body.norm_in.weight.grad.clone())
    assert_close(outs[0], outs[1], rtol=0, atol=0)
    assert_close(slopes[0], slopes[1], rtol=1e-5, atol=1e-6)
    assert not torch.equal(outs[0], body(x))
    body.eval()
    assert torch.equal(body(x), body(x))


@pytest.mark.parametrize('size', [(7, 9), (2, 1)])
@pytest.mark.parametrize('ref_sizes', [[(36, 44)], [(8, 16)], [(20, 16), (28, 53), (17, 40)]])
def test_any_sizes_and_many_references(method, size, ref_sizes):
    assert_takes_any_sizes(method, filled(**TINY), size, ref_sizes)


@pytest.mark.parametrize('tile', [32, 19])
def test_tiles_are_the_whole(method, tile):
    """Their windows are those of the whole wherever they begin, if they see enough of it."""
    net, lq = filled(**TINY), scene('long', 1, 3, 7, 64)
    refs = references([scene('long ref', 1, 3, 20, 100)])
    with torch.no_grad():
        whole = method.super_resolve(net, lq, refs)
        parts = method.super_resolve(net, lq, refs, tile=tile, overlap=28)
    assert torch.equal(parts.index, whole.index)
    assert_close(parts.sr, whole.sr, rtol=0, atol=1e-9)


def some_correspondences(size=(5, 6)) -> tuple[torch.Tensor, Correspondences]:
    height, width = size
    feats = {
        level: torch.rand(2, channels, factor * height, factor * width)
        for (level, factor), channels in zip(
            LEVEL_FACTORS.items(), VGG_CHANNELS.values(), strict=True
        )
    }
    ring = torch.zeros(2, 2, height + 2, width + 2, dtype=torch.int64)
    return torch.rand(2, 3, *size), Correspondences(feats, feats, ring, torch.ones(2, *size))


def test_starts_at_its_matches():
    """Untrained, offsets are 0 and masks 1/2; so little is added to the interpolated input."""
    net = DATSR(**SMALL)
    lq, found = some_correspondences()
    up = torch.nn.functional.interpolate(lq, scale_factor=4.0, mode='bilinear')
    assert float((net(lq, found) - up).detach().abs().max()) < 0.05


def test_confidence_decides_how_masks_open():
    """At confidence 0 all masks are 1/2, whatever the weights say."""
    net = DATSR(**TINY)
    stage, half = net.up['relu3_1'], torch.zeros(2, 1, 5, 6)
    _, found = some_correspondences()
    x, beside = torch.rand(2, 8, 5, 6), torch.rand(2, 512, 5, 6)
    reads = (x, found.feat_ref['relu3_1'], beside, found.match_yx, 1)
    masks = stage.offset[-1].bias.data[2 * 9 * 4 :]
    masks += 3
    stage.eval()
    before = stage(*reads, similarity=half)
    assert not torch.equal(before, stage(*reads, similarity=half + 1))
    masks -= 3
    assert_close(stage(*reads, similarity=half + 1), before, rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'num_group': 3}, 'num_group is 3, but must divide the 64 channels'),
        ({'num_ch': {'relu1_1': 8}}, 'num_ch must have all of'),
        ({'num_heads': [4]}, r'depths is \[4, 4\] and network_g:num_heads \[4\], but each'),
        ({'num_heads': [4, 3]}, r'num_heads is \[4, 3\], but each must divide .*num_feat, 128'),
        ({'window_size': 1}, 'window_size is 1, but must be 2 at least'),
    ],
)
def test_refuses(change, message):
    with pytest.raises(ValueError, match=message):
        DATSR(**change)
