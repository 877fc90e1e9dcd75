from dataclasses import asdict

import numpy as np
import pytest

from defsr.data.correspondence import (
    COLUMNS,
    Correspondence,
    read_correspondences,
    true_positions,
    write_correspondences,
)
from defsr.data.pair_synthesis import Photometry


def truth(name, unrelated=False):
    homography = np.array([[1 / 3, 0.1, 5], [-0.1, 0.9, 2e-17], [1e-5, -2e-4, 1]])
    return Correspondence(
        name=name,
        gt_source='a, b.jpg',  # a comma in a field
        gt_xy=(3, 70),
        ref_source='other.png',
        unrelated=unrelated,
        overlap_asked=0.1 + 0.2,
        overlap=1 / 3,
        homography=np.full((3, 3), np.nan) if unrelated else homography,
        photometry=Photometry(gamma=1 / 7, hue=-3.25),
    )


def test_file_keeps_every_digit(tmp_path):
    truths = [truth('a_0.png'), truth('ä_1.png', unrelated=True)]
    write_correspondences(tmp_path / 'c.csv', truths)
    back = read_correspondences(tmp_path / 'c.csv')
    assert list(back) == ['a_0.png', 'ä_1.png']
    for written, read in zip(truths, back.values(), strict=True):
        written, read = asdict(written), asdict(read)
        np.testing.assert_array_equal(written.pop('homography'), read.pop('homography'))
        assert written == read


def test_foreign_columns_are_refused(tmp_path):
    (tmp_path / 'c.csv').write_text('name,x\na,1\n')
    with pytest.raises(ValueError, match=r"has the columns \['name', 'x'\], expected"):
        read_correspondences(tmp_path / 'c.csv')


@pytest.mark.parametrize('line', ['a_0.png,a.jpg,3', 'x,' * (len(COLUMNS) - 1) + 'x'])
def test_damaged_line_is_named(tmp_path, line):
    write_correspondences(tmp_path / 'c.csv', [truth('a_0.png')])
    with open(tmp_path / 'c.csv', 'a') as file:
        file.write(line + '\n')
    with pytest.raises(ValueError, match=r'c\.csv, line 3 is damaged'):
        read_correspondences(tmp_path / 'c.csv')


def test_true_positions_are_rows_then_columns():
    homography = np.array([[2.0, 0, 1], [0, 3, -1], [0.5, 0, 1]])
    places = true_positions(homography, 4, 6)
    assert places.shape == (2, 4, 6) and places.dtype == np.float64
    # pixel in row 3, column 2: x' = (2*2+1)/2, y' = (3*3-1)/2
    np.testing.assert_allclose(places[:, 3, 2], [4.0, 2.5])
    np.testing.assert_array_equal(true_positions(np.eye(3), 4, 6), np.mgrid[:4, :6])
    assert np.isnan(true_positions(np.full((3, 3), np.nan), 2, 3)).all()
