"""Images as references, for tests of methods."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from defsr.archs.interface import Reference
from defsr.methods.base import Method


def references(images: Sequence[Tensor]) -> list[Reference]:
    return [Reference(image) for image in images]


def prepared(method: Method, images: Sequence[Tensor]):
    """What a method that does not ask its network makes of references."""
    return method.prepare(None, references(images))
