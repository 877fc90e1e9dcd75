"""BasicSR's metrics of an image."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from basicsr.metrics import calculate_metric

SMALLEST = {'calculate_ssim': 11}  # pixels per side that a metric of BasicSR needs; others: 1


def metric_values(
    image: np.ndarray, gt: np.ndarray, metrics: Mapping[str, Mapping]
) -> dict[str, float]:
    """BasicSR's metrics of an image, (H,W,3) BGR uint8 as ``gt``; ValueError if it is too small.

    Example:
        >>> gt = np.full((16, 20, 3), 100, np.uint8)
        >>> psnr = {'type': 'calculate_psnr', 'crop_border': 4, 'test_y_channel': True}
        >>> round(metric_values(gt + 1, gt, {'psnr': psnr})['psnr'], 2)
        49.45
    """
    for name, opt in metrics.items():
        smallest = 2 * opt.get('crop_border', 0) + SMALLEST.get(opt['type'], 1)
        if min(gt.shape[:2]) < smallest:
            raise ValueError(
                f'A ground truth is {gt.shape[0]}x{gt.shape[1]} (HxW), but val:metrics:{name} '
                f'needs at least {smallest} pixels per side. Remove it, or lower crop_border.'
            )
    pair = {'img': image, 'img2': gt}
    return {name: float(calculate_metric(pair, dict(opt))) for name, opt in metrics.items()}
