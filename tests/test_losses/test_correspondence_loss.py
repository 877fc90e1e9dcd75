from __future__ import annotations

import json

import pytest
import torch
from golden_noise import noise
from repository import REPOSITORY
from torch.nn import functional as F
from torch.testing import assert_close

from defsr.losses.correspondence_loss import ContrastiveLoss, CorrelationDistillationLoss, Pairs

GOLDEN = json.loads((REPOSITORY / 'tests/golden/c2_losses.json').read_text())
HOMOGRAPHIES = [
    [[1.03, 0.02, -3.0], [-0.01, 0.98, 2.0], [1e-4, -2e-4, 1.0]],
    [[0.97, -0.03, 4.0], [0.02, 1.01, -1.0], [-1e-4, 1e-4, 1.0]],
]


def pairs_of(query, key, height=16, width=18):
    """As C2-Matching places them: the top left pixels of cells, 10 pixels from the border."""
    columns, rows = torch.meshgrid(torch.arange(width), torch.arange(height), indexing='xy')
    grid = torch.stack((4.0 * columns, 4.0 * rows, torch.ones(height, width))).double().flatten(1)
    found = []
    for n, homography in enumerate(HOMOGRAPHIES):
        mapped = torch.tensor(homography, dtype=torch.float64) @ grid
        x, y = (mapped[:2] / mapped[2]).unflatten(1, (height, width))
        valid = (x > 10) & (x < 4 * width - 10) & (y > 10) & (y < 4 * height - 10)
        maps = (F.normalize(each[n], dim=0) for each in (query, key))
        found.append(Pairs.of(*maps, torch.stack((y, x)) / 4, valid))
    return found


@pytest.mark.parametrize('kind', ['teacher', 'student'])
def test_its_own_codes_numbers(kind):
    """yumingj/C2-Matching at 6d60149, ``loss_function`` of both models; it sums in float32."""
    maps = {k: (noise(k, 2, 12, 16, 18) - 0.5).requires_grad_() for k in ('q', 'k', 'tq', 'tk')}
    pairs = pairs_of(maps['q'], maps['k'])
    loss = sum(map(ContrastiveLoss(), pairs)) / 2
    if kind == 'student':
        taught = pairs_of(maps['tq'].detach(), maps['tk'].detach())
        distill = sum(map(CorrelationDistillationLoss(), pairs, taught)) / 2
        assert_close(float(distill.detach()) / 15, GOLDEN[kind]['distill'], rtol=1e-6, atol=0)
        loss = loss + distill
    loss.backward()
    want = GOLDEN[kind]
    assert_close(float(loss.detach()), want['loss'], rtol=1e-6, atol=0)
    for name, norm, entries in zip('qk', want['grad'], want['entries'], strict=True):
        gradient = maps[name].grad
        assert_close(float(gradient.norm()), norm, rtol=1e-6, atol=0)
        assert_close(gradient[1, 3, 5, 4:9], torch.tensor(entries).double(), rtol=1e-6, atol=1e-9)


def test_distinct_features_in_their_places_cost_nothing():
    """Orthogonal ones, margin 1: distances are 0 and 2. Beyond the radius there must be others."""
    feat = torch.eye(36).view(36, 6, 6)
    own = torch.stack(torch.meshgrid(torch.arange(6), torch.arange(6), indexing='ij'))
    valid = torch.ones(6, 6, dtype=torch.bool)
    right = Pairs.of(feat, feat, own.float() + 0.4, valid)
    wrong = Pairs.of(feat, feat, own.float().flip(1), valid)
    loss = ContrastiveLoss(safe_radius=1)
    # A third of the rows moves by one only, where the true place is too near to be a negative.
    assert float(loss(right)) == 0 and float(loss(wrong)) == pytest.approx((2 * 3 + 1) / 3)
    assert float(CorrelationDistillationLoss()(right, right)) == pytest.approx(0, abs=1e-6)
    assert float(CorrelationDistillationLoss()(wrong, right)) > 10
