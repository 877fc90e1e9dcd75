"""Padding to multiples: by reflection, also beyond the image's own size, and by its edge."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from defsr.ops.padding import pad_edge, pad_reflect


@pytest.mark.parametrize('size', [(1, 1), (2, 3), (5, 8), (17, 9)], ids=str)
@pytest.mark.parametrize('mode', ['reflect', 'edge'])
def test_padding_is_numpys(size, mode, rng):
    x = torch.rand(2, 3, *size, generator=rng)
    height, width = (-side % 8 for side in size)
    expected = np.pad(x.numpy(), ((0, 0), (0, 0), (0, height), (0, width)), mode=mode)
    pad = {'reflect': pad_reflect, 'edge': pad_edge}[mode]
    assert torch.equal(pad(x, 8), torch.from_numpy(expected))
