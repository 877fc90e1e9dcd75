"""Images as people hold them in Python, NumPy or PyTorch, and the way back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from defsr.images.levels import from_levels, to_levels
from defsr.images.photo import to_grey

Image = np.ndarray | Tensor
RANGE_TOLERANCE = 1e-3  # beyond [0, 1], for images that were resized in floating point


def is_image(thing: object) -> bool:
    """Whether it is an array or a tensor, of whatever shape."""
    return isinstance(thing, (np.ndarray, Tensor))


@dataclass(frozen=True)
class ImageForm:
    """An image as a float32 tensor, and how its owner had it.

    Kinds: NumPy (H, W, 3), (H, W, 4) with alpha or (H, W) grey, as uint8, uint16 or floating point
    in [0, 1]; PyTorch (3, H, W) or (1, 3, H, W), floating point in [0, 1]. RGB order.

    Attributes:
        rgb: (1, 3, H, W) in [0, 1].
        alpha: (1, 1, H, W) in [0, 1], or None.
        given: the image as it came.
    """

    rgb: Tensor
    alpha: Tensor | None
    given: Image

    @classmethod
    def of(cls, name: str, image: Image) -> ImageForm:
        """Read ``image``; ValueError, with ``name``, for what is none of the kinds above."""
        if isinstance(image, Tensor):
            x = image if image.ndim == 4 else image.unsqueeze(0)
            good = x.ndim == 4 and x.shape[:2] == (1, 3) and x.is_floating_point()
        elif isinstance(image, np.ndarray):
            good = image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (3, 4))
            good = good and (image.dtype in (np.uint8, np.uint16) or image.dtype.kind == 'f')
        else:
            good = False
        if not good or 0 in image.shape:
            shape = (
                f' {image.dtype} of shape {tuple(image.shape)}' if hasattr(image, 'shape') else ''
            )
            raise ValueError(
                f'{name} is a {type(image).__name__}{shape}, but must be a NumPy array (H, W, 3), '
                '(H, W, 4) or (H, W) of uint8, uint16 or floating point, or a floating-point '
                'tensor (3, H, W) or (1, 3, H, W).'
            )
        if isinstance(image, np.ndarray):
            if image.dtype.kind == 'f':
                levels = np.atleast_3d(image).transpose(2, 0, 1)[None].astype(np.float32)
                x = torch.from_numpy(levels)
            else:
                x = from_levels(image)
        x = _in_range(name, x.float())
        num_colours = 3 if x.shape[1] > 2 else 1
        rgb, alpha = x[:, :num_colours].expand(-1, 3, -1, -1), x[:, num_colours:]
        return cls(rgb, alpha if alpha.shape[1] else None, image)

    def give_back(self, rgb: Tensor, alpha: Tensor | None) -> Image:
        """(1,3,H,W) and alpha in [0, 1] -> an image in the owner's form."""
        if isinstance(self.given, Tensor):
            return rgb.to(self.given).reshape(*self.given.shape[:-2], *rgb.shape[-2:])
        x = to_grey(rgb) if self.given.ndim == 2 else rgb
        x = x if alpha is None else torch.cat((x, alpha), dim=1)
        if self.given.dtype.kind == 'f':
            array = x[0].permute(1, 2, 0).numpy().astype(self.given.dtype)
            return array[..., 0] if self.given.ndim == 2 else array
        return to_levels(x, 8 * self.given.dtype.itemsize)


def _in_range(name: str, x: Tensor) -> Tensor:
    low, high = x.min().item(), x.max().item()
    if not (low >= -RANGE_TOLERANCE and high <= 1 + RANGE_TOLERANCE):  # also for NaN
        raise ValueError(
            f'{name} has values in [{low:g}, {high:g}], but floating-point images must be in '
            '[0, 1]. Divide by 255 if they are 8-bit levels.'
        )
    return x.clamp(0, 1)
