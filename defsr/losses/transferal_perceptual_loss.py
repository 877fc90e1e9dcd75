"""TTSR's transferal perceptual loss: the result should look like the textures put into it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from basicsr.utils.registry import LOSS_REGISTRY
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from defsr.archs.interface import Restoration
from defsr.archs.levels import LEVEL_FACTORS
from defsr.archs.ttsr_aggregator_arch import upsample
from defsr.utils.checks import check_choice
from defsr.utils.kinds import NotNegative

WHERE = 'train:transferal_opt'  # in an option file
_CRITERIA = {'l1': F.l1_loss, 'l2': F.mse_loss}


@LOSS_REGISTRY.register()
class TransferalPerceptualLoss(nn.Module):
    """Distance of the result's features from the transferred textures, mean over the three levels.

    The features are of the network's own extractor ``lte`` as it is at this step, through which no
    gradient reaches its parameters; through the textures one does (TTSR's published code).

    Args:
        loss_weight (float): Default: 1.
        criterion (str): ``l2``, mean squared, or ``l1``, mean absolute. Default: l2.
        use_soft_attention (bool): weigh both by the sigmoid of S, carried to the finer levels by
            bicubic interpolation. The published training does not. Default: False.
    """

    reads = 'restoration'

    def __init__(
        self,
        loss_weight: NotNegative = 1.0,
        criterion: str = 'l2',
        use_soft_attention: bool = False,
    ) -> None:
        super().__init__()
        self.check(WHERE, {'criterion': criterion})
        self.loss_weight = loss_weight
        self.criterion = criterion
        self.use_soft_attention = use_soft_attention

    @classmethod
    def check(cls, where: str, block: Mapping[str, Any]) -> None:
        """Refuse arguments that the constructor would; ValueError names the option."""
        check_choice(f'{where}:criterion', block['criterion'], _CRITERIA)

    def forward(self, out: Restoration, gt: Tensor, net_g: nn.Module) -> Tensor:
        """A scalar, of what ``net_g`` returned. ValueError if it has no ``lte`` or no textures."""
        lte = getattr(getattr(net_g, 'module', net_g), 'lte', None)
        if lte is None or out.attention is None or {*LEVEL_FACTORS} - {*out.textures}:
            raise ValueError(
                f'{WHERE} is for a network_g with an extractor `lte` that returns textures and '
                f'attention, as TTSR, but it is {type(net_g).__name__}. Remove it.'
            )
        state = {name: value.detach() for name, value in lte.state_dict().items()}
        found = functional_call(lte, state, (out.sr,))
        total = out.sr.new_zeros(())
        for level, factor in LEVEL_FACTORS.items():
            pair = found[level], out.textures[level]
            if self.use_soft_attention:
                weight = torch.sigmoid(upsample(out.attention, factor))
                pair = pair[0] * weight, pair[1] * weight
            total = total + _CRITERIA[self.criterion](*pair)
        return self.loss_weight * total / len(LEVEL_FACTORS)
