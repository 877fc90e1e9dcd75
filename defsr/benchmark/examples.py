"""A picture of where a method wins most over another one, and where it loses most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from basicsr.utils import tensor2img

from defsr.benchmark.options import Benchmark
from defsr.benchmark.saved_images import SavedImages, window_errors
from defsr.images.figures import save_figure


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
    errors, step = window_errors(gt, (one, other), side)
    gain = 10 * torch.log10(errors[1] / errors[0])
    width = gain.shape[1]
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
        self.saved = SavedImages(benchmark, folder, rows)

    def find(self) -> list[Example]:
        """The windows of largest gain, then those of largest loss; one per image at most."""
        options = self.benchmark.examples
        wins, losses = [], []
        for method, dataset, image in self.saved.rows:
            base = self.benchmark.compare_to[0]
            if method != options['method'] or (base, dataset, image) not in self.saved.rows:
                continue
            gt = tensor2img(self.saved.item(dataset, image)['gt'])
            one, other = (self.saved.image(each, dataset, image) for each in (method, base))
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
        methods = [m for m in shown if any(key[0] == m for key in self.saved.rows)]
        columns = len(methods) + 2
        size = (1.7 * columns, 1.95 * len(examples))
        figure = Figure(figsize=size, dpi=110, layout='constrained')
        axes = figure.subplots(len(examples), columns, squeeze=False)
        for line, example in zip(axes, examples, strict=True):
            self._draw_line(line, example, methods)
        save_figure(figure, path)

    def _draw_line(self, line: Sequence, example: Example, methods: Sequence[str]) -> None:
        item = self.saved.item(example.dataset, example.image)
        side = self.benchmark.examples['side']
        window = (
            slice(example.top, example.top + side),
            slice(example.left, example.left + side),
        )
        gt = tensor2img(item['gt'])[window]
        panels = {'a reference, whole': tensor2img(item['ref'])}
        for method in methods:
            found = self.saved.image(method, example.dataset, example.image)
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
