"""References brought into the input's frame: planted geometries come back, strangers stay out."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from defsr.archs.interface import Reference
from defsr.diffusion.degradation import Degradation
from defsr.diffusion.reference_null_space import (
    NullSpaces,
    best_of,
    gated,
    project,
    with_null_space,
)
from defsr.methods.from_references import FromReferences
from defsr.ops.affine_field import moving_least_squares
from defsr.ops.dense_warp import local_scale, positions, warp
from defsr.ops.evidence import Evidence, evidence_of
from defsr.rectify.confirmation import confirm
from defsr.rectify.flow import refine_field
from defsr.rectify.matches import Matches
from defsr.rectify.rectifier import Rectifier
from defsr.tools.upscale import told_lines

MATLAB = Degradation('matlab', 4)
OPERATOR = MATLAB.operator


@pytest.fixture(scope='module')
def photo(stereo) -> Tensor:
    """(1, 3, 240, 320) of the left image."""
    left = stereo[0].reshape(1, *stereo[0].shape[-3:])
    return left[..., 120:360, 200:520]


def enhance(lq: Tensor) -> Tensor:
    return OPERATOR.A_pinv(lq).clamp(0, 1)


def turned(image: Tensor, degrees: float, factor: float) -> Tensor:
    """Seen by a camera that is rolled and nearer, all of it in the picture."""
    height, width = image.shape[-2:]
    side = math.ceil(factor * math.hypot(height, width)) // 4 * 4 + 4
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, factor)
    matrix[:, 2] += (side - width) / 2, (side - height) / 2
    array = image[0].permute(1, 2, 0).numpy()
    view = cv2.warpAffine(array, matrix, (side, side), flags=cv2.INTER_CUBIC)
    return torch.from_numpy(np.ascontiguousarray(view)).permute(2, 0, 1)[None].clamp(0, 1)


def rectified(photo: Tensor, ref: Tensor, **options: object) -> list:
    gt, lq = MATLAB.make_lq(photo)
    return Rectifier(MATLAB, **{'matcher': 'sift'} | options)(
        lq, enhance(lq), [Reference(ref)], enhance
    )


def db(one: Tensor, two: Tensor, where: Tensor | None = None) -> float:
    squares = (one - two).square()
    mean = squares.mean() if where is None else squares[where.expand_as(squares)].mean()
    return -10 * float(mean.log10())


def test_a_field_through_matches_of_an_affine_map_is_that_map():
    rng = torch.Generator().manual_seed(1)
    query = torch.rand(40, 2, generator=rng, dtype=torch.float64) * 60
    linear = torch.tensor([[0.9, -0.3], [0.2, 1.1]], dtype=torch.float64)
    field = moving_least_squares(query, query @ linear.T + 5, (50, 61), sigma=24.0)
    expected = torch.einsum('ij,jhw->ihw', linear.float(), positions(50, 61)) + 5
    assert float((field - expected).abs().max()) < 1e-3
    scale = math.sqrt(float(torch.linalg.det(linear)))
    torch.testing.assert_close(
        local_scale(field)[1:-1, 1:-1].mean().item(), scale, atol=1e-3, rtol=0
    )


def test_a_shift_is_sampled_to_the_bit_and_says_where_it_ends(rng):
    image = torch.rand(1, 3, 20, 24, generator=rng)
    seen, inside = warp(image, positions(20, 24) + torch.tensor([3.0, -2.0]).view(2, 1, 1))
    torch.testing.assert_close(seen[..., :17, 2:], image[..., 3:, :22])
    assert bool(inside[..., :17, 2:].all())
    assert not bool(inside[..., 17:, :].any() | inside[..., :2].any())


def test_a_small_flow_is_found_and_a_long_one_is_none(photo):
    moved = photo.roll(3, dims=-1)
    own = positions(*photo.shape[-2:])
    field = refine_field(own, photo, moved, most=8.0) - own
    middle = field[:, 40:-40, 40:-40]
    assert float((middle[1] - 3).abs().median()) < 0.1 and float(middle[0].abs().median()) < 0.1
    far = refine_field(own, photo, moved, most=1.0) - own
    assert float(far.norm(dim=0).median()) < 1


def test_evidence_is_correlation_and_contrast(photo, rng):
    lq = MATLAB.degrade(photo)
    same = evidence_of(lq, 0.5 * lq + 0.2)
    inner = (..., slice(8, -8), slice(8, -8))
    assert float(same.rho[inner].median()) > 0.99
    assert float(same.gain[inner].median()) == pytest.approx(2.0, abs=0.02)
    noise = evidence_of(lq, torch.rand(lq.shape, generator=rng))
    assert float(noise.rho.mean()) < 0.2
    nowhere = evidence_of(lq, lq, torch.zeros(1, 1, *lq.shape[-2:], dtype=torch.bool))
    assert float(nowhere.rho.max()) == 0


@pytest.mark.parametrize(('degrees', 'factor'), [(0, 1.0), (15, 1.0), (90, 0.8), (-30, 1.4)])
def test_a_rolled_and_scaled_reference_is_straightened(photo, degrees, factor):
    """It is as good as the ground truth then, and fills the null space of the input with it."""
    gt, lq = MATLAB.make_lq(photo)
    (one,) = rectified(photo, turned(photo, degrees, factor))
    assert one.confirmed.number > 100
    inside = torch.nn.functional.interpolate(one.valid.float(), scale_factor=4) > 0
    assert float(inside.float().mean()) > 0.5
    assert db(one.image, gt, inside) > 30
    assert float(one.evidence.rho[one.valid].mean()) > 0.9
    de = enhance(lq)
    sr = with_null_space(lq, de, one.image, one.evidence, OPERATOR)
    assert db(sr, gt, inside) > db(project(de, lq, OPERATOR), gt, inside) + 4
    assert db(OPERATOR.A(sr), lq) > 45  # consistent with the input but for clamping


@pytest.mark.parametrize('shift', [1, 2, 3])
def test_a_shifted_reference_is_put_right(photo, shift):
    gt, _ = MATLAB.make_lq(photo)
    (one,) = rectified(photo, photo.roll((shift, -shift), dims=(-2, -1)))
    inside = torch.nn.functional.interpolate(one.valid.float(), scale_factor=4) > 0
    assert db(one.image, gt, inside) > 32


def test_strangers_and_odd_references_are_left_out_with_a_line(photo, stereo):
    other = stereo[0].reshape(1, *stereo[0].shape[-3:])[..., :200, 540:740].flip(-2)
    odd = {
        'too few': other,
        'mirrored': photo.flip(-1),
        'no finer': torch.nn.functional.interpolate(photo, scale_factor=0.25, mode='area'),
        'constant': torch.full((1, 3, 64, 64), 0.5),
        'tiny': torch.rand(1, 3, 16, 16),
    }
    for name, ref in odd.items():
        with told_lines('basicsr.references') as lines:
            assert rectified(photo, ref) == [], name
        assert len(lines) == 1 and lines[0].startswith('Reference 1: left out: '), lines
        assert ('it is mirrored' in lines[0]) == (name == 'mirrored')
        if name == 'no finer':
            assert 'it is no finer: 1.0 of its pixels to one of the input' in lines[0], lines


def test_random_matches_are_not_confirmed(rng):
    points = [torch.rand(200, 2, generator=rng).double() * 300 for _ in range(2)]
    found = confirm(Matches(*points), (300, 300), 16)
    assert found is None or not found.suffices


@pytest.mark.parametrize('seed', [1189, 2197, 2296])
def test_matches_that_opencv_stumbles_over_confirm_nothing(seed):
    """Nine or ten on a grid: its refinement asserts a model that it has just refused."""
    rng = np.random.default_rng(seed)
    number = int(rng.integers(8, 14))
    sides = (np.round(rng.random((number, 2)) * side / 32) * 32 for side in (128, 160))
    query, key = (torch.from_numpy(x[:, ::-1].astype(np.float32)) for x in sides)
    found = confirm(Matches(query, key), (128, 128), 16)
    assert found is None or not found.suffices


def test_a_homography_is_a_model_too(photo):
    gt, _ = MATLAB.make_lq(photo)
    (one,) = rectified(photo, turned(photo, 20, 1.0), model='homography', flow=False)
    inside = torch.nn.functional.interpolate(one.valid.float(), scale_factor=4) > 0
    assert db(one.image, gt, inside) > 28


def test_the_gate_is_the_result_where_there_is_evidence_and_the_input_elsewhere(rng):
    de, sr, other = (torch.rand(1, 3, 32, 32, generator=rng) for _ in range(3))
    nothing, all_of_it = torch.zeros(1, 1, 8, 8), torch.ones(1, 1, 8, 8)
    pinv = torch.zeros_like(de)

    def spaces(rho: Tensor, fine: Tensor) -> NullSpaces:
        return NullSpaces(pinv, other, torch.zeros(1, 3, 8, 8), Evidence(rho, fine, rho))

    assert torch.equal(gated(de, sr, spaces(nothing, nothing)), de)
    torch.testing.assert_close(gated(de, sr, spaces(all_of_it, nothing)), sr)
    torch.testing.assert_close(gated(de, sr, spaces(all_of_it, all_of_it)), other)
    some = torch.full_like(nothing, 0.8)
    share = 0.8 * 0.1 / (0.1 + 1 - 0.8**2)
    expected = (1 - share) * sr + share * other
    torch.testing.assert_close(gated(de, sr, spaces(all_of_it, some)), expected)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'rectify': {'matcher': 'surf'}}, 'rectify:matcher is'),
        ({'rectify': {'model': 'spline'}}, 'rectify:model is'),
        ({'rectify': {'flow': 'yes'}}, 'rectify:flow is'),
        ({'rectify': {'window': 3}}, 'rectify:window'),
        ({'rectify': 'sift'}, 'rectify'),
        ({'gate': 'evidence'}, 'without rectify nothing is known'),
        ({'gate': 'on'}, 'gate is'),
        ({'project': True}, 'project is'),
    ],
)
def test_options_that_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        FromReferences(MATLAB, **options)


def test_a_training_does_not_rectify():
    method = FromReferences(MATLAB, rectify={'matcher': 'sift'})
    method.check_data({}, is_train=False)
    with pytest.raises(ValueError, match='rectify is for whole images'):
        method.check_data({}, is_train=True)


def test_matches_on_a_line_are_no_geometry():
    places = torch.stack((torch.linspace(10, 90, 40), torch.linspace(5, 85, 40)), dim=1).double()
    found = confirm(Matches(places, places + 3), (100, 100), 16)
    assert found is None or not found.suffices  # they cover nothing


@pytest.mark.parametrize('case', ['identical', 'panorama', 'much larger', 'ten'])
def test_odd_references_do_no_harm(photo, case):
    """One line in the log for each, and at worst the enhanced input."""
    gt, refs = photo, [photo]
    if case == 'panorama':
        gt = photo[..., 100:128, :280]
        refs = [gt.roll(4, dims=-1)]
    elif case == 'much larger':
        gt = photo[..., :80, :100]
        refs = [torch.nn.functional.interpolate(gt, scale_factor=20, mode='bicubic').clamp(0, 1)]
    elif case == 'ten':
        refs = [photo.roll((k, 2 * k), dims=(-2, -1)) for k in range(10)]
    gt, lq = MATLAB.make_lq(gt)
    with told_lines('basicsr.references') as lines:
        views = Rectifier(MATLAB, 'sift')(lq, enhance(lq), [Reference(r) for r in refs], enhance)
    assert len(lines) == len(refs)
    assert len(views) == len(refs) or case in ('panorama', 'much larger')
    sr = de = project(enhance(lq), lq, OPERATOR)
    if views:
        best = best_of([(v.image, v.evidence, v.valid) for v in views], 4)
        sr = with_null_space(lq, enhance(lq), best.image, best.evidence, OPERATOR)
    assert db(sr, gt) > db(de, gt) - 0.01
    if case in ('identical', 'ten'):
        assert db(sr, gt) > db(de, gt) + 5
