"""Enhance, extract, match, restore: on real photographs with the shipped trunk."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from basicsr.archs import build_network
from references import prepared, references
from torch.nn import functional as F

from defsr.archs.interface import Reference
from defsr.archs.stacked_features import stacked_features
from defsr.config.files import parse_yaml
from defsr.methods.match_keys import MATCH_KEYS
from defsr.methods.matched import Matched
from defsr.ops import downsample_bicubic, match_patches, upsample_bicubic
from defsr.ops.matching_near import match_patches_near
from defsr.ops.warping import flat_positions, match_positions


@pytest.fixture(scope='module')
def extractor():
    options = {'vgg_type': 'vgg16', 'weights': 'vgg16_trunk_hed.pth'}
    return build_network({'type': 'VGGTextureExtractor', **options})


@pytest.fixture
def pipeline(extractor):
    return Matched(build_network({'type': 'BicubicEnhancer'}), extractor, 'ref')


@pytest.fixture(scope='module')
def small_net():
    torch.manual_seed(0)
    aggregator = {'num_feat': 8, 'num_block': [1, 1, 1, 1], 'use_feat_de': True}
    return build_network(
        {
            'type': 'DEFNet',
            'transfer': {'type': 'HardTransferArch'},
            'aggregator': {'type': 'TTSRAggregator', **aggregator},
        }
    ).eval()


@pytest.mark.parametrize('key_size', [(64, 96), (88, 52), (24, 140)])
def test_matching_on_real_features(stereo, extractor, key_size):
    """Against unfold-and-multiply in float64; a tie is a difference below 1e-6."""
    left, right = stereo
    query = extractor(left[..., 200:264, 300:380])['relu3_1']
    key = extractor(right[..., 180 : 180 + key_size[0], 280 : 280 + key_size[1]])['relu3_1']
    index, confidence = match_patches(query, key)
    patches = [F.normalize(F.unfold(x.double(), 3, padding=1), dim=1) for x in (query, key)]
    cosines = patches[0].transpose(1, 2) @ patches[1]
    best = cosines.max(dim=2).values.view_as(confidence)
    chosen = cosines.gather(2, index.flatten(1).unsqueeze(2)).view_as(confidence)
    assert float((best - chosen).max()) < 1e-6
    torch.testing.assert_close(confidence.double(), best, rtol=0, atol=1e-5)


@pytest.mark.parametrize('shift', [(8, 12), (4, -8), (0, 4)])
def test_a_planted_copy_is_found(stereo, pipeline, shift):
    """The reference is the GT shifted: the index finds the shift nearly everywhere inside."""
    left, _ = stereo
    dy, dx = shift
    gt = left[..., 100:260, 200:360]
    ref = left[..., 100 + dy : 260 + dy, 200 + dx : 360 + dx]
    index = pipeline.align(gt, prepared(pipeline, [ref])).index[0]
    rows, columns = torch.meshgrid(torch.arange(40), torch.arange(40), indexing='ij')
    expected = (rows - dy // 4) * 40 + columns - dx // 4
    inside = (slice(8, -8), slice(8, -8))
    share = (index == expected)[inside].float().mean()
    assert float(share) > 0.95


def test_a_shift_between_cells_is_found_within_one(stereo, pipeline):
    left, _ = stereo
    dy, dx = 3, 6
    gt, ref = left[..., 100:260, 200:360], left[..., 100 + dy : 260 + dy, 200 + dx : 360 + dx]
    index = pipeline.align(gt, prepared(pipeline, [ref])).index[0]
    rows, columns = torch.meshgrid(torch.arange(40), torch.arange(40), indexing='ij')
    off_y = (index // 40 - rows + dy / 4).abs()
    off_x = (index % 40 - columns + dx / 4).abs()
    near = ((off_y <= 1) & (off_x <= 1))[8:-8, 8:-8].float().mean()
    assert float(near) > 0.95


def test_keys(stereo, extractor):
    """Textures come from the untouched reference, whatever it is matched by."""
    ref = stereo[1][..., 100:166, 200:299]  # trimmed to 64x96
    enhancer = build_network({'type': 'BicubicEnhancer'})
    features = {}
    for match_key in MATCH_KEYS:
        ready = prepared(Matched(enhancer, extractor, match_key), [ref])
        plain = extractor(ref[..., :64, :96])
        for level, feat in ready.feat_ref.items():
            assert torch.equal(feat, plain[level])
        features[match_key] = ready.key
    small = downsample_bicubic(ref[..., :64, :96], 4).clamp(0, 1).mul(255).round().div(255)
    soft = extractor(upsample_bicubic(small, 4).clamp(0, 1))['relu3_1']
    assert torch.equal(features['ref'], plain['relu3_1'])
    assert torch.equal(features['ref_down_up'], soft)
    assert torch.equal(features['ref_enhanced'], soft), 'the enhancer here is bicubic'


def test_a_mixture_of_keys(stereo, extractor):
    """Each map counts by its weight, not by its length; a weight alone changes nothing."""
    ref = stereo[1][..., 100:164, 200:296]
    enhancer = build_network({'type': 'BicubicEnhancer'})

    def key_of(match_key):
        return prepared(Matched(enhancer, extractor, match_key), [ref]).key

    plain, soft = key_of('ref'), key_of('ref_down_up')
    assert torch.equal(key_of({'ref_down_up': 0.3}), soft)
    expected = sum(w * x / x.square().mean().sqrt() for w, x in ((1.0, soft), (0.5, plain)))
    mixed = key_of({'ref_down_up': 1.0, 'ref': 0.5})
    torch.testing.assert_close(mixed, expected)
    assert torch.equal(key_of('ref'), plain), 'nothing was changed in place'
    for bad, message in (
        ({}, 'match_key is empty'),
        ({'reff': 1.0}, 'match_key is .reff.'),
        ({'ref': 0.0}, 'match_key:ref is 0.0, but must be above 0'),
    ):
        with pytest.raises(ValueError, match=message):
            key_of(bad)


def test_the_patch_size_is_the_search_s(stereo, extractor):
    left, right = stereo
    gt, ref = left[..., 100:148, 200:264], right[..., 100:148, 180:244]
    enhancer = build_network({'type': 'BicubicEnhancer'})
    for size in (1, 5):
        pipeline = Matched(enhancer, extractor, match_patch_size=size)
        found = pipeline.align(gt, prepared(pipeline, [ref]))
        maps = extractor(gt)['relu3_1'], extractor(ref)['relu3_1']
        index, confidence = match_patches(*maps, size)
        assert torch.equal(found.index, index) and torch.equal(found.confidence, confidence)
    for bad in (0, 2, 2.5):
        with pytest.raises(ValueError, match='match_patch_size is'):
            Matched(enhancer, extractor, match_patch_size=bad)


def test_refined_matches_are_right_to_the_pixel(stereo, extractor):
    """A shift of a fraction of a cell: the finest level finds it, the coarsest alone cannot."""
    left, _ = stereo
    dy, dx = 2, 5
    gt, ref = left[..., 100:260, 200:360], left[..., 100 + dy : 260 + dy, 200 + dx : 360 + dx]
    rows, columns = torch.meshgrid(torch.arange(160), torch.arange(160), indexing='ij')
    inside = (slice(24, -24), slice(24, -24))
    found = {}
    for pixels in (0, 2):
        pipeline = Matched(build_network({'type': 'BicubicEnhancer'}), extractor,
                                 match_refine=pixels)  # fmt: skip
        ready = prepared(pipeline, [ref])
        aligned = pipeline.align(gt, ready)
        if pixels:
            place = aligned.positions['relu1_1']
        else:
            assert aligned.positions is None
            place = match_positions(aligned.index, aligned.key_size, 4)
        right = (place[0, 0] == rows - dy) & (place[0, 1] == columns - dx)
        found[pixels] = float(right[inside].float().mean())
    assert found[0] < 0.05 and found[2] > 0.6, 'smooth places cannot tell one pixel from the next'
    assert set(aligned.positions) == {'relu1_1', 'relu2_1', 'relu3_1'}
    with pytest.raises(ValueError, match='match_refine is -1'):
        Matched(None, extractor, match_refine=-1)


@pytest.mark.parametrize('transfer', ['DCNTransferArch', 'HardTransferArch'])
def test_refined_matches_reach_the_network(stereo, extractor, transfer):
    """Whole and in tiles alike, and the result is another one than without."""
    left, right = stereo
    lq = downsample_bicubic(left[..., 100:196, 200:264], 4).clamp(0, 1)
    refs = [right[..., 100:180, 180:260], right[..., 100:148, 180:228]]
    torch.manual_seed(0)
    aggregator = {'type': 'TTSRAggregator', 'num_feat': 8, 'num_block': [1, 1, 1, 1]}
    net = build_network(
        {'type': 'DEFNet', 'transfer': {'type': transfer}, 'aggregator': aggregator}
    )
    results = []
    for options in ({'match_refine': 2}, {'match_refine': 2, 'match_coherence': True}, {}):
        enhancer = build_network({'type': 'BicubicEnhancer'})
        pipeline = Matched(enhancer, extractor, 'ref_enhanced', **options)
        with torch.no_grad():
            whole = pipeline.super_resolve(net, lq, references(refs)).sr
            tiled = pipeline.super_resolve(net, lq, references(refs), tile=16, overlap=16).sr
        torch.testing.assert_close(tiled, whole, rtol=0, atol=1e-4)
        results.append(whole)
    for one, other in combinations(results, 2):
        assert (one - other).abs().max() > 1e-3


def test_coherent_matches_are_right_where_they_were_lost(stereo, extractor):
    """A soft query of a shifted photograph: more of the matches are right to a pixel."""
    left, _ = stereo
    gt, ref = left[..., 100:260, 200:360], left[..., 102:262, 205:365]
    soft = upsample_bicubic(downsample_bicubic(gt, 4), 4).clamp(0, 1)
    rows, columns = torch.meshgrid(torch.arange(160), torch.arange(160), indexing='ij')
    right = {}
    for coherent in (False, True):
        pipeline = Matched(build_network({'type': 'BicubicEnhancer'}), extractor, match_refine=2,
                           match_coherence=coherent)  # fmt: skip
        place = pipeline.align(soft, prepared(pipeline, [ref])).positions['relu1_1'][0]
        off = torch.maximum((place[0] - rows + 2).abs(), (place[1] - columns + 5).abs())
        right[coherent] = float((off <= 1)[24:-24, 24:-24].float().mean())
    assert right[True] > right[False] + 0.1, right


def test_coherent_matches_stay_in_their_reference(stereo, extractor):
    """Where the motion leads beyond a reference, into another one even, a match stays."""
    left, right = stereo
    query = left[..., 100:164, 200:280]
    refs = [left[..., 110:170, 204:284], right[..., 90:190, 180:240]]
    pipeline = Matched(build_network({'type': 'BicubicEnhancer'}), extractor, match_refine=2,
                       match_coherence=True)  # fmt: skip
    ready = prepared(pipeline, refs)
    aligned = pipeline.align(query, ready)
    winner = ready.winner(aligned.index)
    place = aligned.positions['relu3_1']
    inside, stays = flat_positions(place, aligned.key_size)
    assert stays.all() and torch.equal(ready.winner(inside), winner) and len(winner.unique()) == 2
    assert ready.mask.flatten()[inside].all()


def test_coherence_refuses(extractor):
    with pytest.raises(ValueError, match='match_coherence is true, but match_refine is 0. Set it'):
        Matched(None, extractor, match_coherence=True)
    with pytest.raises(ValueError, match='match_coherence is 2, but must be true or false'):
        Matched(None, extractor, match_refine=2, match_coherence=2)


def test_several_references_share_one_index_space(stereo, pipeline):
    left, right = stereo
    query = left[..., 100:164, 200:280]
    refs = [right[..., 300:360, 20:100], right[..., 90:190, 180:300], left[..., 96:170, 196:284]]
    together = pipeline.align(query, prepared(pipeline, refs))
    alone = [pipeline.align(query, prepared(pipeline, [ref])).confidence for ref in refs]
    best = torch.stack(alone).max(dim=0).values
    torch.testing.assert_close(together.confidence, best, rtol=0, atol=1e-5)
    height, width = together.key_size
    assert height == 15 + 25 + 18 + 2 and width == 30
    rows = together.index // width
    assert float((rows > 15 + 25 + 1).float().mean()) > 0.9, 'the third one is the query itself'
    winner = prepared(pipeline, refs).winner(together.index)
    assert torch.equal(winner == 2, rows > 15 + 25 + 1)
    assert torch.equal(winner == 0, rows < 15)


def test_each_reference_is_read_alone(stereo, pipeline):
    """Features are extracted before the references are put side by side."""
    right = stereo[1]
    first, second = right[..., 90:190, 180:300], right[..., 300:360, 20:100]
    together = prepared(pipeline, [first, second])
    for level, factor in (('relu1_1', 4), ('relu2_1', 2), ('relu3_1', 1)):
        feat = together.feat_ref[level]
        one, two = (prepared(pipeline, [ref]).feat_ref[level] for ref in (first, second))
        assert torch.equal(feat[..., : 25 * factor, :], one)
        assert float(feat[..., 25 * factor : 26 * factor, :].abs().max()) == 0
        assert torch.equal(feat[..., 26 * factor :, : 20 * factor], two)
    assert int(together.mask.sum()) == 25 * 30 + 15 * 20


def test_tiles_agree_with_the_whole_inside(stereo, pipeline, small_net):
    left, right = stereo
    lq = downsample_bicubic(left[..., 100:260, 200:360], 4)
    refs = [right[..., 90:270, 180:370]]
    calls = []
    with torch.no_grad():
        whole = pipeline.super_resolve(small_net, lq, references(refs))
        tiled = pipeline.super_resolve(
            small_net,
            lq,
            references(refs),
            tile=20,
            overlap=12,
            progress=lambda *c: calls.append(c),
        )
    assert calls[-5:] == [('restore', i, 4) for i in range(5)]
    assert torch.equal(whole.index, tiled.index)
    torch.testing.assert_close(whole.sr, tiled.sr, rtol=0, atol=1e-4)


@pytest.mark.parametrize('sizes', [[(100, 148)], [(60, 84), (100, 44)]])
def test_features_in_pieces_are_those_of_the_whole(stereo, extractor, monkeypatch, sizes):
    images = [stereo[0][..., : 4 * (h // 4), : 4 * (w // 4)] for h, w in sizes]
    whole = stacked_features(extractor, images)
    monkeypatch.setattr('defsr.archs.stacked_features.PIECE', 10)
    pieces = stacked_features(extractor, images)
    assert pieces.keys() == whole.keys()
    for level, feat in pieces.items():
        torch.testing.assert_close(feat, whole[level], rtol=0, atol=1e-4)


def test_an_extractor_that_does_not_say_how_far_it_sees(stereo, small_net, extractor, monkeypatch):
    """It reads whole images, and of a tile the context that the tile has."""
    left, right = stereo
    lq, refs = downsample_bicubic(left[..., 100:180, 200:280], 4), [right[..., 90:170, 180:270]]
    pipeline = Matched(build_network({'type': 'BicubicEnhancer'}), extractor.forward, 'ref')
    monkeypatch.setattr('defsr.archs.stacked_features.PIECE', 4)
    with torch.no_grad():
        whole = pipeline.super_resolve(small_net, lq, references(refs))
        tiled = pipeline.super_resolve(small_net, lq, references(refs), tile=16, overlap=16)
    torch.testing.assert_close(whole.sr, tiled.sr, rtol=0, atol=1e-4)


def test_checked_matches(stereo, extractor):
    """What is trusted is a copy; what the reference does not show is not."""
    left, right = stereo
    enhancer = build_network({'type': 'BicubicEnhancer'})
    gt = left[..., 100:180, 200:280]
    ref = torch.cat((gt[..., :40], right[..., 300:380, 20:60]), dim=3)
    plain, masked = (Matched(enhancer, extractor, match_check=how) for how in ('none', 'mask'))
    trusted = masked.align(gt, prepared(masked, [ref])).confidence > 0
    assert bool((plain.align(gt, prepared(plain, [ref])).confidence > 0).all())
    assert float(trusted[..., :8].float().mean()) > 0.95
    assert float(trusted[..., 12:].float().mean()) < 0.6


def test_coarse_to_fine_finds_most_of_the_same(stereo, extractor):
    enhancer = build_network({'type': 'BicubicEnhancer'})
    gt, ref = stereo[0][..., 100:260, 200:360], stereo[1][..., 90:270, 180:370]
    found = []
    for search in ('exact', 'coarse_to_fine'):
        pipeline = Matched(enhancer, extractor, match_search=search)
        found.append(pipeline.align(gt, prepared(pipeline, [ref])).index)
    assert float((found[0] == found[1]).float().mean()) > 0.6


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'match_search': 'fast'}, 'match_search is'),
        ({'match_check': 'soft'}, 'match_check is'),
        ({'match_reach': -1}, 'match_reach is -1'),
        ({'match_reach': 4, 'match_check': 'mask'}, 'match_reach is 4, which goes with'),
    ],
)
def test_unknown_ways_to_match(extractor, options, message):
    with pytest.raises(ValueError, match=message):
        Matched(build_network({'type': 'BicubicEnhancer'}), extractor, **options)


def test_only_references_in_the_frame_of_the_input_are_searched_nearby(stereo, extractor):
    """One that is rectified within the reach, one that is not everywhere."""
    gt, ref = (image[..., 100:180, 200:296].contiguous() for image in stereo)
    method = Matched(build_network({'type': 'BicubicEnhancer'}), extractor, match_reach=2)
    maps = [extractor(image)['relu3_1'] for image in (gt, ref)]
    valid = torch.ones(1, 1, 20, 24, dtype=torch.bool)
    valid[..., :4] = False
    for in_frame, wanted in (
        (Reference(ref, valid=valid), match_patches_near(*maps, 2, key_mask=valid[0, 0])),
        (Reference(ref), match_patches(*maps)),
    ):
        found = method.align(gt, method.prepare(None, [in_frame]))
        assert torch.equal(found.index, wanted[0])
        assert torch.equal(found.confidence, wanted[1])


def test_tiny_images(pipeline, small_net):
    with torch.no_grad():
        refs = references([torch.rand(1, 3, 5, 7)])
        result = pipeline.super_resolve(small_net, torch.rand(1, 3, 1, 2), refs)
    assert result.sr.shape == (1, 3, 4, 8)
    with pytest.raises(ValueError, match='A reference is 3x9 .* at least scale=4'):
        prepared(pipeline, [torch.rand(1, 3, 3, 9)])


def test_only_network_g_gets_gradients(pipeline, small_net):
    lq, ref = torch.rand(1, 3, 8, 8), torch.rand(1, 3, 32, 32)
    pipeline.super_resolve(small_net, lq, references([ref])).sr.sum().backward()
    assert all(p.grad is None for p in pipeline.net_t.parameters())
    assert any(p.grad is not None for p in small_net.parameters())
    small_net.zero_grad()


def test_off_in_an_option_file_is_off(extractor):
    """YAML reads it as false."""
    project = parse_yaml('off', 'x')
    assert project is False and Matched(None, extractor, project=project).inputs.project == 'off'
    with pytest.raises(ValueError, match='project is True, but must be one of'):
        Matched(None, extractor, project=True)
