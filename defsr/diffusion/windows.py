"""Windows of an image that is larger than the denoiser's, and noise that any window can draw."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from defsr.images.levels import to_levels
from defsr.utils.checks import check_above, check_between
from defsr.utils.seeding import derive_seed

BLOCK = 64  # side of the blocks in which noise is drawn


@dataclass(frozen=True)
class Window:
    """A rectangle of an image: rows top..bottom, columns left..right (exclusive)."""

    top: int
    bottom: int
    left: int
    right: int

    def cut(self, image: Tensor, factor: int = 1) -> Tensor:
        """A view of the rectangle in (...,H,W), or in an image ``factor`` times smaller."""
        rows = slice(self.top // factor, self.bottom // factor)
        return image[..., rows, self.left // factor : self.right // factor]


def cover(height: int, width: int, side: int, overlap: int, multiple: int) -> list[Window]:
    """Overlapping windows of one size that cover an image, row by row.

    Args:
        height, width: of the image, multiples of ``multiple``.
        side: of a window; cut to the image where that is smaller.
        overlap: of neighbours, at least, 0 <= overlap < side.
        multiple: windows begin and end at multiples of it (the scale), as ``side`` must.

    Raises:
        ValueError: for a side or an overlap out of range.
    """
    check_above('diffusion:tile', side, 0)
    check_between('diffusion:overlap', overlap, 0, side - multiple)
    if side % multiple:
        raise ValueError(f'diffusion:tile is {side}, but must be a multiple of {multiple}.')
    rows, columns = (_spans(length, side, overlap, multiple) for length in (height, width))
    return [Window(*row, *column) for row in rows for column in columns]


def _spans(length: int, side: int, overlap: int, multiple: int) -> list[tuple[int, int]]:
    if length <= side:
        return [(0, length)]
    number = -(-(length - overlap) // (side - overlap))
    last = (length - side) // multiple
    starts = sorted({multiple * (i * last // (number - 1)) for i in range(number)})
    return [(start, start + side) for start in starts]


class WindowedDenoiser:
    """A denoiser for windows as one for images of any size: windows in batches, blended.

    At a given x_t the predicted noise and the predicted image are affine in each other, so the
    blend is one of x_0 predictions. Weights fall linearly over the overlap.

    Args:
        denoiser: ``(x_t, t) -> answer``, for windows.
        windows: that cover the image, all of one size.
        overlap: over which the weights fall.
        windows_per_batch: how many go through the denoiser at once, >= 1.
    """

    def __init__(
        self,
        denoiser: Callable[[Tensor, Tensor], Tensor],
        windows: Sequence[Window],
        overlap: int,
        windows_per_batch: int,
    ) -> None:
        self.denoiser = denoiser
        self.windows = windows
        self.overlap = overlap
        self.windows_per_batch = windows_per_batch

    def __call__(self, x_t: Tensor, t: Tensor) -> Tensor:
        """(N,C,H,W) and (N,) -> (N,C',H,W)."""
        pairs = [(n, window) for window in self.windows for n in range(len(x_t))]
        total: Tensor | None = None
        share = x_t.new_zeros(x_t.shape[-2:])
        for begin in range(0, len(pairs), self.windows_per_batch):
            batch = pairs[begin : begin + self.windows_per_batch]
            crops = torch.stack([window.cut(x_t[n]) for n, window in batch])
            answers = self.denoiser(crops, t[[n for n, _ in batch]])
            weight = self._weight(answers)
            if total is None:
                total = answers.new_zeros(len(x_t), answers.shape[1], *x_t.shape[-2:])
            for (n, window), answer in zip(batch, answers, strict=True):
                window.cut(total[n]).add_(answer * weight)
                if n == 0:
                    window.cut(share).add_(weight)
        assert total is not None  # there are windows
        return total.div_(share)

    def _weight(self, like: Tensor) -> Tensor:
        rows, columns = (self._ramp(length).to(like) for length in like.shape[-2:])
        return rows[:, None] * columns

    def _ramp(self, length: int) -> Tensor:
        """1 in the middle, falling towards both ends over the overlap, never 0."""
        distance = torch.arange(length, dtype=torch.float64) + 0.5
        distance = torch.minimum(distance, length - distance)
        return (distance / max(self.overlap, 1)).clamp(max=1)


class CanvasNoise:
    """Standard normal noise on an image, which any window can draw at any time.

    Drawn in blocks, each from a generator of its own, in float32 on the CPU: the noise at a pixel
    depends on the key, the number of the draw and the place, not on windows, batches or order.

    Args:
        keys: one per sample, from a seed and the image's content.
        num_ch: channels.
    """

    def __init__(self, keys: Sequence[int], num_ch: int = 3) -> None:
        self.keys = keys
        self.num_ch = num_ch

    def draw(self, number: int, window: Window) -> Tensor:
        """Draw ``number`` (0, 1, ...) at a window: (N, num_ch, h, w)."""
        rows = range(window.top // BLOCK, -(-window.bottom // BLOCK))
        columns = range(window.left // BLOCK, -(-window.right // BLOCK))
        height, width = window.bottom - window.top, window.right - window.left
        left = window.left - columns[0] * BLOCK
        drawn = torch.empty(len(self.keys), self.num_ch, height, width, dtype=torch.float32)
        for (n, key), row in product(enumerate(self.keys), rows):
            # One line of blocks at a time, so that no second image is needed.
            line = torch.cat([self._block(key, number, row, column) for column in columns], dim=-1)
            start, end = row * BLOCK, (row + 1) * BLOCK
            top, bottom = max(start, window.top), min(end, window.bottom)
            part = line[:, top - start : bottom - start, left : left + width]
            drawn[n, :, top - window.top : bottom - window.top] = part
        return drawn

    def stream(self, window: Window) -> Iterator[Tensor]:
        """All draws at a window, one after the other, without end."""
        number = 0
        while True:
            yield self.draw(number, window)
            number += 1

    def _block(self, key: int, number: int, row: int, column: int) -> Tensor:
        seed = derive_seed('noise', key, number, row, column)
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(self.num_ch, BLOCK, BLOCK, generator=generator, dtype=torch.float32)


def content_key(seed: int, image: Tensor) -> int:
    """A number that depends on the seed and on the 8-bit image (C,H,W) in [0,1] alone."""
    levels = to_levels(image).transpose(2, 0, 1)
    content = hashlib.sha256(levels.tobytes()).hexdigest()
    return derive_seed(seed, *levels.shape, content)
