"""Identities of the degradations, over one list: a new operator needs one new line."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from basicsr.utils.matlab_functions import imresize
from PIL import Image
from torch.testing import assert_close

from defsr.diffusion import AveragePoolDownsample, BicubicDownsample
from defsr.ops import downsample_bicubic, downsample_pil

OPERATORS = [
    BicubicDownsample(4),
    BicubicDownsample(3),
    BicubicDownsample(2),
    BicubicDownsample(4, border='pil'),
    BicubicDownsample(2, border='pil'),
    AveragePoolDownsample(4),
    AveragePoolDownsample(3),
]
LR_SIZES = [(4, 10), (5, 5), (16, 2), (1, 3)]  # at scale 4 the first is 16x40

every_operator = pytest.mark.parametrize('operator', OPERATORS, ids=repr)
every_size = pytest.mark.parametrize('size', LR_SIZES, ids=str)


def images(operator, size, rng, dtype=torch.float64):
    high = [operator.scale * side for side in size]
    x = torch.randn(2, 3, *high, generator=rng, dtype=dtype)
    return x, torch.randn(2, 3, *size, generator=rng, dtype=dtype)


def dense(function, channels_shape):
    """The matrix of a linear function on images of one channel."""
    count = channels_shape[0] * channels_shape[1]
    basis = torch.eye(count, dtype=torch.float64).view(count, 1, *channels_shape)
    return function(basis).flatten(1).T


@every_operator
@every_size
def test_pseudo_inverse_identities(operator, size, rng):
    x, y = images(operator, size, rng)
    degraded, lifted = operator.A(x), operator.A_pinv(y)
    assert degraded.shape == y.shape
    assert lifted.shape == x.shape
    assert_close(operator.A(operator.A_pinv(degraded)), degraded, rtol=0, atol=1e-10)
    assert_close(operator.A_pinv(operator.A(lifted)), lifted, rtol=0, atol=1e-10)
    assert_close(operator.A(lifted), y, rtol=0, atol=1e-10)  # all of full row rank


@every_operator
@every_size
def test_null_space_is_orthogonal_and_invisible(operator, size, rng):
    x, y = images(operator, size, rng)
    null = x - operator.A_pinv(operator.A(x))
    assert_close(operator.A(null), torch.zeros_like(y), rtol=0, atol=1e-10)
    inner = (null * operator.A_pinv(y)).sum()
    assert_close(inner, x.new_zeros(()), rtol=0, atol=1e-10)


@every_operator
@every_size
def test_projection_is_consistent_and_keeps_the_null_space(operator, size, rng):
    x, y = images(operator, size, rng)
    projected = operator.project(x, y)
    assert_close(operator.A(projected), y, rtol=0, atol=1e-10)
    assert_close(operator.project(projected, y), projected, rtol=0, atol=1e-10)
    change = projected - x
    assert_close(change, operator.A_pinv(operator.A(change)), rtol=0, atol=1e-10)


@every_operator
def test_moore_penrose_conditions_of_the_dense_matrices(operator):
    low = (2, 3)
    high = tuple(operator.scale * side for side in low)
    forward, pinv = dense(operator.A, high), dense(operator.A_pinv, low)
    for left, right in [
        (forward @ pinv @ forward, forward),
        (pinv @ forward @ pinv, pinv),
        ((forward @ pinv).T, forward @ pinv),
        ((pinv @ forward).T, pinv @ forward),
    ]:
        assert_close(left, right, rtol=0, atol=1e-10)
    assert_close(pinv, torch.linalg.pinv(forward), rtol=0, atol=1e-10)


@every_operator
@every_size
def test_spectral_basis_is_orthonormal(operator, size, rng):
    x, _ = images(operator, size, rng)
    z = operator.to_spectral(x)
    assert_close(operator.from_spectral(z), x, rtol=0, atol=1e-10)
    assert_close(z.square().sum((2, 3)), x.square().sum((2, 3)), rtol=1e-10, atol=0)


@every_operator
@every_size
def test_singular_values_are_those_of_the_operator(operator, size, rng):
    x, _ = images(operator, size, rng)
    singular = operator.singular_values(*x.shape[-2:])
    assert singular.shape == x.shape[-2:]
    assert singular.dtype == torch.float64
    assert int((singular > 0).sum()) == size[0] * size[1]
    z = operator.to_spectral(x)
    squared = operator.A(x).square().sum((2, 3))  # |A x|^2 = |S V^T x|^2
    assert_close((singular * z).square().sum((2, 3)), squared, rtol=1e-10, atol=0)
    in_range = operator.from_spectral(torch.where(singular > 0, z, 0))
    assert_close(in_range, operator.A_pinv(operator.A(x)), rtol=0, atol=1e-10)


@every_operator
def test_singular_values_diagonalise(operator):
    low = (2, 3)
    high = tuple(operator.scale * side for side in low)
    forward, basis = dense(operator.A, high), dense(operator.from_spectral, high)
    squared = torch.diag(operator.singular_values(*high).flatten() ** 2)
    assert_close(basis.T @ forward.T @ forward @ basis, squared, rtol=0, atol=1e-10)


@every_operator
def test_follows_dtype_and_channels_and_leaves_inputs_alone(operator, rng):
    x = torch.randn(2, 5, 3 * operator.scale, 4 * operator.scale, generator=rng)
    before = x.clone()
    y = operator.A(x)
    for result in (y, operator.A_pinv(y), operator.to_spectral(x), operator.project(x, y)):
        assert result.dtype == torch.float32
        assert result.shape[:2] == (2, 5)
    # float32: errors of about 1e-6 times the condition (below 10).
    assert_close(operator.A(operator.project(x, -y)), -y, rtol=0, atol=1e-5)
    assert_close(x, before, rtol=0, atol=0)


@every_operator
def test_constants_stay(operator):
    x = torch.full((2, 1, 3 * operator.scale, 5 * operator.scale), 0.3, dtype=torch.float64)
    y = operator.A(x)
    assert_close(y, torch.full_like(y, 0.3), rtol=0, atol=1e-12)
    assert_close(operator.A_pinv(y).mean(), x.mean(), rtol=0, atol=0.02)


@pytest.mark.parametrize('scale', [2, 3, 4])
def test_bicubic_is_basicsr_imresize(scale, stereo):
    x = stereo[0][..., 12:132, 24:192]
    expected = imresize(x[0], 1 / scale)
    assert_close(BicubicDownsample(scale).A(x)[0], expected, rtol=0, atol=1e-5)


def test_bicubic_is_the_resize_of_the_package(rng):
    x = torch.rand(2, 3, 16, 40, generator=rng)
    assert torch.equal(BicubicDownsample(4).A(x), downsample_bicubic(x, 4))
    assert torch.equal(BicubicDownsample(4, 'pil').A(x), downsample_pil(x, 4))


@pytest.mark.parametrize('scale', [2, 4])
def test_pil_border_is_pil(scale, stereo):
    x = stereo[0][:, :1, 40:120, 24:192]
    picture = Image.fromarray(np.ascontiguousarray(x[0, 0].numpy()))
    assert picture.mode == 'F'
    small = picture.resize((168 // scale, 80 // scale), Image.Resampling.BICUBIC)
    y = BicubicDownsample(scale, border='pil').A(x)[0, 0]
    assert_close(y, torch.from_numpy(np.array(small)), rtol=0, atol=1e-4)
    inside = (slice(3, -3), slice(3, -3))
    other = BicubicDownsample(scale).A(x)[0, 0]
    assert_close(y[inside], other[inside], rtol=0, atol=1e-5)
    assert (y - other).abs().max() > 1e-3  # the borders differ


@every_operator
def test_errors_name_size_and_remedy(operator):
    scale = operator.scale
    odd = torch.zeros(2, 3, 2 * scale + 1, 3 * scale)
    for method in (operator.A, operator.to_spectral, operator.from_spectral):
        with pytest.raises(ValueError, match=rf'multiples of scale={scale}.*Crop it to'):
            method(odd)
    for method in (operator.A, operator.A_pinv, operator.to_spectral):
        with pytest.raises(ValueError, match=r'must be floating point \(N, C, H, W\)'):
            method(torch.zeros(3, 4 * scale, 4 * scale))
    with pytest.raises(ValueError, match='uint8'):
        operator.A_pinv(torch.zeros(1, 3, 4, 4, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r'y is \(2, 3, 2, 2\).*degrades to \(2, 3, 2, 3\)'):
        operator.project(torch.zeros(2, 3, 2 * scale, 3 * scale), torch.zeros(2, 3, 2, 2))


def test_bad_arguments():
    with pytest.raises(ValueError, match='scale is 0, but must be at least 1'):
        AveragePoolDownsample(0)
    with pytest.raises(ValueError, match='scale is 2.5'):
        BicubicDownsample(2.5)
    with pytest.raises(ValueError, match="border is 'symetric'.*Did you mean `symmetric`"):
        BicubicDownsample(4, border='symetric')


def test_attributes_and_repr():
    operator = BicubicDownsample(4, border='pil')
    assert (operator.scale, operator.border) == (4, 'pil')
    assert repr(operator) == "BicubicDownsample(scale=4, border='pil')"
    assert repr(AveragePoolDownsample(2)) == 'AveragePoolDownsample(scale=2)'
