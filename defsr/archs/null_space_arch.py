"""The null space of the input filled from references, without training."""

from __future__ import annotations

from basicsr.utils.registry import ARCH_REGISTRY
from torch import Tensor, nn

from defsr.diffusion.reference_null_space import NullSpaces, trust


@ARCH_REGISTRY.register()
class ReferenceNullSpace(nn.Module):
    """DEF's Eq. 9 with a rectified reference as the image of the null space; see
    ``with_null_space``, whose projection is the option ``project``. Has no parameters.

    Args:
        most (float): share of the reference where it explains the input, 0 to 1. Default: 1.
        scale (int): of the images; any. Default: 4.
    """

    reads = 'rectified'
    parameter_free = True  # there are no weights to be missed

    def __init__(self, most: float = 1.0, scale: int = 4) -> None:
        super().__init__()
        self.most = most
        self.scale = scale

    def forward(self, lq: Tensor, de: Tensor, spaces: NullSpaces) -> Tensor:
        """(N, 3, h, w), (N, 3, H, W) and what references add -> (N, 3, H, W)."""
        return spaces.mixed(de, self.most * trust(spaces.evidence))
