"""What networks do while they are exported: the same numbers as otherwise, in plain operations."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from defsr.archs import transfer_arch
from defsr.ops import deform, exporting, resize, warping


@pytest.fixture
def exporting_only(monkeypatch):
    """From the call of it on, all believe that a network is being exported."""

    def begin() -> None:
        for module in (deform, resize, transfer_arch, warping):
            monkeypatch.setattr(module, 'is_exporting', lambda: True)

    return begin


def test_nothing_is_exported_by_default():
    assert exporting.is_exporting() is False


@pytest.mark.parametrize('scale', [2, 3, 4])
def test_upsampling(scale, rng, exporting_only):
    x = torch.rand(2, 3, 7, 9, generator=rng, dtype=torch.float64)
    matrices = resize.upsample_bicubic(x, scale)
    exporting_only()
    torch.testing.assert_close(resize.upsample_bicubic(x, scale), matrices, rtol=0, atol=1e-12)


@pytest.mark.parametrize('groups', [1, 2])
def test_deformable_sampling(groups, rng, exporting_only):
    """Far outside the map, too, whose sides are not the result's."""

    def made(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=rng, dtype=torch.float64)

    base = torch.randint(0, 8, (2, 2, 5, 6), generator=rng)
    args = (made(2, 8, 9, 8), base, 4 * made(2, 18 * groups, 5, 6), made(2, 9 * groups, 5, 6))
    args += (made(6, 8, 3, 3), made(6))
    shipped = deform.deform_conv_at(*args)
    exporting_only()
    torch.testing.assert_close(deform.deform_conv_at(*args), shipped, rtol=0, atol=1e-10)
    floats = [x.float() if x.is_floating_point() else x for x in args]
    found = deform.deform_conv_at(*floats).double()
    torch.testing.assert_close(found, shipped, rtol=0, atol=1e-5 * float(shipped.abs().max()))


@pytest.mark.parametrize('factor', [1, 2])
@pytest.mark.parametrize('overlap', ['count', 'nine'])
@pytest.mark.parametrize('patches', ['inside', None])
def test_swapping_patches(factor, overlap, patches, rng, exporting_only):
    feat = torch.rand(2, 3, 9, 8, generator=rng, dtype=torch.float64)
    position = torch.randint(-1, 10, (2, 2, 4 * factor, 5 * factor), generator=rng)
    args = (feat, position, factor, overlap, patches == 'inside')
    shipped = transfer_arch._fold(*args)
    exporting_only()
    torch.testing.assert_close(transfer_arch._fold(*args), shipped, rtol=0, atol=1e-12)


def test_gathering_outside_the_map(rng, exporting_only):
    feat = torch.rand(2, 3, 5, 4, generator=rng)
    position = torch.randint(0, 4, (2, 2, 6, 7), generator=rng)
    shipped = warping.gather_positions(feat, position)
    exporting_only()
    assert torch.equal(warping.gather_positions(feat, position), shipped)
