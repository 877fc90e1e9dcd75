"""Pictures of results: labelled side-by-side panels, match maps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.utils import flow_to_image

from defsr.utils.files import atomic_path

COLUMNS = 4


def to_uint8(image: Tensor) -> np.ndarray:
    """(1,3,H,W) or (3,H,W) in [0, 1] -> (H,W,3) RGB uint8: clamped, then rounded."""
    image = image.detach().float().cpu().clamp(0, 1)
    return image.reshape(image.shape[-3:]).mul(255).round().byte().permute(1, 2, 0).numpy()


def match_colours(flow_yx: Tensor) -> Tensor:
    """(1,2,h,w) displacement, rows then columns -> (3,h,w) in [0, 1], the usual flow colours."""
    return flow_to_image(flow_yx[0].flip(0).float()).float() / 255


def busiest_window(gt: Tensor, sr: Tensor, other: Tensor, side: int) -> tuple[int, int]:
    """(row, column) of the ``side``-sized window where ``sr`` and ``other`` differ most in error.

    The place where a comparison has most to show, whichever of the two wins there.
    """
    gain = ((other - gt).square() - (sr - gt).square()).mean(dim=1, keepdim=True)
    score = F.avg_pool2d(gain, side, stride=max(1, side // 4)).abs()
    place = int(score.flatten().argmax())
    step = max(1, side // 4)
    return place // score.shape[-1] * step, place % score.shape[-1] * step


def save_comparison(
    path: str | Path,
    panels: Mapping[str, Tensor],
    window: tuple[int, int, int],
    title: str = '',
    zoomed: Sequence[str] | None = None,
) -> Path:
    """Write labelled panels, and below them the same crop of each, enlarged.

    Args:
        path: the PNG to write, atomically.
        panels: label -> (1, 3, H, W) RGB in [0, 1]; those of the first panel's size are cropped.
        window: (row, column, side) of the crop in pixels of the panels.
        title: line above all.
        zoomed: labels whose crop is shown. Default: every panel of the common size.
    """
    from matplotlib import patches
    from matplotlib.figure import Figure

    size = max((tuple(p.shape[-2:]) for p in panels.values()), key=math.prod)
    row, column, side = window
    zoomed = zoomed or [name for name, p in panels.items() if tuple(p.shape[-2:]) == size]
    columns = min(COLUMNS, len(panels))
    rows_full = math.ceil(len(panels) / columns)
    rows_zoom = math.ceil(len(zoomed) / columns)
    width = 4.2 * columns
    height_full, height_zoom = width / columns * size[0] / size[1], width / columns
    heights = [height_full] * rows_full + [height_zoom] * rows_zoom
    figure = Figure(figsize=(width, sum(heights) + 0.35 * len(heights) + 0.5), dpi=110)
    grid = figure.subplots(
        len(heights), columns, squeeze=False, gridspec_kw={'height_ratios': heights}
    )
    for axis in grid.flat:
        axis.axis('off')
    for axis, (name, panel) in zip(grid.flat, panels.items(), strict=False):
        axis.imshow(to_uint8(panel), interpolation='nearest')
        axis.set_title(name, fontsize=11)
        if name in zoomed:
            box = patches.Rectangle((column, row), side, side, fill=False, color='#ff3b30', lw=1.5)
            axis.add_patch(box)
    for axis, name in zip(grid[rows_full:].flat, zoomed, strict=False):
        crop = panels[name][..., row : row + side, column : column + side]
        axis.imshow(to_uint8(crop), interpolation='nearest')
        axis.set_title(f'{name}, crop', fontsize=11)
    figure.suptitle(title, fontsize=13)
    figure.tight_layout()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format='png')
    return Path(path)


def side_by_side(images: Sequence[Tensor]) -> Tensor:
    """[(1,3,h_i,w_i)] -> (3,H,W): brought to the first one's height, next to each other."""
    height = images[0].shape[-2]
    scaled = [
        F.interpolate(x, size=(height, max(1, round(x.shape[-1] * height / x.shape[-2]))))
        for x in images
    ]
    return torch.cat(scaled, dim=-1)[0].clamp(0, 1)
