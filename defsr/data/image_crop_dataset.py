"""Crops of single images, for training a denoiser."""

from __future__ import annotations

from collections.abc import Mapping

from basicsr.utils.registry import DATASET_REGISTRY
from torch import Tensor
from torch.utils.data import Dataset

from defsr.data.augmentation import Position, crop, draw_item
from defsr.data.image_source import ImageSource
from defsr.data.triplet_options import BASICSR_KEYS
from defsr.utils.checks import check_at_least, check_choice, check_keys

KEYS = BASICSR_KEYS | {'dataroot_gt', 'gt_size', 'use_hflip', 'use_rot'}
CENTRE = Position(0.5, 0.5)


@DATASET_REGISTRY.register()
class ImageCropDataset(Dataset):
    """Square crops of photographs: random ones in training, the centre in validation.

    An item has ``gt``, RGB float32 (3, gt_size, gt_size) in [0, 1] (mirrored where the image is
    smaller), and ``gt_path`` and ``lq_path``, both the image's path.

    Args:
        opt: the data set's block: ``dataroot_gt`` (folder or LMDB), ``io_backend: {type}``,
            ``gt_size`` (>= 8), ``use_hflip`` and ``use_rot`` (default: true), and BasicSR's keys.

    Raises:
        ValueError: for unknown options, values out of range and empty folders.
        FileNotFoundError: for a folder that does not exist.
    """

    def __init__(self, opt: Mapping[str, object]) -> None:
        block = f'datasets:{opt.get("name", "?")}'
        check_keys(block, opt, KEYS)
        if not opt.get('dataroot_gt'):
            raise ValueError(f'{block}:dataroot_gt is missing. Name a folder of images.')
        self.opt = opt
        self.gt_size = check_at_least(f'{block}:gt_size', opt.get('gt_size'), 8)
        self.use_hflip = check_choice(
            f'{block}:use_hflip', opt.get('use_hflip', True), (True, False)
        )
        self.use_rot = check_choice(f'{block}:use_rot', opt.get('use_rot', True), (True, False))
        backend = (opt.get('io_backend') or {}).get('type', 'disk')
        check_choice(f'{block}:io_backend:type', backend, ('disk', 'lmdb'))
        self.source = ImageSource(f'{block}:dataroot_gt', opt['dataroot_gt'], backend)
        self.names = self.source.names()

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> dict[str, Tensor | str]:
        image = self.source.read(self.names[index])
        path = self.source.path(self.names[index])
        position, transform = CENTRE, None
        if self.opt['phase'] == 'train':
            draw = draw_item(self.use_hflip, self.use_rot, 'none')
            position, transform = draw.position, draw.transform
        top, left = position.offset_yx(*image.shape[-2:], self.gt_size)
        image = crop(image, top, left, self.gt_size)
        image = transform(image) if transform else image
        return {'gt': image.contiguous(), 'gt_path': path, 'lq_path': path}
