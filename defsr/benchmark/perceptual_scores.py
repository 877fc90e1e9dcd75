"""LPIPS, DISTS and the trunk distance of images that a benchmark has saved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from basicsr.archs import build_network
from basicsr.utils import img2tensor, tensor2img

from defsr.benchmark.options import Benchmark
from defsr.benchmark.rows import image_path
from defsr.benchmark.saved_images import SavedImages
from defsr.metrics.perceptual import LOADERS, Metric, missing
from defsr.metrics.trunk_distance import trunk_distance
from defsr.utils.devices import has_gpu

TRUNK = {'type': 'VGGTextureExtractor', 'vgg_type': 'vgg16', 'weights': 'vgg16_trunk_hed.pth'}


def at_hand(benchmark: Benchmark) -> tuple[list[str], list[str]]:
    """Those of ``metrics`` that can be measured here, and a line for each other one.

    Where one cannot, the trunk distance, whose weights come along, is among the first.
    """
    lines = {name: missing(name) for name in benchmark.metrics}
    names = [name for name, line in lines.items() if not line]
    told = [line for line in lines.values() if line]
    if told and 'trunk' not in names:
        names.append('trunk')
    return names, told


class PerceptualScores:
    """Scores of saved images by networks, as 8-bit images and of all their pixels.

    Args:
        benchmark: its options.
        folder: of its results.
        rows: what is measured, see ``collect``.

    Attributes:
        todo: the rows whose image is there and of which a metric at hand says nothing yet.
    """

    def __init__(self, benchmark: Benchmark, folder: Path, rows: Sequence[dict]) -> None:
        self.names, _ = at_hand(benchmark)
        self.saved = SavedImages(benchmark, folder, rows)
        self.device = torch.device('cuda' if has_gpu(benchmark.num_gpu) else 'cpu')
        self._metrics: dict[str, Metric] = {}
        self.todo = [
            row for row in rows if not {*self.names} <= {*row} and image_path(folder, row).exists()
        ]

    def of(self, row: Mapping[str, Any]) -> dict[str, float]:
        """Those that a row of ``todo`` lacks.

        Raises:
            ValueError, OSError, ImportError: for weights and images that cannot be read.
        """
        where = row['method'], row['dataset'], row['image']
        sr = self.saved.image(*where)
        if sr is None:
            raise ValueError('the saved image cannot be read. Remove it, and it is made anew.')
        gt = tensor2img(self.saved.item(row['dataset'], row['image'])['gt'])
        pair = [img2tensor(image / 255.0, float32=True)[None] for image in (sr, gt)]
        return {name: self._metric(name)(*pair) for name in self.names if name not in row}

    def _metric(self, name: str) -> Metric:
        if name not in self._metrics:
            load = LOADERS.get(name, _load_trunk)
            self._metrics[name] = load(self.device)
        return self._metrics[name]


def _load_trunk(device: torch.device) -> Metric:
    trunk = build_network(dict(TRUNK)).to(device).eval()
    return lambda image, gt: trunk_distance(trunk, image.to(device), gt.to(device))
