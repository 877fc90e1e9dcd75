"""How much the borders of windows show in an image that was made of them."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from defsr.utils.checks import check_image


def seam_ratio(image: Tensor, rows: Iterable[int], columns: Iterable[int]) -> float:
    """Mean squared step across window borders over the mean squared step elsewhere.

    1 for an image without seams, as far as its content does not care where the borders are; the
    comparison image (ground truth, or the same content made whole) has a ratio of its own.

    Args:
        image: (N,C,H,W) in [0, 1].
        rows: y of borders: the step from row y - 1 to row y is across one, 0 < y < H.
        columns: the same in x.

    Raises:
        ValueError: if there is no border, or one outside the image.
    """
    check_image('image', image)
    steps, across = [], []
    for dim, borders in ((-2, list(rows)), (-1, list(columns))):
        length = image.shape[dim]
        if any(not 0 < border < length for border in borders):
            raise ValueError(f'borders are {borders}, but must lie inside 0..{length}.')
        step = image.diff(dim=dim).square().transpose(0, dim).flatten(1).double().mean(dim=1)
        mask = torch.zeros(length - 1, dtype=torch.bool)
        mask[[border - 1 for border in borders]] = True
        steps.append(step)
        across.append(mask.to(step.device))
    step, mask = torch.cat(steps), torch.cat(across)
    if not mask.any():
        raise ValueError('rows and columns name no border.')
    return float(step[mask].mean() / step[~mask].mean())
