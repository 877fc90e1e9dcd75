from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from defsr.data.correspondence import true_positions
from defsr.data.pair_geometry import project, window_corners
from defsr.data.pair_settings import PairSettings
from defsr.data.pair_synthesis import (
    Photometry,
    apply_photometry,
    draw_photometry,
    draw_view,
    make_pair,
    pair_generators,
)

PLAIN = PairSettings(size=96, ref_size=112, photometric=0, unrelated=0)


@pytest.fixture(scope='module')
def photos() -> dict[str, np.ndarray]:
    skimage = pytest.importorskip('skimage')
    folder = Path(skimage.__file__).parent / 'data'
    names = ('astronaut.png', 'chelsea.png', 'coffee.png')
    return {name: cv2.imread(str(folder / name), cv2.IMREAD_COLOR)[..., ::-1] for name in names}


def back_to_gt(pair, shift_xy=(0.0, 0.0)):
    """The reference sampled at each ground-truth pixel's true place; where that lies inside."""
    size = pair.gt.shape[0]
    rows, columns = true_positions(pair.homography, size, size)
    rows, columns = rows + shift_xy[1], columns + shift_xy[0]
    edge = pair.ref.shape[0] - 1
    inside = (rows >= 1) & (rows <= edge - 1) & (columns >= 1) & (columns <= edge - 1)
    places = columns.astype(np.float32), rows.astype(np.float32)
    return cv2.remap(pair.ref, *places, cv2.INTER_CUBIC), inside


def psnr(a, b):
    return 10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2))


@pytest.mark.parametrize('name', ['astronaut.png', 'chelsea.png', 'coffee.png'])
def test_homography_leads_to_the_same_content(photos, name):
    for k in range(6):
        pair = make_pair(name, k, PLAIN, [], photos.get)
        warped, inside = back_to_gt(pair)
        exact = psnr(warped[inside], pair.gt[inside])
        assert exact > 28
        for shift in ((0.5, 0), (-0.5, 0), (0, 0.5), (0, -0.5)):
            warped, inside = back_to_gt(pair, shift)
            assert psnr(warped[inside], pair.gt[inside]) < exact  # half a pixel off is seen


def test_overlap_is_the_share_of_pixels_that_the_reference_shows(photos):
    for k in range(20):
        pair = make_pair('coffee.png', k, PLAIN, [], photos.get)
        places = true_positions(pair.homography, 96, 96)
        shown = ((places >= -0.5) & (places < 111.5)).all(axis=0).mean()
        assert shown == pytest.approx(pair.overlap, abs=0.01)
        assert pair.overlap == pytest.approx(pair.overlap_asked, abs=0.02)
        assert 0.4 <= pair.overlap_asked <= 1


@pytest.mark.parametrize('overlap', [(0.2, 0.25), (0.5, 0.9), (1.0, 1.0)])
def test_overlap_follows_the_request(overlap):
    settings = replace(PLAIN, overlap=overlap)
    views = [
        draw_view(np.random.default_rng(seed), settings, (300, 420), (seed, 2 * seed))
        for seed in range(60)
    ]
    reached = np.array([view.overlap for view in views])
    asked = np.array([view.overlap_asked for view in views])
    assert (abs(reached - asked) < 1e-3).mean() > 0.9
    assert reached.min() >= overlap[0] - 0.002
    assert 0.8 * np.ptp(overlap) <= np.ptp(asked) <= np.ptp(overlap)


