"""Super-resolve photographs with related ones: what ``defsr-upscale`` runs, for Python."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from logging import getLogger
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from defsr.archs.interface import Restoration
from defsr.archs.network_call import Precision
from defsr.config.blocks import check_networks, check_path, required
from defsr.config.files import load_options
from defsr.diffusion.degradation import Degradation
from defsr.images.form import Given, Image, ImageForm, image_forms
from defsr.images.photo import MAX_MEGAPIXELS
from defsr.methods.base import StageProgress
from defsr.methods.build import MIN_TILE, TILE, Restorer, method_class, wants_weights
from defsr.methods.rectified_maps import rectified_maps
from defsr.ops.machine_code import load_machine_code
from defsr.ops.resize import upsample_bicubic
from defsr.utils.checks import check_above, check_block, check_int, check_keys
from defsr.utils.paths import SHIPPED
from defsr.utils.surroundings import as_if_alone, undisturbed

DEVICES = ('cpu', 'cuda', 'mps')
NETWORK = SHIPPED / 'options' / 'upscale.yml'
NETWORK_KEYS = ('scale', 'degradation', 'network_g', 'path')
MIN_REF_SIDE = 4
MAX_REF_MEGAPIXELS = 4.0
CHOOSING_MEGAPIXELS = 0.6


def upscale(
    lq: Given | str | os.PathLike[str],
    refs: Image | Iterable[Image],
    *,
    weights: str | os.PathLike[str] | None = None,
    quality: str | None = None,
    precision: Precision = 'fp32',
    tile: int | None = TILE,
    overlap: int = 16,
    device: str | torch.device = 'auto',
    max_ref_megapixels: float = MAX_REF_MEGAPIXELS,
    max_megapixels: float = MAX_MEGAPIXELS,
    progress: StageProgress | None = None,
) -> Given:
    """Super-resolve an image x4 with the textures of one or more references.

    Builds the network anew; for many images make one ``Upscaler``. Leaves the caller's settings
    and random numbers alone, and is not affected by them.

    Args:
        lq: RGB. The path of an image file; a Pillow image; NumPy (H, W, 3), (H, W) grey or
            (H, W, 4) with alpha, as uint8, uint16 or floating point in [0, 1]; or a PyTorch
            tensor (3, H, W) or (1, 3, H, W) in [0, 1].
        refs: one such image or several, kinds and sizes free, sides of at least 4. Alpha is
            ignored.
        weights: checkpoint of ``network_g``, a path or a name in
            ``experiments/pretrained_models``. Default: the one that comes with the package.
        quality: ``clean``, or ``photo``: ``lq`` has noise or traces of JPEG, which are taken off;
            ``auto``: it is looked at. Default: what ``options/upscale.yml`` says, ``auto``.
        precision: of ``network_g``: ``fp32``, or ``bf16``, for GPUs that are faster in bfloat16;
            all that stands around it stays in float32. Default: ``fp32``.
        tile: inner side of a tile in pixels of ``lq``, >= 16; None for one piece. Default: 128.
        overlap: context around a tile in pixels of ``lq``, >= 0. Default: 16.
        device: ``auto`` (CUDA if there is one, else the CPU), ``cpu``, ``cuda``, ``cuda:N`` or, on
            a Mac, ``mps``, for which the environment has to say
            PYTORCH_ENABLE_MPS_FALLBACK=1 before PyTorch is imported, as the commands do.
        max_ref_megapixels: all references together; larger ones are reduced, which is logged.
            Memory grows by about 1.2 GB per megapixel. Default: 4.
        max_megapixels: of each image and of the result; larger ones are refused. Default: 64.
        progress: called as (stage, done, total), see ``Method.restore_tiled``.

    Returns:
        ``lq``'s kind, layout, dtype and device with sides four times as long, in its range. For a
        Pillow image, and for a path, a Pillow image: upright, with colour profile, EXIF data,
        texts and resolution in its ``info``. Alpha is enlarged by bicubic interpolation.

    Raises:
        ValueError: for an image of another kind, shape or range, and for a bad option.
        FileNotFoundError: without the weights, or for a path without a file.

    Example:
        >>> import numpy as np
        >>> import defsr
        >>> rng = np.random.default_rng(0)
        >>> photo, other = rng.random((16, 20, 3)), rng.random((24, 24, 3))
        >>> sharp = defsr.upscale(photo, [other], device='cpu')
        >>> sharp.shape, sharp.dtype
        ((64, 80, 3), dtype('float64'))
    """
    return Upscaler(weights, device, quality=quality, precision=precision)(
        lq,
        refs,
        tile=tile,
        overlap=overlap,
        max_ref_megapixels=max_ref_megapixels,
        max_megapixels=max_megapixels,
        progress=progress,
    )


class Upscaler:
    """The networks of ``options/upscale.yml``, loaded once for any number of images.

    Call it as ``upscale``, from one thread or from several.

    Example:
        >>> import defsr
        >>> from PIL import Image
        >>> upscaler = defsr.Upscaler(device='cpu')
        >>> upscaler(Image.new('L', (20, 16), 128), Image.new('RGB', (24, 24))).size
        (80, 64)

    Args:
        weights: see ``upscale``.
        device: see ``upscale``.
        options: another description of the networks. Default: the package's.
        quality: see ``upscale``.
        precision: see ``upscale``.
        rectify: False: references are taken as they are, whatever the description says.

    Raises:
        ValueError: for a device that is not there, unknown options, weights that do not fit.
        FileNotFoundError: without the description or the weights.
    """

    def __init__(
        self,
        weights: str | os.PathLike[str] | None = None,
        device: str | torch.device = 'auto',
        options: str | os.PathLike[str] = NETWORK,
        *,
        quality: str | None = None,
        precision: Precision = 'fp32',
        rectify: bool = True,
    ) -> None:
        self.device = pick_device(device)
        given = {'options': options} | ({} if weights is None else {'weights': weights})
        for name, path in given.items():
            if not isinstance(path, (str, os.PathLike)):
                raise ValueError(f'{name} is {path!r}, but must be the path of a file.')
        with as_if_alone():
            self.scale, self.restorer = _build(
                weights, options, self.device, quality, precision, rectify
            )
            if self.device.type == 'cpu':
                load_machine_code()

    def __call__(
        self,
        lq: Given | str | os.PathLike[str],
        refs: Image | Iterable[Image],
        *,
        tile: int | None = TILE,
        overlap: int = 16,
        max_ref_megapixels: float = MAX_REF_MEGAPIXELS,
        max_megapixels: float = MAX_MEGAPIXELS,
        progress: StageProgress | None = None,
    ) -> Given:
        """Arguments, result and errors as ``upscale``; also of what ``read_photo`` returns."""
        return self._restore(
            lq, refs, tile, overlap, max_ref_megapixels, max_megapixels, progress
        )[0]  # fmt: skip

    def with_maps(
        self, lq: Given | str | os.PathLike[str], refs: Image | Iterable[Image], **options: Any
    ) -> tuple[Given, dict[str, np.ndarray]]:
        """As a call, and what became of the references as pictures: see ``rectified_maps``.

        Example:
            >>> from PIL import Image
            >>> upscaler = Upscaler(device='cpu')
            >>> _, maps = upscaler.with_maps(Image.new('L', (20, 16)), Image.new('L', (24, 24)))
            >>> maps  # nothing in common
            {}
        """
        limits = {'max_ref_megapixels': MAX_REF_MEGAPIXELS, 'max_megapixels': MAX_MEGAPIXELS}
        given = {'tile': TILE, 'overlap': 16, 'progress': None} | limits | options
        result, found, keys = self._restore(lq, refs, **given)
        return result, rectified_maps(found, keys)

    def _restore(
        self,
        lq: Given | str | os.PathLike[str],
        refs: Image | Iterable[Image],
        tile: int | None,
        overlap: int,
        max_ref_megapixels: float,
        max_megapixels: float,
        progress: StageProgress | None,
    ) -> tuple[Given, Restoration, list[Tensor]]:
        """The result, all that was found on the way, and the references that it was found with."""
        tile = None if tile is None else check_int('tile', tile, MIN_TILE)
        overlap = check_int('overlap', overlap, 0)
        for name, limit in {
            'max_ref_megapixels': max_ref_megapixels, 'max_megapixels': max_megapixels
        }.items():  # fmt: skip
            check_above(name, limit, 0)
        if progress is not None and not callable(progress):
            raise ValueError(
                f'progress is {progress!r}, but must be a function of (stage, done, total).'
            )
        with undisturbed(self.device):
            photo = ImageForm.of('lq', lq, max_megapixels)
            self._check_size(photo, max_megapixels)
            keys = limit_references(_check_references(refs, max_megapixels), max_ref_megapixels)
            side = tile or max(*photo.rgb.shape[-2:], MIN_TILE)
            try:
                found = self.restorer.restore(
                    photo.rgb, keys, tile=side, overlap=overlap, progress=progress
                )
            except (RuntimeError, MemoryError) as error:
                if not _lacks_memory(error):
                    raise
                raise ValueError(
                    f'{self.device} has too little memory. Lower tile (now {tile}) or '
                    f'max_ref_megapixels (now {max_ref_megapixels:g}), or use the CPU.'
                ) from None
            alpha = enlarge_alpha(photo.alpha, self.scale)
            return photo.give_back(found.sr.clamp(0, 1).to(photo.rgb), alpha), found, keys

    def confirmed(
        self,
        lq: Given | str | os.PathLike[str],
        refs: Iterable[Image],
        *,
        max_ref_megapixels: float = CHOOSING_MEGAPIXELS,
        max_megapixels: float = MAX_MEGAPIXELS,
    ) -> list[int]:
        """How many matches of each reference a geometry confirms, to choose among many.

        Arguments and errors as ``upscale``; references are taken one by one, and larger ones
        reduced.

        Raises:
            ValueError: also for options that do not rectify references.
        """
        with undisturbed(self.device):
            photo = ImageForm.of('lq', lq, max_megapixels)
            count = self.restorer.confirming(photo.rgb)
            found = []
            for ref in refs:
                images = _check_references(ref, max_megapixels)
                [key] = limit_references(images, max_ref_megapixels, tell=False)
                found.append(count(key))
        return found

    def _check_size(self, photo: ImageForm, max_megapixels: float) -> None:
        height, width = (self.scale * side for side in photo.rgb.shape[-2:])
        if height * width > max_megapixels * 1e6:
            raise ValueError(
                f'{photo.name} would become {height}x{width} (HxW), '
                f'{height * width / 1e6:.3g} megapixels, more than '
                f'max_megapixels={max_megapixels:g}. Reduce the image or raise the limit.'
            )


def _build(
    weights: str | os.PathLike[str] | None,
    options: str | os.PathLike[str],
    device: torch.device,
    quality: str | None,
    precision: Precision,
    rectify: bool,
) -> tuple[int, Restorer]:
    """Scale and networks of a description."""
    opt = load_options(Path(options), 'options')
    if quality is not None:
        opt['quality'] = quality
    if not rectify:
        for key in ('rectify', 'gate'):
            opt.pop(key, None)
    where = Path(options).name
    for key in NETWORK_KEYS:
        required(opt, '', key)
    check_networks(opt)
    method = method_class(opt)
    check_keys(where, opt, (*NETWORK_KEYS, *method.keys_of(opt)))
    for key in method.blocks_of(opt):
        required(opt, '', key)
    scale = check_int('scale', opt['scale'], 2)
    if weights is not None:
        path = check_block('path', opt['path'])
        opt['path'] = {**path, 'pretrain_network_g': str(weights)}
    if wants_weights(opt):
        required(check_block('path', opt['path']), 'path', 'pretrain_network_g')
    check_path(opt, look=weights is None)
    return scale, Restorer.build(
        opt,
        device,
        Degradation(opt['degradation'], scale),
        precision=precision,
        option='path:pretrain_network_g' if weights is None else 'weights',
        network=f'network_g of {where}',
    )


def _check_references(refs: Image | Iterable[Image], max_megapixels: float) -> list[Tensor]:
    forms = image_forms('refs', refs, max_megapixels)
    if not forms:
        raise ValueError('refs is empty, but at least one reference is needed.')
    for form in forms:
        height, width = form.rgb.shape[-2:]
        if min(height, width) < MIN_REF_SIDE:
            raise ValueError(
                f'{form.name} is {height}x{width} (HxW), but both sides of a reference must be at '
                f'least {MIN_REF_SIDE}.'
            )
    return [form.rgb for form in forms]


def _lacks_memory(error: BaseException) -> bool:
    is_memory = isinstance(error, (MemoryError, torch.OutOfMemoryError))
    told = ("DefaultCPUAllocator: can't allocate", 'MPS backend out of memory')
    return is_memory or any(line in str(error) for line in told)


def pick_device(device: str | torch.device) -> torch.device:
    """``auto`` or a device's name -> the device. ValueError if this machine has none."""
    if device == 'auto':
        return torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    try:
        found = torch.device(device) if isinstance(device, (str, torch.device)) else None
    except RuntimeError:
        found = None
    if found is None or found.type not in DEVICES or (found.index or 0) < 0:
        raise ValueError(f'device is {device!r}, but must be auto, cpu, cuda, cuda:N or mps.')
    if found.type == 'mps':
        if not torch.backends.mps.is_available() or found.index:
            raise ValueError(f'device is {device!r}, but this machine has none. Use auto or cpu.')
        return torch.device('mps')
    if found.type == 'cuda' and (found.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f'device is {device!r}, but this machine has {torch.cuda.device_count()} CUDA '
            'devices. Use auto or cpu.'
        )
    return found if found.type == 'cuda' else torch.device('cpu')


