"""The random part of a training item."""

from __future__ import annotations

import random

import pytest
import torch

from defsr.data.augmentation import Dihedral, Position, crop, draw_item


def test_dihedral_is_flips_then_transpose():
    image = torch.arange(6.0).view(1, 2, 3)
    assert torch.equal(Dihedral()(image), image)
    assert torch.equal(Dihedral(hflip=True)(image), image.flip(-1))
    assert torch.equal(Dihedral(vflip=True)(image), image.flip(-2))
    turned = Dihedral(vflip=True, transpose=True)(image)
    assert torch.equal(turned, torch.rot90(image, -1, (-2, -1)))


def test_all_eight_rearrangements_are_reached():
    image = torch.arange(9.0).view(1, 3, 3)
    draws = [draw_item(True, True, 'together') for _ in range(300)]
    assert len({tuple(d.transform(image).flatten().tolist()) for d in draws}) == 8


@pytest.mark.parametrize(
    'use_hflip, use_rot, count', [(False, False, 1), (True, False, 2), (False, True, 4)]
)
def test_switches_limit_the_rearrangements(use_hflip, use_rot, count):
    draws = [draw_item(use_hflip, use_rot, 'independent') for _ in range(200)]
    assert len({d.transform for d in draws}) == count
    assert len({d.ref_transform for d in draws}) == count


def test_ref_augment():
    together = [draw_item(True, True, 'together') for _ in range(100)]
    assert all(d.transform == d.ref_transform for d in together)
    assert all(d.position == d.ref_position for d in together)
    independent = [draw_item(True, True, 'independent') for _ in range(100)]
    same = sum(d.transform == d.ref_transform for d in independent)
    assert 0 < same < 40  # one in eight by chance
    assert all(d.position != d.ref_position for d in independent)
    none = [draw_item(True, True, 'none') for _ in range(100)]
    assert {d.ref_transform for d in none} == {Dihedral()}
    assert len({d.transform for d in none}) == 8


def test_the_options_do_not_change_how_many_numbers_are_drawn():
    following = set()
    for options in ((True, True, 'independent'), (False, False, 'none'), (True, False, 'together')):
        random.seed(3)
        draw_item(*options)
        following.add(random.random())
    assert len(following) == 1


def test_every_offset_is_reached_and_none_beyond():
    positions = [draw_item(True, True, 'none').position for _ in range(300)]
    offsets = {p.offset_yx(torch.empty(3, 12, 10), 8) for p in positions}
    assert offsets == {(y, x) for y in range(5) for x in range(3)}
    assert {p.offset_yx(torch.empty(3, 6, 8), 8) for p in positions} == {(0, 0)}
    assert Position(0.999999, 0.999999).offset_yx(torch.empty(3, 12, 10), 8) == (4, 2)


def test_every_reference_is_picked():
    names = ('r1', 'r2', 'r3')
    picks = [draw_item(True, True, 'none').pick(names) for _ in range(300)]
    assert {picks.count(i) > 60 for i in range(3)} == {True}


def test_crop_inside_is_a_slice():
    image = torch.arange(2 * 5 * 7.0).view(2, 5, 7)
    assert torch.equal(crop(image, 1, 2, 4), image[:, 1:5, 2:6])


@pytest.mark.parametrize('height, width', [(5, 7), (9, 6), (1, 3)])
def test_crop_beyond_the_border_mirrors(height, width):
    """Against numpy, also where the padding is longer than the image."""
    numpy = pytest.importorskip('numpy')
    image = torch.arange(2.0 * height * width).view(2, height, width)
    rest = ((0, 0), (0, max(16 - height, 0)), (0, max(16 - width, 0)))
    expected = numpy.pad(image.numpy(), rest, mode='reflect')
    assert torch.equal(crop(image, 0, 0, 16), torch.from_numpy(expected))
