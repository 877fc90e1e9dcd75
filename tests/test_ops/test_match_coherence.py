"""Matches that agree: planted motions are found among wrong matches, and nothing else moves."""

from __future__ import annotations

import pytest
import torch

from defsr.ops import match_coherence
from defsr.ops.match_coherence import MatchField, agreed_field, mean_place
from defsr.ops.warping import finer_positions

SLOPE = torch.tensor([[0.08, -0.12], [0.15, 0.05]])  # a rotation and a scale


def own_cells(height, width):
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing='ij')
    return torch.stack((rows, columns)).float()


def moved(height, width, shift=(3.0, -2.0), slope=SLOPE):
    """(1, 2, h, w) places under an affine motion."""
    own = own_cells(height, width)
    shift = torch.tensor(shift).view(2, 1, 1)
    return (own + shift + torch.einsum('ij,jhw->ihw', slope, own)).unsqueeze(0)


def spoilt(place, share, rng):
    """That share of the matches lies anywhere; and which."""
    wrong = torch.rand(place.shape[-2:], generator=rng) < share
    anywhere = 40 * torch.rand(place.shape, generator=rng)
    return torch.where(wrong, anywhere, place), wrong


@pytest.mark.parametrize('radius', [2, 4])
@pytest.mark.parametrize('rounded', [False, True])
def test_a_motion_is_found_among_wrong_matches(radius, rounded, rng):
    """A third are wrong, the others whole cells or exact; a scale and a rotation."""
    truth = moved(30, 26)
    place, wrong = spoilt(truth.round() if rounded else truth, 0.35, rng)
    field = agreed_field(place, torch.ones(1, 30, 26), radius)
    error = (field.place - truth).abs().amax(dim=1)[0]
    assert float((error < 0.5).float().mean()) > 0.97
    assert float((error[wrong] < 0.5).float().mean()) > 0.9, 'wrong ones follow the others'
    if not rounded:
        inside = slice(radius, -radius)
        slope = field.slope[0, :, :, inside, inside].median(dim=-1).values.median(dim=-1).values
        torch.testing.assert_close(slope, SLOPE, rtol=0, atol=0.03)


def test_two_motions_stay_two(rng):
    """Left and right of an edge the scene moves differently: no match ends up in between."""
    left, right = moved(24, 30), moved(24, 30, (-4.0, 6.0), torch.zeros(2, 2))
    truth = torch.where(torch.arange(30) < 15, left, right)
    place, _ = spoilt(truth, 0.2, rng)
    field = agreed_field(place, torch.ones(1, 24, 30), 3)
    error = torch.stack([(field.place - x).abs().amax(dim=1)[0] for x in (left, right)])
    assert float((error.amin(dim=0) < 0.5).float().mean()) > 0.97
    assert float((error[0, :, :12] < 0.5).float().mean()) > 0.97
    assert float((error[1, :, 18:] < 0.5).float().mean()) > 0.97


def test_what_agrees_with_nothing_stays(rng):
    place = 200 * torch.rand(2, 2, 12, 14, generator=rng)
    for weight in (torch.ones(2, 12, 14), torch.zeros(2, 12, 14)):
        field = agreed_field(place, weight, 3)
        assert torch.equal(field.place, place) and not field.slope.any()
    still = agreed_field(moved(12, 14), torch.zeros(1, 12, 14), 3)
    assert torch.equal(still.place, moved(12, 14)), 'without any confidence nobody is followed'


def test_weights_decide(rng):
    """Of two motions, mixed cell by cell, that of the confident is followed."""
    one, other = moved(20, 20), moved(20, 20, (-5.0, 5.0))
    which = torch.rand(20, 20, generator=rng) < 0.5
    for trusted in (which, ~which):
        weight = torch.where(trusted, 1.0, 0.2).unsqueeze(0)
        field = agreed_field(torch.where(which, one, other), weight, 4)
        expected = one if trusted is which else other
        near = (field.place - expected).abs().amax(dim=1) < 0.3
        assert float(near[0, 4:-4, 4:-4].float().mean()) > 0.95


def test_images_and_bands_are_worked_on_alone(rng, monkeypatch):
    """A batch is its images; how many rows are held at a time changes nothing."""
    place = torch.cat([spoilt(moved(17, 13), 0.3, rng)[0] for _ in range(2)])
    weight = torch.rand(2, 17, 13, generator=rng)
    together = agreed_field(place, weight, 3)
    monkeypatch.setattr(match_coherence, 'PIECE', 1)
    for n in range(2):
        alone = agreed_field(place[n : n + 1], weight[n : n + 1], 3)
        for found, expected in zip(alone, together, strict=True):
            torch.testing.assert_close(found[0], expected[n], rtol=0, atol=1e-4)


@pytest.mark.parametrize('factor', [1, 2, 4])
def test_positions_of_a_field(factor, rng):
    """Whole cells: as they are carried without a field; and where an affine motion leads."""
    match_yx = torch.randint(0, 30, (2, 2, 5, 6), generator=rng)
    field = MatchField.of(match_yx)
    assert torch.equal(field.positions(factor), finer_positions(match_yx, factor))
    assert torch.equal(mean_place(field.positions(factor), factor), match_yx.float())
    here = ..., slice(1, 4), slice(2, 6)
    large = ..., slice(factor, 4 * factor), slice(2 * factor, 6 * factor)
    assert torch.equal(field.cut(here).positions(factor), field.positions(factor)[large])

    tilted = MatchField(moved(5, 6), SLOPE.view(1, 2, 2, 1, 1).expand(1, 2, 2, 5, 6))
    # The same motion of the positions, whose centres lie at (i + 0.5) / factor - 0.5 cells.
    cells = (own_cells(5 * factor, 6 * factor) + 0.5) / factor - 0.5
    led = cells + torch.tensor([3.0, -2.0]).view(2, 1, 1)
    led = led + torch.einsum('ij,jhw->ihw', SLOPE, cells)
    expected = ((led + 0.5) * factor - 0.5).round().long()
    off = (tilted.positions(factor)[0] - expected).abs()
    assert off.max() <= 1 and float((off == 0).float().mean()) > 0.95, 'but for rounding'


def test_refuses():
    with pytest.raises(ValueError, match='radius is 0'):
        agreed_field(moved(8, 8), torch.ones(1, 8, 8), 0)
