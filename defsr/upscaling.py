"""Super-resolve one photograph with related ones: what ``defsr-upscale`` runs, for Python."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from basicsr.utils import get_root_logger
from torch import Tensor
from torch.nn import functional as F

from defsr.config.blocks import check_networks, check_path, required
from defsr.config.files import load_options
from defsr.diffusion.degradation import Degradation
from defsr.images.form import Image, ImageForm, is_image
from defsr.methods.base import StageProgress
from defsr.methods.build import MIN_TILE, Restorer, method_class
from defsr.ops.resize import upsample_bicubic
from defsr.utils.checks import check_at_least, check_block, check_image, check_int, check_keys
from defsr.utils.paths import SHIPPED

NETWORK = SHIPPED / 'options' / 'upscale.yml'
NETWORK_KEYS = ('scale', 'degradation', 'network_g', 'path')
MIN_REF_SIDE = 4
MAX_REF_MEGAPIXELS = 4.0


def upscale(
    lq: Image,
    refs: Image | Sequence[Image],
    *,
    weights: str | Path | None = None,
    tile: int | None = 96,
    overlap: int = 16,
    device: str | torch.device = 'auto',
    max_ref_megapixels: float = MAX_REF_MEGAPIXELS,
    progress: StageProgress | None = None,
) -> Image:
    """Super-resolve an image x4 with the textures of one or more references.

    Builds the network anew; for many images make one ``Upscaler``. Example::

        sharp = defsr.upscale(cv2.imread('photo.png')[..., ::-1], [other])

    Args:
        lq: RGB. NumPy (H, W, 3), (H, W) grey or (H, W, 4) with alpha, as uint8, uint16 or floating
            point in [0, 1]; or a PyTorch tensor (3, H, W) or (1, 3, H, W) in [0, 1].
        refs: one such image or several, kinds and sizes free, sides of at least 4. Alpha is
            ignored.
        weights: checkpoint of ``network_g``, a path or a name in
            ``experiments/pretrained_models``. Default: the one that comes with the package.
        tile: inner side of a tile in pixels of ``lq``, >= 16; None for one piece. Default: 96.
        overlap: context around a tile in pixels of ``lq``, >= 0. Default: 16.
        device: ``auto`` (CUDA if there is one), ``cpu``, ``cuda`` or ``cuda:N``.
        max_ref_megapixels: all references together; larger ones are reduced, which is logged.
            Memory grows by about 1.2 GB per megapixel. Default: 4.
        progress: called as (stage, done, total), see ``RefSRPipeline.restore_tiled``.

    Returns:
        ``lq``'s kind, layout, dtype and device with sides four times as long, in its range.
        Alpha is enlarged by bicubic interpolation.

    Raises:
        ValueError: for an image of another kind, shape or range, and for a bad option.
        FileNotFoundError: without the weights.
    """
    photo = ImageForm.of('lq', lq)
    if is_image(refs):
        refs = [refs]
    keys = [ImageForm.of(f'refs[{i}]', ref).rgb for i, ref in enumerate(refs)]
    upscaler = Upscaler(weights, device)
    sr = upscaler(
        photo.rgb,
        keys,
        tile=tile,
        overlap=overlap,
        max_ref_megapixels=max_ref_megapixels,
        progress=progress,
    )
    return photo.give_back(sr, enlarge_alpha(photo.alpha, upscaler.scale))


class Upscaler:
    """The networks of ``options/upscale.yml``, loaded once for any number of images.

    Args:
        weights: see ``upscale``.
        device: see ``upscale``.
        options: another description of the networks. Default: the package's.

    Raises:
        ValueError: for a device that is not there, unknown options, weights that do not fit.
        FileNotFoundError: without the description or the weights.
    """

    def __init__(
        self,
        weights: str | Path | None = None,
        device: str | torch.device = 'auto',
        options: str | Path = NETWORK,
    ) -> None:
        self.device = pick_device(device)
        opt = load_options(options, 'options')
        where = Path(options).name
        for key in NETWORK_KEYS:
            required(opt, '', key)
        check_networks(opt)
        method = method_class(opt)
        check_keys(where, opt, (*NETWORK_KEYS, *method.blocks, *method.options))
        for key in method.blocks:
            required(opt, '', key)
        self.scale = check_int('scale', opt['scale'], 2)
        if weights is not None:
            opt['path'] = check_block('path', opt['path']) | {'pretrain_network_g': str(weights)}
        required(check_block('path', opt['path']), 'path', 'pretrain_network_g')
        check_path(opt, look=weights is None)
        self.restorer = Restorer.build(
            opt,
            self.device,
            Degradation(opt['degradation'], self.scale),
            option='path:pretrain_network_g' if weights is None else '--weights',
            network=f'network_g of {where}',
        )

    def __call__(
        self,
        lq: Tensor,
        refs: Sequence[Tensor],
        *,
        tile: int | None = 96,
        overlap: int = 16,
        max_ref_megapixels: float = MAX_REF_MEGAPIXELS,
        progress: StageProgress | None = None,
    ) -> Tensor:
        """lq (1,3,h,w), refs [(1,3,H',W')], all in [0, 1] -> (1,3,4h,4w), clamped, lq's device.

        Arguments and errors as ``upscale``.
        """
        check_image('lq', lq)
        if not refs:
            raise ValueError('refs is empty, but at least one reference is needed.')
        for i, ref in enumerate(refs):
            check_image(f'refs[{i}]', ref)
            if min(ref.shape[-2:]) < MIN_REF_SIDE:
                raise ValueError(
                    f'refs[{i}] is {ref.shape[-2]}x{ref.shape[-1]} (HxW), but both sides of a '
                    f'reference must be at least {MIN_REF_SIDE}.'
                )
        side = max(*lq.shape[-2:], MIN_TILE) if tile is None else tile
        check_at_least('tile', side, MIN_TILE)
        check_at_least('overlap', overlap, 0)
        keys = limit_references(refs, max_ref_megapixels)
        try:
            sr = self.restorer(lq, keys, tile=side, overlap=overlap, progress=progress)
        except torch.OutOfMemoryError:
            raise ValueError(
                f'{self.device} has too little memory. Lower tile (now {tile}) or '
                f'max_ref_megapixels (now {max_ref_megapixels:g}), or use the CPU.'
            ) from None
        return sr.clamp(0, 1).to(lq)


def pick_device(device: str | torch.device) -> torch.device:
    """``auto`` or a device's name -> the device. ValueError if this machine has no such."""
    if device == 'auto':
        return torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    try:
        found = torch.device(device)
    except RuntimeError:
        raise ValueError(f'device is {device!r}, but must be auto, cpu, cuda or cuda:N.') from None
    if found.type not in ('cpu', 'cuda'):
        raise ValueError(f'device is {device!r}, but must be auto, cpu, cuda or cuda:N.')
    if found.type == 'cuda' and (found.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f'device is {device!r}, but this machine has {torch.cuda.device_count()} CUDA '
            'devices. Use auto or cpu.'
        )
    return found


