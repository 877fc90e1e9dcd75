"""Deformable sampling on a CPU, sample by sample, compiled."""

from __future__ import annotations

from math import floor
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from defsr.ops.products import inner_products
from defsr.ops.tiles import Span, even_cuts
from defsr.utils.compiled import compiled
from defsr.utils.threads import one_thread_each

DTYPES = torch.float32, torch.float64
PIECE = 2**15  # samples, of one group at one tap, that are worked on at a time


class CompiledSampledProduct(torch.autograd.Function):
    """As ``deform.SampledProduct``: pieces of positions on threads, on the way back of groups.

    feat (N,H',W',C), base (P,2) with P = N*H*W, offset (P,G,9,2), mask (P,G,9) and weight
    (C_out, G*9*C/G) -> (P, C_out), all contiguous and of one of ``DTYPES``.
    """

    @staticmethod
    def forward(
        ctx: Any, feat: Tensor, base: Tensor, offset: Tensor, mask: Tensor, weight: Tensor
    ) -> Tensor:
        base = base.to(offset.dtype)  # one kind of numbers, compiled once
        ctx.save_for_backward(feat, base, offset, mask, weight)
        out = feat.new_empty(len(base), len(weight))
        rows = out.numpy()  # which every thread may write, whatever mode of PyTorch it is in

        @torch.no_grad()
        def work(piece: Span) -> None:
            samples = _samples(feat, base, offset, mask, piece, (0, mask.shape[1]))
            rows[slice(*piece)] = inner_products(samples.flatten(1), weight).numpy()

        with one_thread_each(feat.device) as threads:
            list(threads(work, _pieces(mask)))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        feat, base, offset, mask, weight = ctx.saved_tensors
        grad_feat = torch.zeros_like(feat) if ctx.needs_input_grad[0] else None
        grad_offset, grad_mask = torch.empty_like(offset), torch.empty_like(mask)
        number = mask.shape[1]
        of_group = weight.view(len(weight), number, -1)
        grad_weight = torch.empty_like(of_group)
        grad = grad.contiguous()

        @torch.no_grad()
        def work(groups: Span) -> None:  # nothing that two of them write is the same
            kernels = of_group[:, slice(*groups)].flatten(1)
            turned, total = kernels.T.contiguous(), torch.zeros_like(kernels)
            for piece in _pieces(mask, number // (groups[1] - groups[0])):
                here = slice(*piece)
                samples = _samples(feat, base, offset, mask, piece, groups)
                total.addmm_(grad[here].T, samples.flatten(1))
                back = inner_products(grad[here], turned).view_as(samples)
                _spread(
                    *_arrays(feat, base, offset, mask, back, grad_offset, grad_mask),
                    (feat if grad_feat is None else grad_feat).numpy(),
                    grad_feat is not None, piece[0], len(base) // len(feat), groups[0],
                )  # fmt: skip
            grad_weight[:, slice(*groups)] = total.view(len(weight), groups[1] - groups[0], -1)

        with one_thread_each(feat.device) as threads:
            list(threads(work, even_cuts(number, -(-number // torch.get_num_threads()))))
        return grad_feat, None, grad_offset, grad_mask, grad_weight.view_as(weight)


def _pieces(mask: Tensor, times: int = 1) -> list[Span]:
    """(first, end) of positions whose samples stay in the cache; ``times`` as many."""
    return even_cuts(len(mask), max(1, times * PIECE // mask[0].numel()))


def _samples(
    feat: Tensor, base: Tensor, offset: Tensor, mask: Tensor, piece: Span, groups: Span
) -> Tensor:
    """(p, g, 9, C/G), interpolated and masked, of some positions and groups."""
    number = mask.shape[1]
    out = feat.new_empty(
        piece[1] - piece[0], groups[1] - groups[0], mask.shape[2], feat.shape[-1] // number
    )
    arrays = _arrays(feat, base, offset, mask, out)
    _read(*arrays, piece[0], len(base) // len(feat), groups[0])
    return out


def _arrays(*tensors: Tensor) -> list[np.ndarray]:
    return [x.numpy() for x in tensors]


@compiled
def _on_line(position, length):
    """The two integers around a position, clamped to the line, and whether they lay on it."""
    low = int(floor(position))
    on_low, on_high = (1.0 if low >= 0 else 0.0), (1.0 if low + 1 < length else 0.0)
    return max(low, 0), min(low + 1, length - 1), on_low, on_high


@compiled
def _neighbours(y, x, image, shape, start):
    """Places of the four pixels around a position in the flat map, from ``start`` of each on.

    And whether rows and columns lie in the map, above, below, before, after; and how far the
    position is down and along.
    """
    _, height, width, channels = shape
    top, bottom, on_top, on_bottom = _on_line(y, height)
    left, right, on_left, on_right = _on_line(x, width)
    upper, lower = (image * height + top) * width, (image * height + bottom) * width
    places = (
        np.uint64((upper + left) * channels + start),
        np.uint64((upper + right) * channels + start),
        np.uint64((lower + left) * channels + start),
        np.uint64((lower + right) * channels + start),
    )
    return places, (on_top, on_bottom, on_left, on_right), y - floor(y), x - floor(x)


@compiled
def _read(
    feat, base, offset, mask, out, first, per_image, first_group
):  # fmt: skip
    """Samples of positions from ``first`` on and of groups from ``first_group`` on."""
    num, groups, taps, each = out.shape
    _, height, width, _ = feat.shape
    table, kind = feat.reshape(-1), feat.dtype.type
    for p in range(num):
        at = first + p
        image = at // per_image
        for g in range(groups):
            group = first_group + g
            for tap in range(taps):
                y = base[at, 0] + (tap // 3 - 1) + offset[at, group, tap, 0]
                x = base[at, 1] + (tap % 3 - 1) + offset[at, group, tap, 1]
                found = out[p, g, tap]
                if not (-1 <= y < height and -1 <= x < width):
                    found[:] = 0 if y == y and x == x else np.nan  # what is no number stays so
                    continue
                places, on_map, down, along = _neighbours(y, x, image, feat.shape, group * each)
                one, two, three, four = places
                on_top, on_bottom, on_left, on_right = on_map
                upper = mask[at, group, tap] * (1 - down) * on_top
                lower = mask[at, group, tap] * down * on_bottom
                before, after = (1 - along) * on_left, along * on_right
                a, b = kind(upper * before), kind(upper * after)
                c, d = kind(lower * before), kind(lower * after)
                for i in range(np.uint64(each)):
                    low = a * table[one + i] + b * table[two + i]
                    found[i] = low + c * table[three + i] + d * table[four + i]


@compiled
def _spread(
    feat, base, offset, mask, grad, grad_offset, grad_mask, grad_feat, wants_feat,
    first, per_image, first_group,
):  # fmt: skip
    """From the gradient of such samples those of offset and mask; that of feat is added to."""
    num, groups, taps, each = grad.shape
    _, height, width, _ = feat.shape
    table, total, kind = feat.reshape(-1), grad_feat.reshape(-1), feat.dtype.type
    for p in range(num):
        at = first + p
        image = at // per_image
        for g in range(groups):
            group = first_group + g
            for tap in range(taps):
                y = base[at, 0] + (tap // 3 - 1) + offset[at, group, tap, 0]
                x = base[at, 1] + (tap % 3 - 1) + offset[at, group, tap, 1]
                if not (-1 <= y < height and -1 <= x < width):
                    grad_offset[at, group, tap] = 0
                    grad_mask[at, group, tap] = 0
                    continue
                places, on_map, down, along = _neighbours(y, x, image, feat.shape, group * each)
                one, two, three, four = places
                on_top, on_bottom, on_left, on_right = on_map
                given = grad[p, g, tap]
                a = b = c = d = kind(0)
                for i in range(np.uint64(each)):
                    a += table[one + i] * given[i]
                    b += table[two + i] * given[i]
                    c += table[three + i] * given[i]
                    d += table[four + i] * given[i]
                factor = mask[at, group, tap]
                upper, lower = (1 - down) * on_top, down * on_bottom
                before, after = (1 - along) * on_left, along * on_right
                at_left, at_right = upper * a + lower * c, upper * b + lower * d
                at_top, at_bottom = before * a + after * b, before * c + after * d
                grad_offset[at, group, tap, 0] = factor * (on_bottom * at_bottom - on_top * at_top)
                grad_offset[at, group, tap, 1] = factor * (on_right * at_right - on_left * at_left)
                grad_mask[at, group, tap] = before * at_left + after * at_right
                if wants_feat:
                    upper, lower = factor * upper, factor * lower
                    a, b = kind(upper * before), kind(upper * after)
                    c, d = kind(lower * before), kind(lower * after)
                    for i in range(np.uint64(each)):
                        total[one + i] += a * given[i]
                        total[two + i] += b * given[i]
                        total[three + i] += c * given[i]
                        total[four + i] += d * given[i]
