"""Images as people hold them in Python - files, Pillow, NumPy, PyTorch - and the way back."""

from __future__ import annotations

import os
import reprlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL.Image import Image as Picture
from torch import Tensor
from typing_extensions import TypeVar  # comes with PyTorch

from defsr.images.header import check_megapixels
from defsr.images.levels import from_levels, to_levels
from defsr.images.photo import MAX_MEGAPIXELS, Photo, photo_of, read_photo, to_grey
from defsr.images.photo_writer import to_picture

Image = np.ndarray | Tensor | Picture | Photo | str | os.PathLike[str]
GiveBack = Callable[[Tensor, Tensor | None], Any]  # of the owner's kind
# What comes back as it went in; of a path comes a Pillow image.
Given = TypeVar('Given', bound=np.ndarray | Tensor | Picture | Photo, default=Picture)
RANGE_TOLERANCE = 1e-3  # beyond [0, 1], for images that were resized in floating point
KINDS = (
    'a path, a Pillow image, a NumPy array (H, W, 3), (H, W, 4) or (H, W) of uint8, uint16 or '
    'floating point, or a floating-point tensor (3, H, W) or (1, 3, H, W)'
)


@dataclass(frozen=True)
class ImageForm:
    """An image as a float32 tensor, and how its owner had it.

    Kinds: NumPy (H, W, 3), (H, W, 4) with alpha or (H, W) grey, as uint8, uint16 or floating point
    in [0, 1]; PyTorch (3, H, W) or (1, 3, H, W), floating point in [0, 1]; all in RGB order.
    Pillow images, paths of image files, and what ``read_photo`` returns.

    Attributes:
        name: for messages.
        rgb: (1, 3, H, W) in [0, 1].
        alpha: (1, 1, H, W) in [0, 1], or None.
        give_back: (1, 3, H', W') and alpha in [0, 1] -> an image in the owner's form; of a path a
            Pillow image.
    """

    name: str
    rgb: Tensor
    alpha: Tensor | None
    give_back: GiveBack

    @classmethod
    def of(cls, name: str, image: Image, max_megapixels: float = MAX_MEGAPIXELS) -> ImageForm:
        """Read ``image``, which is neither changed nor kept.

        Raises:
            ValueError: with ``name``, for what is none of the kinds above, is damaged, has values
                out of range or more than ``max_megapixels``.
            FileNotFoundError: for a path without a file.
        """
        if isinstance(image, (str, os.PathLike)):
            try:
                photo = read_photo(image, max_megapixels)
            except (ValueError, OSError) as error:
                kind = FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError
                raise kind(f'{name}: {error}') from None
            form = cls._of_photo(f'{name} ({photo.path})', photo)
            return replace(form, give_back=lambda *sr: to_picture(_enlarged(photo, *sr)))
        if isinstance(image, Picture):
            photo = photo_of(name, image, max_megapixels)
            form = cls._of_photo(name, photo)
            return replace(form, give_back=lambda *sr: to_picture(_enlarged(photo, *sr)))
        if isinstance(image, Photo):
            return cls._of_photo(f'{name} ({image.path})', image)
        if isinstance(image, Tensor):
            return cls._of_tensor(name, image, max_megapixels)
        if isinstance(image, np.ndarray):
            return cls._of_array(name, np.asarray(image), max_megapixels)
        raise ValueError(f'{name} is {_called(image)}, but must be {KINDS}.')

    @classmethod
    def _of_photo(cls, name: str, photo: Photo) -> ImageForm:
        return cls(name, photo.rgb, photo.alpha, lambda *sr: _enlarged(photo, *sr))

    @classmethod
    def _of_tensor(cls, name: str, image: Tensor, max_megapixels: float) -> ImageForm:
        x = image.detach() if image.ndim == 4 else image.detach().unsqueeze(0)
        good = x.ndim == 4 and x.shape[:2] == (1, 3) and x.is_floating_point() and x.numel()
        if not good or x.layout is not torch.strided or x.is_meta:
            raise ValueError(f'{name} is {_called(image)}, but must be {KINDS}.')
        check_megapixels(name, (x.shape[2], x.shape[3]), max_megapixels)

        def give_back(rgb: Tensor, alpha: Tensor | None) -> Tensor:
            return rgb.to(image).reshape(*image.shape[:-2], *rgb.shape[-2:])

        return cls(name, _in_range(name, x.float()), None, give_back)

    @classmethod
    def _of_array(cls, name: str, image: np.ndarray, max_megapixels: float) -> ImageForm:
        is_float = image.dtype.kind == 'f'
        good = image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (3, 4))
        good = good and (is_float or image.dtype.kind == 'u' and image.dtype.itemsize <= 2)
        if not good or not image.size:
            raise ValueError(f'{name} is {_called(image)}, but must be {KINDS}.')
        check_megapixels(name, (image.shape[0], image.shape[1]), max_megapixels)
        if is_float:
            levels = np.atleast_3d(image).transpose(2, 0, 1)[None].astype(np.float32, order='C')
            x = _in_range(name, torch.from_numpy(levels))
        else:
            x = from_levels(image)
        colours = 3 if x.shape[1] > 2 else 1
        rgb, alpha = x[:, :colours].expand(-1, 3, -1, -1), x[:, colours:]

        def give_back(rgb: Tensor, alpha: Tensor | None) -> np.ndarray:
            channels = [to_grey(rgb) if image.ndim == 2 else rgb]
            sr = torch.cat(channels if alpha is None else [*channels, alpha], dim=1).cpu()
            if not is_float:
                return to_levels(sr, 8 * image.dtype.itemsize).astype(image.dtype, copy=False)
            array = sr[0].permute(1, 2, 0).numpy().astype(image.dtype)
            return array[..., 0] if image.ndim == 2 else array

        return cls(name, rgb, alpha if alpha.shape[1] else None, give_back)


