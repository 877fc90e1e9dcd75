from __future__ import annotations

import itertools

import pytest
import torch
from torch.testing import assert_close

from defsr.diffusion.windows import (
    BLOCK,
    CanvasNoise,
    Window,
    WindowedDenoiser,
    content_key,
    cover,
)


@pytest.mark.parametrize('size', [(64, 64), (64, 200), (100, 68), (132, 260)], ids=str)
@pytest.mark.parametrize(('side', 'overlap'), [(64, 32), (64, 0), (32, 20), (128, 64)])
def test_windows_cover_the_image_with_their_overlap(size, side, overlap):
    windows = cover(*size, side, overlap, 4)
    count = torch.zeros(size)
    for window in windows:
        part = window.cut(count)
        part += 1
        assert part.shape == tuple(min(side, length) for length in size)
        assert all(edge % 4 == 0 for edge in (window.top, window.left))
    assert count.min() >= 1
    for axis in (('top', 'bottom'), ('left', 'right')):
        spans = sorted({tuple(getattr(window, name) for name in axis) for window in windows})
        for (_, end), (start, _) in itertools.pairwise(spans):
            assert end - start >= overlap


def test_the_papers_example():
    """A 128x256 image as windows that overlap by half."""
    assert cover(256, 512, 256, 128, 4) == [
        Window(0, 256, left, left + 256) for left in (0, 128, 256)
    ]


@pytest.mark.parametrize(
    ('side', 'overlap', 'message'),
    [
        (0, 0, 'tile is 0'),
        (64, 64, 'overlap is 64'),
        (64, -1, 'overlap is -1'),
        (62, 8, 'tile is 62'),
    ],
)
def test_wrong_sizes(side, overlap, message):
    with pytest.raises(ValueError, match=message):
        cover(128, 128, side, overlap, 4)


@pytest.mark.parametrize('windows_per_batch', [1, 5, 100])
def test_a_pointwise_denoiser_does_not_notice_windows(windows_per_batch, rng):
    """Also with a variance half, and a different timestep for each sample."""

    def denoiser(x_t, t):
        answer = torch.sin(3 * x_t) * t.view(-1, 1, 1, 1)
        return torch.cat([answer, x_t], dim=1)

    x_t, t = torch.randn(2, 3, 48, 76, generator=rng), torch.tensor([1.0, 2.0])
    windowed = WindowedDenoiser(denoiser, cover(48, 76, 32, 12, 4), 12, windows_per_batch)
    assert_close(windowed(x_t, t), denoiser(x_t, t), rtol=0, atol=1e-6)


def test_the_blend_falls_over_the_overlap():
    """Windows that answer 0 and 1: a ramp in between, without a step."""
    windows = cover(32, 56, 32, 8, 4)
    answers = iter(torch.stack([torch.full((1, 32, 32), float(i)) for i in range(2)]))
    denoiser = WindowedDenoiser(lambda x_t, t: torch.stack([next(answers)]), windows, 8, 1)
    blend = denoiser(torch.zeros(1, 1, 32, 56), torch.zeros(1))[0, 0, 16]
    assert blend[:24].eq(0).all() and blend[32:].eq(1).all()
    assert blend.diff()[23:32].min() > 0 and blend.diff().max() < 0.15


def test_noise_depends_on_the_place_alone():
    noise = CanvasNoise([5, 6])
    whole = noise.draw(3, Window(0, 150, 0, 2 * BLOCK))
    part = Window(20, 100, BLOCK - 3, 2 * BLOCK)
    assert torch.equal(noise.draw(3, part), part.cut(whole))
    assert torch.equal(CanvasNoise([6]).draw(3, part), part.cut(whole[1:]))
    stream = noise.stream(part)
    draws = [next(stream) for _ in range(4)]
    assert torch.equal(draws[3], part.cut(whole))
    assert not torch.equal(draws[0], draws[1])


def test_noise_is_standard_normal_and_white():
    noise = CanvasNoise([1]).draw(0, Window(0, 512, 0, 512))[0]
    assert abs(noise.mean()) < 0.005 and noise.std().item() == pytest.approx(1, abs=0.005)
    assert abs((noise[:, 1:] * noise[:, :-1]).mean()) < 0.005
    assert abs((noise[:, BLOCK:] * noise[:, :-BLOCK]).mean()) < 0.005, 'blocks differ'


def test_content_key(rng):
    image = torch.rand(3, 4, 6, generator=rng)
    levels = (image * 255).round() / 255
    assert content_key(0, image) == content_key(0, levels)
    assert content_key(0, image) == content_key(0, image.double())
    assert content_key(0, image) != content_key(1, image)
    assert content_key(0, image) != content_key(0, image.flip(-1))
    assert content_key(0, torch.zeros(3, 4, 6)) != content_key(0, torch.zeros(3, 6, 4))
