"""Images that a benchmark has saved, with what they were made of, and where they differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from basicsr.data import build_dataset
from torch import Tensor
from torch.nn import functional as F

from defsr.benchmark.options import Benchmark
from defsr.benchmark.rows import image_path

FLOOR = 20.0  # mean square error added to all: what is right to 35 dB is not told apart


class SavedImages:
    """What a benchmark with ``save_images`` has measured.

    Args:
        benchmark: its options.
        folder: of its results.
        rows: what is measured, see ``collect``.

    Attributes:
        rows: them by (method, data set, image).
    """

    def __init__(self, benchmark: Benchmark, folder: Path, rows: Sequence[Mapping]) -> None:
        self.folder = folder
        self.rows = {(row['method'], row['dataset'], row['image']): row for row in rows}
        measured = {row['dataset'] for row in rows}  # others may not be at hand
        self._data = {
            name: build_dataset(dict(block))
            for name, block in benchmark.datasets.items()
            if name in measured
        }
        self._numbers = {
            (name, Path(entry.lq_path).stem): number
            for name, data in self._data.items()
            for number, entry in enumerate(data.entries)
        }

    def item(self, dataset: str, image: str) -> Mapping[str, Any]:
        """What the data set gives: lq, gt and references, (3,H,W) RGB in [0, 1]."""
        return self._data[dataset][self._numbers[dataset, image]]

    def image(self, method: str, dataset: str, image: str) -> np.ndarray | None:
        """(H,W,3) BGR uint8; None if it is not measured, or its file is gone or damaged."""
        row = self.rows.get((method, dataset, image))
        return None if row is None else cv2.imread(str(image_path(self.folder, row)))


def window_errors(gt: np.ndarray, images: Sequence[np.ndarray], side: int) -> tuple[Tensor, int]:
    """How wrong images are in windows, which overlap by three quarters.

    Args:
        gt, images: (H,W,3) uint8.
        side: of a window; images smaller than it are one window.

    Returns:
        (len(images), rows, columns), mean square errors and ``FLOOR``; and the step from window
        to window in pixels.
    """
    size = min(side, *gt.shape[:2])
    step = max(1, size // 4)
    squared = [np.square(image.astype(np.float32) - gt).mean(axis=2) for image in images]
    maps = torch.from_numpy(np.stack(squared))[:, None]
    return F.avg_pool2d(maps, size, stride=step)[:, 0] + FLOOR, step
