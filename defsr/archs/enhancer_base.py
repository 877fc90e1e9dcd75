"""What all enhancers share: the operator they invert, and what their results depend on."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from defsr.archs.blocks import WITHOUT_EFFECT, completed
from defsr.diffusion.degradation import Degradation
from defsr.images.levels import round_to_8_bit
from defsr.utils.checks import check_int
from defsr.utils.fingerprints import plain
from defsr.utils.weights import load_weights

NETWORKS = ('denoiser', 'network')  # whose class says itself what there is to know of them
FINGERPRINT_FORMAT = 1  # to be raised when the same options give other images


class Enhancer(nn.Module):
    """What all enhancers share: the degradation they invert.

    Args:
        scale: upsampling factor, >= 2.
        degradation: ``matlab`` or ``pil``, how the LR images were made.

    Attributes:
        operator: the degradation as an object.
        costly: True if one image takes so long that training should read a cache.
        consistent: True if its images degrade to lq, so that the degradation counts.
        trained: the attribute, and block, of the network whose weights ``load_weights`` takes.
    """

    costly = False
    consistent = False
    trained = ''

    def __init__(self, scale: int, degradation: Literal['matlab', 'pil']) -> None:
        super().__init__()
        self.scale, self.degradation = scale, degradation
        self.operator = _degradation('network_e', scale, degradation).operator

    @classmethod
    def check(cls, where: str, block: Mapping[str, Any]) -> None:
        """Refuse values that the constructor would refuse; builds no network.

        Args:
            where: the block's path in the option file.
            block: arguments of the constructor; the others have their defaults.

        Raises:
            ValueError: for the first one out of range; the message names the option.
        """
        _degradation(where, block.get('scale', 4), block.get('degradation', 'matlab'))

    @property
    def needs_weights(self) -> bool:
        """Whether it is of no use before ``load_weights``."""
        return bool(self.trained)

    def load_weights(
        self,
        path: str | Path,
        param_key: str | None = None,
        *,
        check_trained: bool = True,
        name: str = 'network_e',
    ) -> None:
        """Load the weights of the network inside, strictly.

        Args:
            path: weight file, or its name in ``experiments/pretrained_models``.
            param_key: key of the state dict in the file, see ``read_weights``.
            check_trained: refuse weights that were trained with another block of that network.
            name: of the enhancer's own block, for messages.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it holds no state dict or that of another architecture, and for an
                enhancer that has no network, or has its weights already.
        """
        option = f'path:pretrain_{name}'
        if not self.needs_weights:
            why = 'has its weights already' if self.trained else 'has no weights'
            raise ValueError(
                f'{option} is {path}, but {name} ({type(self).__name__}) {why}. Remove the option.'
            )
        net, network = getattr(self, self.trained), f'{name}:{self.trained}'
        block = getattr(self, f'_{self.trained}_block')
        says_itself = hasattr(net, 'trained_prediction')  # what it was trained for, as published
        wanted = {'network_g': completed(block)} if check_trained and not says_itself else None
        load_weights(
            net, path, option=option, network=network, param_key=param_key, trained_with=wanted
        )

    def train(self, mode: bool = True) -> Enhancer:
        """Stay in eval mode, whatever the model around it does."""
        return super().train(False)

    def enhance(self, lq: Tensor, progress: Callable[[int, int], None] | None = None) -> Tensor:
        """As ``forward``, perhaps beyond [0, 1]; ``progress(done, total)`` after each step."""
        return self(lq)

    def fingerprint(self) -> dict[str, Any]:
        """Everything that determines I_DE, as JSON holds it; caches carry it along.

        Of an argument of the constructor it takes the attribute of that name.
        """
        names = ('scale', 'degradation', *inspect.signature(type(self)).parameters)
        options = {
            name: getattr(self, name)
            for name in dict.fromkeys(names)
            if name not in WITHOUT_EFFECT and name not in NETWORKS
        }
        head = {'format': FINGERPRINT_FORMAT, 'type': type(self).__name__}
        return plain(head | options, without=WITHOUT_EFFECT)

    @torch.no_grad()
    def residual(self, de: Tensor, lq: Tensor) -> dict[str, float]:
        """How far an enhanced image is from degrading to ``lq``: max |A(de) - lq|.

        Args:
            de: (N,3,scale*h,scale*w) RGB, [0, 1] or beyond (as ``enhance`` returns it).
            lq: (N,3,h,w) RGB in [0, 1].

        Returns:
            ``unclamped`` for ``de`` as it is, ``clamped`` to [0, 1], and ``rounded`` to 8 bit.
        """
        forms = {
            'unclamped': de,
            'clamped': de.clamp(0, 1),
            'rounded': round_to_8_bit(de),
        }
        return {k: float((self.operator.A(x) - lq).abs().max()) for k, x in forms.items()}


def _degradation(where: str, scale: int, name: str) -> Degradation:
    return Degradation(name, check_int(f'{where}:scale', scale, 2), f'{where}:degradation')
