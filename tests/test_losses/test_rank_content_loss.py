"""RankContentLoss: the published number where the Ranker is at rest, and one that stays so."""

from __future__ import annotations

import json

import pytest
import torch
from golden_weights import fill, image
from repository import REPOSITORY
from torch.testing import assert_close

from defsr.archs.ranksrgan_arch import Ranker
from defsr.losses.rank_content_loss import RankContentLoss

GOLDEN = json.loads((REPOSITORY / 'tests/golden/ranksrgan.json').read_text())


@pytest.fixture(scope='module')
def file(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp('ranker') / 'ranker.pth'
    torch.save(fill(Ranker().double().state_dict(), 2.6), path)
    return str(path)


def test_the_published_loss(file):
    """RankSRGAN at b313c24: 0.03 times the sum of the sigmoid of the score, less a bias."""
    loss = RankContentLoss(file, bias=0.1, reduction='sum').double()
    loss.ranker.load_state_dict(torch.load(file, weights_only=True))  # all of their digits
    sr = image(2, 3, 64, 64).requires_grad_()
    value = loss(sr)
    value.backward()
    want = GOLDEN['loss_eval']
    assert value.item() == pytest.approx(want['loss'], rel=1e-8)
    found = torch.cat([sr.grad.norm().view(1), sr.grad.flatten()[::1999]])
    assert_close(found, torch.tensor(want['grad'], dtype=torch.float64), rtol=1e-6, atol=1e-12)


def test_the_ranker_stays_as_it_is(file):
    loss = RankContentLoss(file)
    before = {name: value.clone() for name, value in loss.ranker.state_dict().items()}
    sr = torch.rand(2, 3, 40, 67, requires_grad=True)
    both = loss(sr, torch.rand(2, 3, 40, 67))
    assert_close(both, (loss(sr[:1]) + loss(sr[1:])) / 2)
    both.backward()
    assert float(sr.grad.abs().sum()) > 0 and loss.ranker.conv0_0.weight.grad is None
    for name, value in loss.ranker.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_ranker_of_another_width(file):
    with pytest.raises(ValueError, match='train:rank_opt:weights is .*another architecture'):
        RankContentLoss(file, num_feat=8)
    with pytest.raises(FileNotFoundError, match='train:rank_opt:weights is none.pth'):
        RankContentLoss.check('train:rank_opt', {'weights': 'none.pth'})