def limit_references(refs: Sequence[Tensor], max_megapixels: float) -> list[Tensor]:
    """Reduce references so that together they stay below a size; each has an equal share.

    Args:
        refs: (1, 3, H', W') in [0, 1].
        max_megapixels: of all together, > 0.
    """
    if not max_megapixels > 0:
        raise ValueError(f'max_ref_megapixels is {max_megapixels}, but must be above 0.')
    share = max_megapixels * 1e6 / len(refs)
    limited = []
    for i, ref in enumerate(refs):
        height, width = ref.shape[-2:]
        if height * width > share:
            factor = math.sqrt(share / (height * width))
            size = [max(MIN_REF_SIDE, int(side * factor)) for side in (height, width)]
            ref = F.interpolate(ref, size=size, mode='bicubic', antialias=True).clamp(0, 1)
            get_root_logger().warning(
                f'Reference {i + 1} is reduced from {height}x{width} to {size[0]}x{size[1]} (HxW): '
                f'max_ref_megapixels is {max_megapixels:g} for {len(refs)}.'
            )
        limited.append(ref)
    return limited


def enlarge_alpha(alpha: Tensor | None, scale: int) -> Tensor | None:
    """(1,1,h,w) -> (1,1,scale*h,scale*w) in [0, 1], bicubic; None stays None."""
    return None if alpha is None else upsample_bicubic(alpha, scale).clamp(0, 1)
