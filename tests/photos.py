"""Reading photographs for tests."""

from __future__ import annotations

from pathlib import Path

import cv2
import torch

from defsr.images.levels import from_levels


def read_rgb(path: Path) -> torch.Tensor:
    """An image file as (1, 3, H, W) RGB float32 in [0, 1]."""
    bgr = cv2.imread(str(path), cv2.IMREAD_COLOR)
    assert bgr is not None, path
    return from_levels(bgr[..., ::-1])
