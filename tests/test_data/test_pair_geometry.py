import cv2
import numpy as np
import pytest

from defsr.data.pair_geometry import (
    clipped_area,
    displace_to_overlap,
    polygon_area,
    project,
    render_view,
    room_inside,
    translation,
    window_corners,
)

LOW, HIGH = np.array([0.0, 0.0]), np.array([4.0, 2.0])
SQUARE = np.array([[0.0, 0], [2, 0], [2, 2], [0, 2]])
DIAMOND = np.array([[2.0, -1], [4, 1], [2, 3], [0, 1]])  # its tips reach out of the box


@pytest.mark.parametrize(
    ('polygon', 'area'),
    [
        (SQUARE, 4.0),
        (SQUARE + 1, 2.0),
        (SQUARE + (3, 0.5), 1.5),
        (SQUARE[::-1] + 1, 2.0),  # the other way round
        (SQUARE + 10, 0.0),
        (SQUARE + (4, 0), 0.0),  # touches
        (DIAMOND, 6.0),  # 8 less two triangles of area 1
        (np.array([[-9.0, -9], [9, -9], [9, 9], [-9, 9]]), 8.0),
    ],
)
def test_clipped_area(polygon, area):
    assert clipped_area(polygon, LOW, HIGH) == pytest.approx(area, abs=1e-12)


def test_polygon_area_and_corners():
    assert polygon_area(window_corners(7)) == pytest.approx(49)
    np.testing.assert_array_equal(window_corners(3)[[0, 2]], [[-0.5, -0.5], [2.5, 2.5]])


def test_project_divides_and_hides_what_lies_behind():
    homography = np.array([[2.0, 0, 1], [0, 3, -1], [0.5, 0, 1]])
    points = np.array([[2.0, 1.0], [-2.0, 1.0], [-4.0, 1.0]])
    mapped = project(homography, points)
    np.testing.assert_allclose(mapped[0], [2.5, 1.0])
    assert np.isnan(mapped[1:]).all()  # depth 0 and -1
    np.testing.assert_allclose(project(translation(3, -4), points), points + (3, -4))


@pytest.mark.parametrize('target', [0.1, 0.5, 0.99, 1.0])
def test_displacement_reaches_the_overlap(target):
    box = (np.array([9.5, 19.5]), np.array([49.5, 59.5]))
    quad = np.array([[-26.0, -24], [25, -25], [24, 26], [-25, 24]])
    rng = np.random.default_rng(1)
    directions = []
    for _ in range(20):
        moved = displace_to_overlap(rng, quad, box, target)
        assert clipped_area(moved, *box) / 1600 == pytest.approx(target, abs=1e-3)
        directions.append((moved - quad)[0] - (29.5, 39.5))
    assert (np.ptp(directions, axis=0) > (0 if target == 1 else 0.2)).all()


def test_displacement_stays_at_the_centre_if_the_overlap_is_out_of_reach():
    box = (np.array([9.5, 19.5]), np.array([49.5, 59.5]))
    moved = displace_to_overlap(np.random.default_rng(0), SQUARE - 1, box, 0.9)
    np.testing.assert_allclose(moved.mean(axis=0), (29.5, 39.5))


def test_room_inside():
    room = room_inside(SQUARE, (4, 6))  # covers -0.5 .. 5.5 by -0.5 .. 3.5
    np.testing.assert_allclose(room, [[-0.5, -0.5], [3.5, 1.5]], atol=1e-4)
    assert (room_inside(9 * SQUARE, (4, 30))[0] > room_inside(9 * SQUARE, (4, 30))[1])[1]


def test_whole_pixel_window_is_copied(photo):
    view = render_view(photo, translation(31, 17), 64)
    np.testing.assert_array_equal(np.rint(view * 255), photo[17:81, 31:95])


def test_rows_and_columns_are_not_confused():
    ramp = np.zeros((60, 90, 3), np.uint8)
    ramp[..., 0], ramp[..., 1] = np.arange(90), 2 * np.arange(60)[:, None]
    turned = np.array([[0.0, -1.25, 60.25], [1.25, 0, 10.5], [0, 0, 1]])  # a 90-degree turn
    view = render_view(ramp, turned, 30) * 255
    rows, columns = np.mgrid[4:26, 4:26]
    inner = view[4:26, 4:26]
    np.testing.assert_allclose(inner[..., 0], 60.25 - 1.25 * rows, atol=0.1)
    np.testing.assert_allclose(inner[..., 1], 2 * (10.5 + 1.25 * columns), atol=0.1)


@pytest.mark.parametrize('pattern', ['stripes', 'checkerboard'])
def test_shrinking_does_not_alias(pattern):
    rows, columns = np.mgrid[:200, :200]
    bright = columns % 2 if pattern == 'stripes' else (rows + columns) % 2
    photo = np.repeat((255 * bright)[..., None], 3, axis=2).astype(np.uint8)
    shrunk = np.array([[1.8, 0, 20.3], [0, 1.8, 20.3], [0, 0, 1]])
    assert render_view(photo, shrunk, 64).std() < 0.05  # 0.25 and more for bare sampling


def test_half_pixel_shift_stays_sharp(photo):
    view = render_view(photo, translation(40.5, 60.5), 128)
    reference = photo[60:188, 40:168] / 255.0
    lanczos, sharp = (float(np.diff(x, axis=1).std()) for x in (view, reference))
    bilinear = cv2.resize(photo, None, fx=1, fy=1)[60:189, 40:169] / 255.0
    bilinear = (bilinear[1:, 1:] + bilinear[:-1, :-1] + bilinear[1:, :-1] + bilinear[:-1, 1:]) / 4
    assert lanczos > 0.9 * sharp > float(np.diff(bilinear, axis=1).std())


@pytest.fixture(scope='module')
def photo(stereo_paths):
    return cv2.imread(str(stereo_paths[0]), cv2.IMREAD_COLOR)
