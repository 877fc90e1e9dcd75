"""Bicubic matrices against BasicSR's ``imresize`` (MATLAB) and against PIL."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from basicsr.utils.matlab_functions import imresize
from PIL import Image

from defsr.ops import downsample_bicubic, downsample_pil, upsample_bicubic
from defsr.ops.resize import bicubic_matrix


@pytest.mark.parametrize('size', [(24, 24), (40, 64), (160, 100), (332, 500)])
def test_equals_imresize(rng, size):
    x = torch.rand(2, 3, *size, generator=rng)
    for n in range(2):
        small, large = imresize(x[n], 1 / 4), imresize(x[n], 4)
        torch.testing.assert_close(downsample_bicubic(x, 4)[n], small, rtol=0, atol=1e-6)
        torch.testing.assert_close(upsample_bicubic(x, 4)[n], large, rtol=0, atol=1e-6)


@pytest.mark.parametrize('size', [(24, 32), (40, 64)])
def test_pil_variant_equals_pil_without_rounding(rng, size):
    x = torch.rand(*size, generator=rng)
    image = Image.fromarray(x.numpy(), mode='F')
    expected = np.asarray(image.resize((size[1] // 4, size[0] // 4), Image.BICUBIC))
    result = downsample_pil(x[None, None], 4)[0, 0]
    torch.testing.assert_close(result, torch.from_numpy(expected.copy()), rtol=0, atol=1e-5)


@pytest.mark.parametrize('border', ['symmetric', 'pil'])
@pytest.mark.parametrize(('length', 'scale'), [(4, 0.25), (1, 4.0), (3, 4.0), (37, 0.5)])
def test_rows_sum_to_one_even_for_tiny_signals(length, scale, border):
    matrix = bicubic_matrix(length, scale, border)
    assert matrix.dtype == torch.float64
    torch.testing.assert_close(matrix.sum(dim=1), torch.ones(len(matrix), dtype=torch.float64))


def test_refuses_sizes_that_are_no_multiple():
    with pytest.raises(ValueError, match='x is 10x12 .* Crop it to 8x12'):
        downsample_bicubic(torch.zeros(1, 3, 10, 12), 4)
