"""The null space of the input filled from references, without training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from basicsr.utils.registry import ARCH_REGISTRY
from torch import Tensor, nn

from defsr.archs.enhancer_arch import DDNMEnhancer
from defsr.diffusion.reference_null_space import NullSpaces, trust
from defsr.utils.kinds import Share


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


@ARCH_REGISTRY.register()
class ReferenceDDNM(nn.Module):
    """A diffusion prior and a rectified reference fill the null space together, in each step.

    DEF's Eq. 8-9 with ``(1 - M) x_0t + M a W`` in place of ``x_0t``, M as of ``trust``; see
    ``Filling``. Where nothing is trusted it is ``DDNMEnhancer``, and its I_DE is not used. Not in
    the paper. Its weights are the denoiser's; it is not trained.

    Args:
        denoiser (dict), scale (int), diffusion (dict | None), degradation (str): as of
            ``DDNMEnhancer``.
        most (float): share of the reference where it explains the input, 0 to 1. Default: 1.
    """

    reads = 'rectified'
    consistent = True  # its images degrade to lq, so that the degradation counts

    def __init__(
        self,
        denoiser: Mapping[str, Any],
        scale: int = 4,
        diffusion: Mapping[str, Any] | None = None,
        degradation: Literal['matlab', 'pil'] = 'matlab',
        *,
        most: Share = 1.0,
    ) -> None:
        super().__init__()
        self.most = most
        self.scale = scale
        self.prior = DDNMEnhancer(denoiser, scale, diffusion, degradation)

    @classmethod
    def check(cls, where: str, block: Mapping[str, Any]) -> None:
        """As ``DDNMEnhancer.check``."""
        DDNMEnhancer.check(where, {key: block[key] for key in block if key != 'most'})

    def from_official(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A file of the denoiser's, its own or as published, by our names."""
        denoiser: Any = self.prior.denoiser
        if state.keys() != denoiser.state_dict().keys() and hasattr(denoiser, 'from_official'):
            state = denoiser.from_official(state)
        return {f'prior.denoiser.{name}': value for name, value in state.items()}

    def forward(self, lq: Tensor, de: Tensor, spaces: NullSpaces) -> Tensor:
        """(N, 3, h, w), (N, 3, H, W) and what references add -> (N, 3, H, W), A of it is lq."""
        return self.prior.enhance(lq, fill=spaces.filling(self.most * trust(spaces.evidence)))