def limit_references(
    refs: Sequence[Tensor], max_megapixels: float, *, tell: bool = True
) -> list[Tensor]:
    """Reduce references so that together they stay below a size; each has an equal share.

    Args:
        refs: (1, 3, H', W') in [0, 1].
        max_megapixels: of all together, > 0.
        tell: a warning for each that is reduced.
    """
    share = max_megapixels * 1e6 / len(refs)
    limited = []
    for i, ref in enumerate(refs):
        height, width = ref.shape[-2:]
        if height * width > share:
            factor = math.sqrt(share / (height * width))
            size = [max(MIN_REF_SIDE, int(side * factor)) for side in (height, width)]
            ref = F.interpolate(ref, size=size, mode='bicubic', antialias=True).clamp(0, 1)
            if tell:
                getLogger('basicsr').warning(
                    f'Reference {i + 1} is reduced from {height}x{width} to {size[0]}x{size[1]} '
                    f'(HxW): max_ref_megapixels is {max_megapixels:g} for {len(refs)}.'
                )
        limited.append(ref)
    return limited


def enlarge_alpha(alpha: Tensor | None, scale: int) -> Tensor | None:
    """(1,1,h,w) -> (1,1,scale*h,scale*w) in [0, 1], bicubic; None stays None."""
    return None if alpha is None else upsample_bicubic(alpha, scale).clamp(0, 1)
