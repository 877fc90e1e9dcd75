"""The scores of a benchmark as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from defsr.images.figures import save_figure

if TYPE_CHECKING:
    from defsr.benchmark.report import Report


def draw_chart(report: Report, path: Path) -> None:
    """dB over the first method: a panel per table, a line per method, a column per data set.

    In each column the best is the darkest, and bold. Means of a part of a data set are left out.
    """
    from matplotlib.figure import Figure

    first, *others = report.benchmark.methods
    others = [label for label in others if any(label == method for method, _ in report.cells)]
    panels = {}
    for title, names in report.tables().items():
        columns = {name: [_gain(report, label, name, first) for label in others] for name in names}
        panels[title] = {name: x for name, x in columns.items() if np.isfinite(x).any()}
    panels = {title: panel for title, panel in panels.items() if panel}
    if not panels:
        return
    size = (3 + max(map(len, panels.values())), (1 + 0.26 * len(others)) * len(panels) + 0.6)
    figure = Figure(figsize=size, dpi=110, layout='constrained')
    axes = figure.subplots(len(panels), squeeze=False)[:, 0]
    for axis, (title, panel) in zip(axes, panels.items(), strict=True):
        _draw_panel(axis, panel, others)
        axis.set_title(title, fontsize=10)
    figure.suptitle(f'{report.benchmark.name}: PSNR-Y over {first}, dB')
    save_figure(figure, path)


def _gain(report: Report, method: str, dataset: str, base: str) -> float:
    if any(not report.is_whole(label, dataset) for label in (method, base)):
        return np.nan
    one, other = (report.mean(label, dataset, 'psnr') for label in (method, base))
    return np.nan if one is None or other is None else one - other


def _draw_panel(axis: Any, panel: Mapping[str, list[float]], methods: Sequence[str]) -> None:
    gains = np.array(list(panel.values())).T
    low, high = np.nanmin(gains, axis=0), np.nanmax(gains, axis=0)
    shade = (gains - low) / np.maximum(high - low, 1e-6)
    axis.imshow(shade, cmap='YlGn', vmin=0, vmax=1.4, aspect='auto')
    for (line, column), gain in np.ndenumerate(gains):
        if np.isfinite(gain):
            weight = 'bold' if gain == high[column] else 'normal'
            style = {'ha': 'center', 'va': 'center', 'fontsize': 8, 'weight': weight}
            axis.text(column, line, f'{gain:+.2f}', **style)
    axis.set_xticks(range(len(panel)), [*panel], fontsize=8)
    axis.set_yticks(range(len(methods)), methods, fontsize=8)
    axis.tick_params(length=0)
