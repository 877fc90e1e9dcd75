"""Images as references, for tests of methods."""

from __future__ import annotations

from collections.abc import Sequence

from golden_noise import scene
from torch import Tensor, nn

from defsr.archs.interface import Reference
from defsr.methods.base import Method


def references(images: Sequence[Tensor]) -> list[Reference]:
    return [Reference(image) for image in images]


def assert_takes_any_sizes(
    method: Method, net: nn.Module, size: tuple[int, int], ref_sizes
) -> None:
    """Two images of one size with references of others: shapes, and what ``save_maps`` reads."""
    lq = scene('lq', 2, 3, *size)
    refs = [scene(f'ref {i}', 2, 3, *sides) for i, sides in enumerate(ref_sizes)]
    found = method.super_resolve(net, lq, references(refs))
    assert found.sr.shape == (2, 3, 4 * size[0], 4 * size[1]) and found.sr.isfinite().all()
    for matches in (found.index, found.confidence, found.winner):
        assert matches.shape == (2, *size)
    assert int(found.winner.max()) < len(refs)
    assert int(found.index.max()) < found.key_size[0] * found.key_size[1]


def prepared(method: Method, images: Sequence[Tensor]):
    """What a method that does not ask its network makes of references."""
    return method.prepare(None, references(images))
