"""The kernel for GPUs by Triton's interpreter: what the search in tiles finds, on small maps."""

from __future__ import annotations

import subprocess
import sys

import pytest
from repository import REPOSITORY

CASES = """
import math, torch
from defsr.ops import matching_fused
from defsr.ops.matching import EPS, match_patches, patch_norm, search_on_gpu
from defsr.ops.matching_near import match_patches_near

matching_fused.PROGRAMS, matching_fused.BLOCK_KEY = 3, 64  # interpreted, each block takes its time
rng = torch.Generator().manual_seed(0)
cases = [  # queries, keys, patch, products held, share of keys allowed, reach
    ((9, 13), (11, 7), 3, 2**27, 1.0, None),
    ((9, 13), (11, 7), 5, 12000, 0.4, None),
    ((12, 11), (18, 9), 3, 9000, 0.4, None),
    ((5, 4), (6, 3), 1, 2**27, 1.0, None),
    ((1, 1), (1, 1), 3, 2**27, 1.0, None),
    ((13, 10), (13, 10), 3, 6000, 0.1, 1),
    ((7, 9), (7, 9), 5, 2**27, 1.0, 3),
]
for size, key_size, patch, products, share, reach in cases:
    query, key = (torch.randn(2, 4, *sides, generator=rng) for sides in (size, key_size))
    mask = torch.rand(key_size, generator=rng) < share
    if reach is None:
        index, confidence = match_patches(query, key, patch, key_mask=mask)
    else:
        index, confidence = match_patches_near(query, key, reach, patch, key_mask=mask)
    norm = patch_norm(query, patch).clamp_min(EPS)
    options = {'reach': reach, 'products': products}
    found, score = search_on_gpu(query, key, patch, mask, norm, **options)
    some = score > -math.inf
    assert some.all() or reach is not None
    assert torch.equal(found[some], index[some])
    torch.testing.assert_close((score / norm)[some], confidence[some])
    assert not confidence[~some].any()
print('alike')
"""


def test_interpreted_it_finds_what_the_tiles_find():
    pytest.importorskip('triton')
    code = 'import os; os.environ["TRITON_INTERPRET"] = "1"' + CASES
    command = [sys.executable, '-c', code]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.stdout.strip() == 'alike', done.stderr[-2000:]
