"""Multiplication-additions of a restoration, as PyTorch counts its operations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

NOT_COUNTED = 'reading and interpolating samples, sums, norms and activations'


def count_macs(work: Callable[[], object]) -> int:
    """How many multiplications, each with its addition, ``work()`` comes to.

    Those of convolutions, matrix products and attention, and with them those of exact matching, as
    it is made (a tile of it has a halo), and of deformable convolution, on its samples. Not
    counted: ``NOT_COUNTED``, four a sample for bilinear ones.

    Args:
        work: called once, with one CPU thread: PyTorch sees the operations of this thread alone.

    Example:
        >>> image, kernel = torch.rand(1, 3, 8, 10), torch.rand(5, 3, 3, 3)
        >>> count_macs(lambda: torch.nn.functional.conv2d(image, kernel, padding=1))
        10800
    """
    number = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with FlopCounterMode(display=False, custom_mapping=_formulas()) as counter:
            work()
    finally:
        torch.set_num_threads(number)
    return counter.get_total_flops() // 2


def _formulas() -> dict[Any, Callable]:
    """Of operations that PyTorch's counter does not know."""
    import torchvision  # noqa: F401  (registers the operation)

    attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    return {
        torch.ops.torchvision.deform_conv2d: _conv_flops,
        torch.ops.aten.mkldnn_convolution: _conv_flops,  # of ``inner_products``
        attention: _attention_flops,
    }


def _conv_flops(
    image_shape: Sequence[int],
    weight_shape: Sequence[int],
    *_: object,
    out_shape: Sequence[int],
    **__: object,
) -> int:
    num, channels, height, width = out_shape
    return 2 * num * channels * height * width * weight_shape[1] * weight_shape[2] * weight_shape[3]


def _attention_flops(
    query_shape: Sequence[int],
    key_shape: Sequence[int],
    value_shape: Sequence[int],
    *_: object,
    **__: object,
) -> int:
    return sdpa_flop_count(query_shape, key_shape, value_shape)
