"""Reading photographs for tests."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch


def read_rgb(path: Path) -> torch.Tensor:
    """An image file as (1, 3, H, W) RGB float32 in [0, 1]."""
    bgr = cv2.imread(str(path), cv2.IMREAD_COLOR)
    assert bgr is not None, path
    rgb = np.ascontiguousarray(bgr[..., ::-1].transpose(2, 0, 1))
    return torch.from_numpy(rgb).float().div(255).unsqueeze(0)
