"""Pictures of results: labelled side-by-side panels, match maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.utils import flow_to_image

from defsr.images.levels import to_levels
from defsr.utils.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PANEL_INCHES = 3.2
MOST_LINES = 100  # about; more hide what they join


def match_colours(flow_yx: Tensor) -> Tensor:
    """(1,2,h,w) displacement, rows then columns -> (3,h,w) in [0, 1], the usual flow colours."""
    return flow_to_image(flow_yx[0].flip(0).float()).float() / 255


def match_lines(query: Tensor, key: Tensor, query_yx: Tensor, key_yx: Tensor) -> np.ndarray:
    """Two images side by side, some of their matches as lines from one to the other.

    Args:
        query, key: (1, 3, H, W) and (1, 3, H', W') in [0, 1].
        query_yx, key_yx: (K, 2), the same point in both, rows then columns.

    Returns:
        (max(H, H'), W + W', 3) RGB uint8.
    """
    height = max(query.shape[-2], key.shape[-2])
    parts = [F.pad(image, (0, 0, 0, height - image.shape[-2])) for image in (query, key)]
    canvas = np.ascontiguousarray(to_levels(torch.cat([part.cpu() for part in parts], dim=-1)))
    chosen = slice(None, None, max(1, len(query_yx) // MOST_LINES))
    starts, ends = (places[chosen].flip(1).round().int() for places in (query_yx, key_yx))
    ends = ends + torch.tensor([query.shape[-1], 0], dtype=ends.dtype)
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        hue = np.full((1, 1, 3), 255, dtype=np.uint8)
        hue[..., 0] = 180 * start[1] // query.shape[-2]  # by the row
        colour = cv2.cvtColor(hue, cv2.COLOR_HSV2RGB)[0, 0].tolist()
        cv2.line(canvas, start, end, colour, 1, cv2.LINE_AA)
    return canvas


def label_colours(labels: Tensor) -> Tensor:
    """(1,h,w) whole numbers -> (3,h,w) in [0, 1], a colour each, repeated after ten."""
    from matplotlib import colormaps

    palette = torch.tensor(colormaps['tab10'](range(10))).float()[:, :3]
    return palette[labels[0].cpu() % len(palette)].permute(2, 0, 1)


def busiest_window(gt: Tensor, sr: Tensor, other: Tensor, side: int) -> tuple[int, int]:
    """(row, column) of the ``side``-sized window where ``sr`` and ``other`` differ most in error.

    The place where a comparison has most to show, whichever of the two wins there.
    """
    gain = ((other - gt).square() - (sr - gt).square()).mean(dim=1, keepdim=True)
    score = F.avg_pool2d(gain, side, stride=max(1, side // 4)).abs()
    place = int(score.flatten().argmax())
    step = max(1, side // 4)
    return place // score.shape[-1] * step, place % score.shape[-1] * step


def save_figure(figure: Figure, path: str | Path, kind: str = 'png') -> None:
    """Write a figure whole or not at all; ``kind`` is matplotlib's format. A ``$`` is a dollar."""
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        if isinstance(text, Text) and text.get_text():  # not the numbers of a logarithmic axis
            text.set_parse_math(False)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format=kind)


def save_comparison(
    path: str | Path,
    panels: Mapping[str, Tensor],
    windows: Mapping[str, tuple[int, int, int]],
    title: str = '',
) -> Path:
    """Write labelled panels next to each other, each with an enlarged crop below it.

    Args:
        path: the PNG to write, atomically.
        panels: label -> (1, 3, H, W) RGB in [0, 1].
        windows: label -> (row, column, side) of its crop; panels without one have none.
        title: line above all.
    """
    from matplotlib import patches
    from matplotlib.figure import Figure

    ratio = max(panel.shape[-2] / panel.shape[-1] for panel in panels.values())
    width = PANEL_INCHES * len(panels)
    height = PANEL_INCHES * (ratio + bool(windows)) + 0.9
    figure = Figure(figsize=(width, height), dpi=120, layout='constrained')
    ratios = [ratio, 1] if windows else [ratio]
    grid = figure.subplots(len(ratios), len(panels), squeeze=False, height_ratios=ratios)
    for axis in grid.flat:
        axis.axis('off')
    for column, (name, panel) in enumerate(panels.items()):
        grid[0, column].imshow(to_levels(panel), interpolation='nearest')
        grid[0, column].set_title(name)
        if name in windows:
            top, left, side = windows[name]
            box = patches.Rectangle((left, top), side, side, fill=False, color='#ff3b30', lw=1.5)
            grid[0, column].add_patch(box)
            crop = panel[..., top : top + side, left : left + side]
            grid[1, column].imshow(to_levels(crop), interpolation='nearest')
    figure.suptitle(title)
    save_figure(figure, path)
    return Path(path)


def side_by_side(images: Sequence[Tensor]) -> Tensor:
    """[(1,3,h_i,w_i)] -> (3,H,W): brought to the tallest one's height, next to each other."""
    height = max(x.shape[-2] for x in images)
    scaled = [
        F.interpolate(x, size=(height, max(1, round(x.shape[-1] * height / x.shape[-2]))))
        for x in images
    ]
    return torch.cat(scaled, dim=-1)[0].clamp(0, 1)