def image_forms(
    name: str, images: Image | Iterable[Image], max_megapixels: float = MAX_MEGAPIXELS
) -> list[ImageForm]:
    """One image or several, of any kinds.

    Raises:
        ValueError, FileNotFoundError: as ``ImageForm.of``, and for what is neither.
    """
    if isinstance(images, (np.ndarray, Tensor, Picture, Photo, str, os.PathLike)):
        return [ImageForm.of(name, images, max_megapixels)]
    if not isinstance(images, Iterable) or isinstance(images, (Mapping, bytes, bytearray)):
        raise ValueError(
            f'{name} is {_called(images)}, but must be an image or a list of images, each {KINDS}.'
        )
    return [ImageForm.of(f'{name}[{i}]', image, max_megapixels) for i, image in enumerate(images)]


def _enlarged(photo: Photo, rgb: Tensor, alpha: Tensor | None) -> Photo:
    return replace(photo, rgb=rgb, alpha=alpha)


def _called(thing: object) -> str:
    """What it is, for a message; short."""
    kind = type(thing).__name__
    if isinstance(thing, (np.ndarray, Tensor)):
        return f'a {kind} {thing.dtype} of shape {tuple(thing.shape)}'
    return repr(thing) if thing is None else f'a {kind} ({reprlib.repr(thing)})'


def _in_range(name: str, x: Tensor) -> Tensor:
    """A plain copy within [0, 1]; ValueError if it was not, but for ``RANGE_TOLERANCE``."""
    low, high = x.min().item(), x.max().item()
    if not (low >= -RANGE_TOLERANCE and high <= 1 + RANGE_TOLERANCE):  # also for NaN
        raise ValueError(
            f'{name} has values in [{low:g}, {high:g}], but floating-point images must be in '
            '[0, 1]. Divide by 255 if they are 8-bit levels.'
        )
    return x.clamp(0, 1).contiguous()
