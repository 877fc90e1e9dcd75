"""A picture of where a method wins most over another one, and where it loses most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from basicsr.data import build_dataset
from basicsr.utils import tensor2img
from torch.nn import functional as F

from defsr.benchmark.options import Benchmark
from defsr.benchmark.runner import image_path
from defsr.images.figures import save_figure

FLOOR = 20.0  # mean square error added to both: what is right to 35 dB is not told apart


class Example(NamedTuple):
    """A window of an image: dB gained by one method over another, and where it is."""

    gain: float
    dataset: str
    image: str
    top: int
    left: int


def best_windows(
    gt: np.ndarray, one: np.ndarray, other: np.ndarray, side: int
) -> list[tuple[float, int, int]]:
    """(dB that ``one`` is better than ``other``, row, column) of the best and the worst window.

    Args:
        gt, one, other: (H,W,3) uint8.
        side: of a window; images smaller than it are one window.
    """
    errors = []
    for image in (one, other):
        squared = np.square(image.astype(np.float32) - gt).mean(axis=2)
        size = min(side, *gt.shape[:2])
        maps = torch.from_numpy(squared)[None, None]
        errors.append(F.avg_pool2d(maps, size, stride=max(1, size // 4))[0, 0] + FLOOR)
    gain = 10 * torch.log10(errors[1] / errors[0])
    step, width = max(1, min(side, *gt.shape[:2]) // 4), gain.shape[1]
    places = [int(gain.argmax()), int(gain.argmin())]
    return [(float(gain.flatten()[p]), p // width * step, p % width * step) for p in places]


class Examples:
    """Images that a benchmark has saved, searched for telling windows.

    Args:
        benchmark: with ``examples``.
        folder: of its results.
        rows: what is measured, see ``collect``.
    """

    def __init__(self, benchmark: Benchmark, folder: Path, rows: Sequence[Mapping]) -> None:
        self.benchmark = benchmark
        self.paths = {
            (row['method'], row['dataset'], row['image']): image_path(folder, row) for row in rows
        }
        measured = {row['dataset'] for row in rows}  # others may not be at hand
        self.data = {
            name: build_dataset(dict(block))
            for name, block in benchmark.datasets.items()
            if name in measured
        }
        self.numbers = {
            (name, Path(entry.lq_path).stem): number
            for name, data in self.data.items()
            for number, entry in enumerate(data.entries)
        }

    def image(self, method: str, dataset: str, image: str) -> np.ndarray | None:
        """(H,W,3) BGR uint8; None if its file is gone or damaged."""
        return cv2.imread(str(self.paths[method, dataset, image]))

    def find(self) -> list[Example]:
        """The windows of largest gain, then those of largest loss; one per image at most."""
        options = self.benchmark.examples
        wins, losses = [], []
        for method, dataset, image in self.paths:
            base = self.benchmark.compare_to[0]
            if method != options['method'] or (base, dataset, image) not in self.paths:
                continue
            gt = tensor2img(self.data[dataset][self.numbers[dataset, image]]['gt'])
            one, other = (self.image(each, dataset, image) for each in (method, base))
            if one is None or other is None:
                continue
            best, worst = best_windows(gt, one, other, options['side'])
            wins.append(Example(best[0], dataset, image, *best[1:]))
            losses.append(Example(worst[0], dataset, image, *worst[1:]))
        number = options['number']
        return sorted(wins, reverse=True)[:number] + sorted(losses)[:number]

    def draw(self, path: Path) -> None:
        """A row per window: reference, the methods shown, GT. Nothing without windows."""
        from matplotlib.figure import Figure

        examples = self.find()
        if not examples:
            return
        shown = self.benchmark.examples['show'] or self.benchmark.methods
        methods = [m for m in shown if any(key[0] == m for key in self.paths)]
        columns = len(methods) + 2
        size = (1.7 * columns, 1.95 * len(examples))
        figure = Figure(figsize=size, dpi=110, layout='constrained')
        axes = figure.subplots(len(examples), columns, squeeze=False)
        for line, example in zip(axes, examples, strict=True):
            self._draw_line(line, example, methods)
        save_figure(figure, path)

    def _draw_line(self, line: Sequence, example: Example, methods: Sequence[str]) -> None:
        item = self.data[example.dataset][self.numbers[example.dataset, example.image]]
        side = self.benchmark.examples['side']
        window = (
            slice(example.top, example.top + side),
            slice(example.left, example.left + side),
        )
        gt = tensor2img(item['gt'])[window]
        panels = {'a reference, whole': tensor2img(item['ref'])}
        for method in methods:
            key = (method, example.dataset, example.image)
            found = self.image(*key) if key in self.paths else None
            panels[method] = None if found is None else found[window]
        panels['GT'] = gt
        for axis, (title, picture) in zip(line, panels.items(), strict=True):
            axis.set_xticks([])
            axis.set_yticks([])
            if picture is None:
                continue
            axis.imshow(picture[..., ::-1])
            if title in methods:
                error = np.square(picture.astype(np.float32) - gt).mean()
                title = f'{title}\n{10 * np.log10(255**2 / max(error, 0.1)):.2f} dB'
            axis.set_title(title, fontsize=8)
        line[0].set_ylabel(f'{example.dataset}\n{example.gain:+.1f} dB', fontsize=8)
