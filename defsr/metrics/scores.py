"""BasicSR's metrics of an image."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np
from basicsr.metrics import calculate_metric
from basicsr.utils.registry import METRIC_REGISTRY

# Pixels per side that a metric of BasicSR needs; others: 1.
SMALLEST = {'calculate_ssim': 11, 'calculate_niqe': 96}


def needs_gt(opt: Mapping[str, Any]) -> bool:
    """Whether a metric compares with a ground truth; NIQE does not."""
    return 'img2' in inspect.signature(METRIC_REGISTRY.get(opt['type'])).parameters


def metric_values(
    image: np.ndarray, gt: np.ndarray | None, metrics: Mapping[str, Mapping]
) -> dict[str, float]:
    """BasicSR's metrics of an image, (H,W,3) BGR uint8 as ``gt``; ValueError if it is too small.

    Without ``gt`` those that need none: see ``needs_gt``.

    Example:
        >>> gt = np.full((16, 20, 3), 100, np.uint8)
        >>> psnr = {'type': 'calculate_psnr', 'crop_border': 4, 'test_y_channel': True}
        >>> round(metric_values(gt + 1, gt, {'psnr': psnr})['psnr'], 2)
        49.45
    """
    if gt is None:
        metrics = {name: opt for name, opt in metrics.items() if not needs_gt(opt)}
    for name, opt in metrics.items():
        smallest = 2 * opt.get('crop_border', 0) + SMALLEST.get(opt['type'], 1)
        if min(image.shape[:2]) < smallest:
            raise ValueError(
                f'A result is {image.shape[0]}x{image.shape[1]} (HxW), but val:metrics:{name} '
                f'needs at least {smallest} pixels per side. Remove it, or lower crop_border.'
            )
    pair = {'img': image} if gt is None else {'img': image, 'img2': gt}
    return {name: float(calculate_metric(pair, dict(opt))) for name, opt in metrics.items()}
