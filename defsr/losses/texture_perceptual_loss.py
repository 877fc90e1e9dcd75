"""BasicSR's perceptual loss on a VGG that need not be downloaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from basicsr.losses.basic_loss import PerceptualLoss
from basicsr.utils.registry import LOSS_REGISTRY
from torch import nn

from defsr.archs.vgg import VGGTrunk
from defsr.utils.checks import check_block, check_choice
from defsr.utils.kinds import NotNegative

WHERE = 'train:perceptual_opt'  # in an option file
_CRITERIA: dict[str, type[nn.Module] | None] = {'l1': nn.L1Loss, 'l2': nn.MSELoss, 'fro': None}


@LOSS_REGISTRY.register()
class TexturePerceptualLoss(PerceptualLoss):
    """BasicSR's ``PerceptualLoss`` with a choice of weights, and a ``criterion: l2`` that works.

    Called as ``loss(x, gt)`` with (N,3,H,W) images; returns (perceptual, style), each a scalar,
    or None where its weight is 0. L_per of DEF Eq. 14 is the perceptual part.

    Args:
        layer_weights (Mapping[str, float]): weight of each VGG layer, as in {'relu5_1': 1.0}.
        vgg_type (str): ``vgg16`` or ``vgg19``. Default: ``vgg19``.
        weights (str): ``torchvision`` / a path / ``none``, see ``VGGTrunk``.
            Default: ``torchvision``.
        use_input_norm (bool): normalise the image as the weights expect. Default: True.
        range_norm (bool): True for images in [-1,1], False for [0,1]. Default: False.
        perceptual_weight (float): factor of the perceptual loss, 0: off. Default: 1.0.
        style_weight (float): factor of the style (Gram matrix) loss, 0: off. Default: 0.
        criterion (str): ``l1``: mean absolute, ``l2``: mean squared difference, ``fro``: norm of
            the whole difference (it grows with the image). Default: ``l1``.

    Raises:
        ValueError: for an unknown criterion or layer, or weights that do not fit.
        OSError: if the weights cannot be had.
    """

    def __init__(
        self,
        layer_weights: Mapping[str, NotNegative],
        vgg_type: str = 'vgg19',
        weights: str = 'torchvision',
        *,
        use_input_norm: bool = True,
        range_norm: bool = False,
        perceptual_weight: NotNegative = 1.0,
        style_weight: NotNegative = 0.0,
        criterion: str = 'l1',
    ) -> None:
        nn.Module.__init__(self)  # the parent's constructor would download a VGG
        given = {'layer_weights': layer_weights, 'criterion': criterion}
        self.check(WHERE, given | {'vgg_type': vgg_type, 'weights': weights})
        self.criterion_type = criterion
        kind = _CRITERIA[criterion]
        self.criterion = kind() if kind else None
        self.perceptual_weight = perceptual_weight
        self.style_weight = style_weight
        self.layer_weights = dict(layer_weights)
        self.vgg = VGGTrunk(list(layer_weights), vgg_type, weights, where=WHERE)
        if not use_input_norm:
            self.vgg.mean.zero_()
            self.vgg.std.fill_(1)
        if range_norm:  # ((x + 1) / 2 - mean) / std, as one shift and one factor
            self.vgg.mean.mul_(2).sub_(1)
            self.vgg.std.mul_(2)

    @classmethod
    def check(cls, where: str, block: Mapping[str, Any]) -> None:
        """Refuse arguments that the constructor would. Errors as its own; reads no file."""
        check_choice(f'{where}:criterion', block['criterion'], _CRITERIA)
        layers = [*check_block(f'{where}:layer_weights', block['layer_weights'])]
        VGGTrunk.check(where, {**block, 'layers': layers})
