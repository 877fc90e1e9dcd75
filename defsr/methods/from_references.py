"""Methods whose network does everything itself, from the LR image and the references."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from defsr.archs.interface import Reference, Restoration
from defsr.methods.base import RECTIFY_OPTIONS, Method, check_references
from defsr.ops.padding import pad_reflect


class FromReferences(Method[list[Tensor]]):
    """For networks that read ``references``, as TTSR and MASA do.

    Gradients reach all of ``net_g``, an extractor of its own included. Sides of references are
    cut to multiples of the scale. A network with ``size_multiple`` sees ``lq`` padded by
    reflection to multiples of it, and references to multiples of it times the scale; the result
    and the matches are cut back. What a network's ``encode(refs)`` returns serves all tiles of an
    image: its ``forward`` takes that in place of references.
    """

    options = RECTIFY_OPTIONS

    def prepare(self, net_g: nn.Module, refs: Sequence[Reference]) -> list[Tensor]:
        """The images of the references, at sizes that the network takes."""
        check_references(refs, 'A network that reads references')
        multiple = _size_multiple(net_g) * self.scale
        return [
            pad_reflect(self.degradation.cut(ref.image, 'A reference'), multiple) for ref in refs
        ]

    def restore(
        self,
        net_g: nn.Module,
        lq: Tensor,
        prepared: Sequence[Tensor],
        de: Tensor | None = None,
    ) -> Restoration:
        """As ``Method.restore``."""
        height, width = lq.shape[-2:]
        padded = pad_reflect(lq, _size_multiple(net_g))
        found = Restoration.of(net_g(padded, prepared))
        return found if padded.shape == lq.shape else found.cut(height, width, self.scale)

    @torch.no_grad()
    def restore_tiled(
        self, net_g: nn.Module, lq: Tensor, prepared: Any, **options: Any
    ) -> Restoration:
        """As ``Method.restore_tiled``; a network with ``encode`` reads the references once."""
        encode = getattr(getattr(net_g, 'module', net_g), 'encode', list)
        return super().restore_tiled(net_g, lq, encode(prepared), **options)


def _size_multiple(net_g: nn.Module) -> int:
    """Of the network itself, also behind DistributedDataParallel."""
    return getattr(getattr(net_g, 'module', net_g), 'size_multiple', 1)
