"""A perceptual distance for machines without LPIPS's weights: that of a VGG trunk, unweighted."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from defsr.utils.checks import check_image

Trunk = Callable[[Tensor], Mapping[str, Tensor]]


@torch.no_grad()
def trunk_distance(trunk: Trunk, image: Tensor, reference: Tensor) -> float:
    """LPIPS's formula (Zhang et al. 2018, Eq. 1) without its learned weights. Lower is better.

    At each layer features are divided by their length over the channels; the squared distance of
    the two images is averaged over positions and batch, and summed over layers. Not comparable
    with published LPIPS numbers.

    Args:
        trunk: ``image -> {layer: feature}``, such as ``VGGTextureExtractor``.
        image, reference: (N,3,H,W) RGB in [0, 1], of one shape.

    Raises:
        ValueError: for other images, or two shapes.
    """
    check_image('image', image)
    if image.shape != check_image('reference', reference).shape:
        raise ValueError(
            f'image is {tuple(image.shape)}, but reference {tuple(reference.shape)}; give two of '
            'one shape.'
        )
    one, other = trunk(image), trunk(reference)
    distances = [
        (F.normalize(one[layer]) - F.normalize(other[layer])).square().sum(dim=1).mean()
        for layer in one
    ]
    return float(sum(distances))
