"""Pictures of what a method has made of its references before it matched anything."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from defsr.archs.interface import Restoration
from defsr.images.figures import match_lines
from defsr.images.levels import to_levels


def rectified_maps(found: Restoration, refs: Sequence[Tensor]) -> dict[str, np.ndarray]:
    """The reference in the input's frame, rho as grey, the confirmed matches of each as lines.

    Args:
        found: of one image.
        refs: the references as they are, (1, 3, H', W') in [0, 1].

    Returns:
        ``rectified``, ``rho`` and ``matches_1``, ``matches_2`` ... as (H, W, 3) RGB uint8; nothing
        if no reference was confirmed.
    """
    if found.rectified is None or found.rho is None:
        return {}
    maps = {
        'rectified': to_levels(found.rectified[:1]),
        'rho': to_levels(found.rho[:1].expand(-1, 3, -1, -1)),
    }
    query = found.sr if found.de is None else found.de
    for view in {view.number: view for view in found.views}.values():
        lines = match_lines(query, refs[view.number], *view.confirmed.matches)
        maps[f'matches_{view.number + 1}'] = lines
    return maps
