"""Crops of photographs and their views under known homographies, to learn correspondences."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any, ClassVar

import cv2
import numpy as np
import torch
from basicsr.utils.registry import DATASET_REGISTRY
from torch import Tensor

from defsr.data.image_crop_dataset import ImageCropDataset
from defsr.data.pair_geometry import window_corners
from defsr.data.triplet_options import degradation_of, place_of
from defsr.utils.checks import check_between
from defsr.utils.seeding import derive_seed

MIN_CELLS = 3  # of 4x4 pixels, a patch


@DATASET_REGISTRY.register()
class PlantedPairDataset(ImageCropDataset):
    """Items of ``ImageCropDataset`` with a second view of the crop (C2-Matching section 3.1).

    Beside ``gt`` an item has ``lq`` (3, gt_size/scale, gt_size/scale), ``ref`` (3, gt_size,
    gt_size), the crop under a homography, black where that shows what is beyond the crop, and
    ``homography`` (3, 3) float64, from pixels [x, y, 1] of ``gt`` to those of ``ref``.

    Args:
        opt: the data set's block: that of ``ImageCropDataset``, ``perturb`` (how far each corner
            of the crop moves in x and in y at most, in pixels; default: 10; at most a quarter of
            ``gt_size``) and ``degradation``. In validation the homography follows from the file's
            name.

    Raises:
        ValueError, FileNotFoundError: as ``ImageCropDataset``.
    """

    gives: ClassVar[tuple[str, ...]] = ('gt', 'lq', 'homography')
    keys = ImageCropDataset.keys | {'perturb', 'degradation'}

    def __init__(self, opt: Mapping[str, Any]) -> None:
        super().__init__(opt)
        self.perturb = opt.get('perturb', 10)
        self.degradation = degradation_of(opt, place_of(opt))

    @classmethod
    def check(cls, where: str, block: Mapping[str, Any]) -> None:
        """Refuse a block that the constructor would; reads no folder."""
        super().check(where, block)
        side, step = block['gt_size'], block['scale']
        if side % step or side < MIN_CELLS * step:
            raise ValueError(
                f'{where}:gt_size is {side}, but must be a multiple of scale={step}, at least '
                f'{MIN_CELLS * step}. Nearest: {max(side // step, MIN_CELLS) * step}.'
            )
        check_between(f'{where}:perturb', block.get('perturb', 10), 0, side / 4)
        degradation_of(block, where)

    def __getitem__(self, index: int) -> dict[str, Any]:
        item: dict[str, Any] = super().__getitem__(index)
        rng = random
        if self.opt['phase'] != 'train':
            rng = random.Random(derive_seed('planted', self.names[index]))  # type: ignore[assignment]
        moves = [[rng.uniform(-self.perturb, self.perturb) for _ in 'xy'] for _ in range(4)]
        corners = window_corners(self.gt_size).astype(np.float32)
        moved = corners + np.array(moves, dtype=np.float32)
        homography = cv2.getPerspectiveTransform(corners, moved)
        gt: Tensor = item['gt']
        pixels = gt.permute(1, 2, 0).contiguous().numpy()
        view = cv2.warpPerspective(pixels, homography, (self.gt_size, self.gt_size))
        return item | {
            'lq': self.degradation.degrade(gt),
            'ref': torch.from_numpy(view).permute(2, 0, 1).contiguous(),
            'homography': torch.from_numpy(homography),
        }
