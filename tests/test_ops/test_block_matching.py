"""Matching and transfer in blocks against their plain definitions."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from defsr.ops import block_matching
from defsr.ops.block_matching import match_block_centres, match_in_windows
from defsr.ops.block_transfer import transfer_in_blocks
from defsr.ops.patch_cosine import patch_cosine


@pytest.mark.parametrize('elements', [2**22, 500])
def test_centres_by_the_plain_definition(rng, monkeypatch, elements):
    monkeypatch.setattr(block_matching, 'ELEMENTS', elements)
    query = torch.randn(2, 4, 16, 24, generator=rng)
    key = torch.randn(2, 4, 11, 9, generator=rng)
    total = 0
    for d in (1, 2, 3):
        unfolded = [F.normalize(F.unfold(x, 3, padding=d, dilation=d), dim=1) for x in (query, key)]
        total = total + unfolded[0].mT @ unfolded[1]
    middles = total.view(2, 16, 24, -1)[:, 4::8, 4::8]
    score, index = middles.max(dim=3)
    found = match_block_centres(query, key)
    assert torch.equal(found[0], index)
    assert_close(found[1], score)


@pytest.mark.parametrize('elements', [2**22, 500])
def test_windows_by_the_plain_definition(rng, monkeypatch, elements):
    monkeypatch.setattr(block_matching, 'ELEMENTS', elements)
    query = torch.randn(2, 4, 16, 24, generator=rng)
    key = torch.randn(2, 4, 11, 19, generator=rng)
    blocks = torch.tensor([[0, 1, 2], [1, 0, 0], [1, 1, 1]])
    origin = torch.tensor([[2, 3], [0, 11], [4, 0]])
    found = match_in_windows(query, key, blocks, origin, (7, 8))
    unfolded = F.unfold(F.pad(query, (1,) * 4, mode='replicate'), 3).view(2, -1, 16, 24)
    for b, (n, row, column) in enumerate(blocks.tolist()):
        own = unfolded[n, :, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
        top, left = origin[b].tolist()
        theirs = F.unfold(key[n : n + 1, :, top : top + 7, left : left + 8], 3)[0]
        best = (F.normalize(own.flatten(1), dim=0).T @ F.normalize(theirs, dim=0)).argmax(dim=1)
        want = torch.stack((best // 6 + top + 1, best % 6 + left + 1)).view(2, 8, 8)
        assert torch.equal(found[b], want)


def test_cosines_and_their_gradients(rng):
    maps = [torch.randn(2, 4, 5, 6, generator=rng).double().requires_grad_() for _ in range(2)]
    match = torch.stack(
        (
            torch.randint(1, 4, (2, 5, 6), generator=rng),
            torch.randint(1, 5, (2, 5, 6), generator=rng),
        ),
        dim=1,
    )
    found = patch_cosine(*maps, match, border='replicate').unsqueeze(1)
    own = F.unfold(F.pad(maps[0], (1,) * 4, mode='replicate'), 3)
    theirs = F.unfold(maps[1], 3, padding=1)
    flat = (match[:, 0] * 6 + match[:, 1]).flatten(1).unsqueeze(1).expand(-1, own.shape[1], -1)
    want = F.cosine_similarity(own, theirs.gather(2, flat), dim=1).view_as(found)
    assert_close(found, want)
    project = torch.randn(found.shape, generator=rng).double()
    gradients = [torch.autograd.grad((x * project).sum(), maps) for x in (found, want)]
    assert_close(gradients[0], gradients[1])


@pytest.mark.parametrize('factor', [1, 2, 4])
def test_transfer_by_fold(rng, factor):
    """As published: patches unfolded, indexed, folded and divided by the overlap, per block."""
    feat = torch.randn(2, 3, 9 * factor, 11 * factor, generator=rng)
    match = torch.stack(
        (
            torch.randint(1, 8, (2, 8, 16), generator=rng),
            torch.randint(1, 10, (2, 8, 16), generator=rng),
        ),
        dim=1,
    )
    weight = torch.rand(2, 1, 8, 16, generator=rng)
    found = transfer_in_blocks(feat, match, weight, factor)
    side = 3 * factor
    patches = F.unfold(feat, side, stride=factor)  # of each cell that has all its neighbours
    for column in (0, 1):
        here = slice(8 * column, 8 * column + 8)
        index = ((match[:, 0] - 1) * 9 + match[:, 1] - 1)[..., here].flatten(1)
        taken = patches.gather(2, index.unsqueeze(1).expand(-1, patches.shape[1], -1))
        fold = {'kernel_size': side, 'padding': factor, 'stride': factor}
        folded = [F.fold(x, 8 * factor, **fold) for x in (taken, torch.ones_like(taken))]
        soft = F.interpolate(weight[..., here], scale_factor=factor, mode='bilinear')
        want = folded[0] / folded[1] * soft
        assert_close(found[..., 8 * factor * column : 8 * factor * (column + 1)], want)


def test_constants_stay_constant():
    match = torch.full((2, 2, 16, 8), 2)
    out = transfer_in_blocks(torch.ones(2, 3, 20, 20), match, torch.ones(2, 1, 16, 8), 4)
    assert_close(out, torch.ones(2, 3, 64, 32))


def test_refuses_other_sizes():
    with pytest.raises(ValueError, match='query is 8x12'):
        match_block_centres(torch.zeros(1, 4, 8, 12), torch.zeros(1, 4, 9, 9))
