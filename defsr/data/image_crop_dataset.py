"""Crops of single images, for training a denoiser."""

from __future__ import annotations

import random
from collections.abc import Mapping, Set
from typing import Any, ClassVar

import torch.nn.functional as F
from basicsr.utils.registry import DATASET_REGISTRY
from torch import Tensor
from torch.utils.data import Dataset

from defsr.data.augmentation import Position, crop, draw_item
from defsr.data.image_source import ImageSource
from defsr.data.triplet_options import BASICSR_KEYS, backend_of, choice_of, place_of
from defsr.utils.checks import check_between, check_int, check_keys

KEYS = BASICSR_KEYS | {
    'dataroot_gt', 'gt_size', 'use_hflip', 'use_rot', 'zoom', 'keep_in_memory',
}  # fmt: skip
CENTRE = Position(0.5, 0.5)


@DATASET_REGISTRY.register()
class ImageCropDataset(Dataset):
    """Square crops of photographs: random ones in training, the centre in validation.

    An item has ``gt``, RGB float32 (3, gt_size, gt_size) in [0, 1] (mirrored where the image is
    smaller), and ``gt_path`` and ``lq_path``, both the image's path.

    Args:
        opt: the data set's block: ``dataroot_gt`` (folder or LMDB), ``io_backend: {type}``,
            ``gt_size`` (>= 8), ``use_hflip`` and ``use_rot`` (default: true), ``zoom`` (in
            training a crop of gt_size / z is reduced by z, drawn from zoom .. 1; 1, the default:
            as it is), ``keep_in_memory`` (default: false; decoded images stay, 12 bytes a pixel
            and per data worker), and BasicSR's keys.

    Raises:
        ValueError: for unknown options, values out of range and empty folders.
        FileNotFoundError: for a folder that does not exist.
    """

    gives: ClassVar[tuple[str, ...]] = ('gt',)  # with each image
    keys: ClassVar[Set[str]] = KEYS

    def __init__(self, opt: Mapping[str, Any]) -> None:
        where = place_of(opt)
        self.check(where, opt)
        self.opt = opt
        self.gt_size = opt['gt_size']
        self.use_hflip, self.use_rot = opt.get('use_hflip', True), opt.get('use_rot', True)
        self.zoom = opt.get('zoom', 1)
        self.kept: dict[int, Tensor] | None = {} if opt.get('keep_in_memory') else None
        self.source = ImageSource(
            f'{where}:dataroot_gt', opt['dataroot_gt'], backend_of(where, opt)
        )
        self.names = self.source.names()

    @classmethod
    def check(cls, where: str, block: Mapping[str, Any]) -> None:
        """Refuse a block that the constructor would; reads no folder."""
        check_keys(where, block, cls.keys)
        root = block.get('dataroot_gt')
        if not isinstance(root, str) or not root:
            raise ValueError(f'{where}:dataroot_gt is {root!r}, but must be a folder of images.')
        check_int(f'{where}:gt_size', block.get('gt_size'), 8)
        check_between(f'{where}:zoom', block.get('zoom', 1), 0.1, 1)
        for key in ('use_hflip', 'use_rot', 'keep_in_memory'):
            choice_of(where, block, key, (True, False))
        backend_of(where, block)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> dict[str, Tensor | str]:
        image = self._read(index)
        path = self.source.path(self.names[index])
        if self.opt['phase'] == 'train':
            image = self._draw_crop(image)
        else:
            image = crop(image, *CENTRE.offset_yx(image, self.gt_size), self.gt_size)
        return {'gt': image.contiguous(), 'gt_path': path, 'lq_path': path}

    def _read(self, index: int) -> Tensor:
        if self.kept is None:
            return self.source.read(self.names[index])
        if index not in self.kept:
            self.kept[index] = self.source.read(self.names[index])
        return self.kept[index]

    def _draw_crop(self, image: Tensor) -> Tensor:
        """A random crop, reduced and turned at random."""
        draw = draw_item(self.use_hflip, self.use_rot, 'none')
        size = round(self.gt_size / (self.zoom + (1 - self.zoom) * random.random()))
        image = crop(image, *draw.position.offset_yx(image, size), size)
        if size > self.gt_size:
            smaller = F.interpolate(
                image[None], (self.gt_size, self.gt_size), mode='bicubic', antialias=True
            )
            image = smaller[0].clamp(0, 1)
        return draw.transform(image)