# (height, width) of the photograph: roomy, a strip, hardly larger, and too small for most views
@pytest.mark.parametrize('photo_size', [(300, 420), (100, 420), (114, 118), (97, 96), (96, 96)])
@pytest.mark.parametrize('related', [True, False])
def test_window_never_leaves_the_photograph(photo_size, related):
    settings = replace(PLAIN, scale=(0.5, 1.33))
    height, width = photo_size
    for seed in range(8):
        rng = np.random.default_rng(seed)
        gt_xy = (width - 96, (height - 96) // 2) if related else None  # at the right border
        view = draw_view(rng, settings, photo_size, gt_xy)
        corners = project(view.ref_to_photo, window_corners(settings.ref_size))
        assert (corners >= -0.501).all()
        assert (corners <= np.array([width, height]) - 0.499).all()


def test_photograph_of_one_window_gives_that_window():
    settings = replace(PLAIN, ref_size=96, scale=(0.75, 1.0))
    view = draw_view(np.random.default_rng(3), settings, (96, 96), (0, 0))
    np.testing.assert_allclose(view.ref_to_photo, np.eye(3), atol=1e-3)
    assert view.overlap == pytest.approx(1, abs=1e-4)


def test_no_border_is_black():
    white = np.full((120, 130, 3), 255, np.uint8)
    for k in range(10):
        pair = make_pair('white', k, PLAIN, [], lambda _: white)
        assert pair.ref.min() == 255


def test_views_vary_within_their_range():
    settings = replace(PLAIN, perspective=0.0, overlap=(0.3, 0.5), rotation=20.0)
    scales, angles = [], []
    for seed in range(100):
        view = draw_view(np.random.default_rng(seed), settings, (600, 800), (300, 200))
        a, b = view.ref_to_photo[0, 0], view.ref_to_photo[1, 0]
        scales.append(1 / np.hypot(a, b))
        angles.append(np.rad2deg(np.arctan2(b, a)))
    assert 0.749 < min(scales) < 0.8 and 1.25 < max(scales) < 1.331
    assert -20.01 < min(angles) < -17 and 17 < max(angles) < 20.01


def test_pair_depends_on_seed_name_and_number_only(photos):
    def same(a, b):
        return np.array_equal(a.gt, b.gt) and np.array_equal(a.ref, b.ref)

    settings = replace(PLAIN, photometric=1)
    read = lambda _: photos['coffee.png']  # noqa: E731  (one content under every name)
    first = make_pair('a.png', 0, settings, [], read)
    make_pair('b.png', 0, settings, [], read)
    assert same(first, make_pair('a.png', 0, settings, ['c.png', 'd.png'], read))
    for name, k, seed in (('b.png', 0, 0), ('a.png', 1, 0), ('a.png', 0, 1)):
        assert not same(first, make_pair(name, k, replace(settings, seed=seed), [], read))


def test_colours_do_not_move_the_geometry(photos):
    plain = make_pair('coffee.png', 2, PLAIN, [], photos.get)
    strong = make_pair('coffee.png', 2, replace(PLAIN, photometric=1), [], photos.get)
    np.testing.assert_array_equal(plain.homography, strong.homography)
    np.testing.assert_array_equal(plain.gt, strong.gt)
    assert plain.photometry == Photometry() != strong.photometry
    assert abs(plain.ref.astype(int) - strong.ref).mean() > 2


def test_generators_of_geometry_and_colour_differ():
    geometry, colour = pair_generators(0, 'a.png', 0)
    assert geometry.random() != colour.random()


def test_unrelated_share_and_content(photos):
    settings = replace(PLAIN, unrelated=0.3)
    others = ['astronaut.png', 'chelsea.png']
    pairs = [make_pair('coffee.png', k, settings, others, photos.get) for k in range(150)]
    unrelated = [pair for pair in pairs if pair.unrelated]
    assert 0.2 < len(unrelated) / 150 < 0.4  # 0.3 with a standard deviation of 0.037
    assert {pair.ref_source for pair in unrelated} == set(others)
    assert all(pair.overlap == 0 and np.isnan(pair.homography).all() for pair in unrelated)
    assert all(pair.ref_source == 'coffee.png' for pair in pairs if not pair.unrelated)


@pytest.mark.parametrize(
    ('photometry', 'colour', 'expected'),
    [
        (Photometry(), (0.2, 0.4, 0.6), (0.2, 0.4, 0.6)),
        (Photometry(gamma=2), (0.2, 0.4, 0.6), (0.04, 0.16, 0.36)),
        (Photometry(exposure=2.2), (0.1, 0.2, 0.6), (0.2, 0.4, 1.0)),  # twice, clamped
        (Photometry(warmth=2.2), (0.2, 0.4, 0.6), (0.4, 0.4, 0.3)),
        (Photometry(contrast=1.5), (0.2, 0.5, 0.6), (0.05, 0.5, 0.65)),
        (Photometry(hue=120), (0.2, 0.4, 0.6), (0.6, 0.2, 0.4)),  # red's share goes to green
        (Photometry(saturation=0), (1, 0, 0), (0.299, 0.299, 0.299)),
        (Photometry(saturation=1.3, hue=31), (0.4, 0.4, 0.4), (0.4, 0.4, 0.4)),
    ],
)
def test_photometry(photometry, colour, expected):
    image = np.tile(np.float32(colour), (4, 6, 1))
    before = image.copy()
    changed = apply_photometry(image, photometry)
    assert changed.dtype == np.float32
    np.testing.assert_allclose(changed, np.tile(expected, (4, 6, 1)), atol=1e-6)
    np.testing.assert_array_equal(image, before)


def test_drawn_photometry_stays_in_its_ranges():
    drawn = [draw_photometry(np.random.default_rng(seed)) for seed in range(200)]
    limits = {
        'gamma': (0.8, 1.25),
        'exposure': (-0.7, 0.7),
        'warmth': (-0.2, 0.2),
        'contrast': (0.8, 1.25),
        'hue': (-8, 8),
        'saturation': (1 / 1.33, 1.33),
    }
    for name, (low, high) in limits.items():
        values = [getattr(photometry, name) for photometry in drawn]
        assert low <= min(values) < max(values) <= high
        assert max(values) - min(values) > 0.9 * (high - low)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'size': 4}, 'size is 4, but must be at least 8'),
        ({'ref_size': 4}, 'ref_size is 4, but must be at least 8'),
        ({'overlap': (0.8, 0.4)}, 'overlap LOW is 0.8, but must be at most 0.4'),
        ({'overlap': (0.4, 1.1)}, 'overlap HIGH is 1.1, but must be at most 1'),
        ({'overlap': (0.9, 1.0), 'scale': (1.3, 1.4)}, 'shows at most 0.59 .* Lower the overlap'),
        ({'scale': (0.0, 1.0)}, 'scale LOW is 0.0, but must be at least 0.05'),
        ({'rotation': 181.0}, 'rotation is 181.0, but must be at most 180'),
        ({'perspective': 0.3}, 'perspective is 0.3, but must be at most 0.2'),
        ({'photometric': -1.0}, 'photometric is -1.0, but must be at least 0'),
        ({'unrelated': 1.5}, 'unrelated is 1.5, but must be at most 1'),
        ({'seed': -1}, 'seed is -1, but must be at least 0'),
    ],
)
def test_settings_out_of_range(change, message):
    with pytest.raises(ValueError, match=message):
        PairSettings(**change)


def test_min_side():
    assert PairSettings(size=160, ref_size=160).min_side == 160
    assert PairSettings(size=100, ref_size=200, scale=(1.0, 1.5)).min_side == 134
