"""Methods that begin by enhancing the input with a frozen network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from defsr.archs.enhancer_base import Enhancer
from defsr.diffusion.degradation import Degradation
from defsr.methods.base import Method, Progress
from defsr.methods.networks import build_frozen, check_enhancer

if TYPE_CHECKING:
    from typing_extensions import Self

Prepared = TypeVar('Prepared')


class Enhanced(Method[Prepared]):
    """A method with ``net_e``, an enhancer, ``lq -> I_DE`` in [0, 1].

    Its constructor takes the networks of ``blocks``, the enhancer's first, then ``degradation`` and
    ``options`` by name.
    """

    net_e: Enhancer

    @classmethod
    def from_opt(
        cls,
        opt: Mapping[str, Any],
        degradation: Degradation,
        device: torch.device,
        *,
        needs_enhancer: bool = True,
    ) -> Self:
        """As ``Method.from_opt``."""
        net_e = build_frozen('network_e', opt, device, may_lack_weights=not needs_enhancer)
        others = [build_frozen(block, opt, device) for block in cls.blocks[1:]]
        return cls._with(opt, degradation, [net_e, *others])

    @classmethod
    def check(cls, opt: Mapping[str, Any], degradation: Degradation) -> None:
        """As ``Method.check``."""
        # The options are looked at, no network is.
        cls._with(opt, degradation, [nn.Identity() for _ in cls.blocks])
        check_enhancer(opt['network_e'], degradation)

    @classmethod
    def _with(
        cls, opt: Mapping[str, Any], degradation: Degradation, networks: Sequence[Any]
    ) -> Self:
        make: Any = cls
        return make(*networks, degradation=degradation, **cls.own_options(opt))

    @torch.no_grad()
    def enhance(self, lq: Tensor, progress: Progress | None = None) -> Tensor:
        """lq (N,3,h,w) -> I_DE (N,3,4h,4w), both in [0, 1]."""
        if progress:
            return self.net_e.enhance(lq, progress).clamp(0, 1)
        return self.net_e(lq)
