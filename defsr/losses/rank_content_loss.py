"""RankSRGAN's loss: what a Ranker thinks of an image (Zhang et al., ICCV 2019, Eq. 4)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from basicsr.utils.registry import LOSS_REGISTRY
from torch import Tensor, nn

from defsr.archs.ranksrgan_arch import Ranker
from defsr.utils.kinds import Count, NotNegative
from defsr.utils.paths import find_pretrained
from defsr.utils.weights import load_weights

WHERE = 'train:rank_opt'  # in an option file


@LOSS_REGISTRY.register()
class RankContentLoss(nn.Module):
    """The sigmoid of a trained ``Ranker``'s score, frozen. Lower is better.

    Unlike the published training, which leaves the Ranker in training mode, its batch
    normalisation takes the statistics that it was trained with: a score does not depend on the
    other images of the batch, and the Ranker stays as it is.

    Args:
        weights (str): of the Ranker, a path or a name in ``experiments/pretrained_models``.
        num_feat (int): its width. Default: 64.
        loss_weight (float): factor. Default: 0.03, the published one, of the sum over a batch of 8.
        bias (float): taken from the score first. Default: 0.
        reduction (str): ``mean`` over the batch, or ``sum`` as published. Default: ``mean``.

    Raises:
        ValueError: for weights that do not fit.
        FileNotFoundError: if they are not there.
    """

    def __init__(
        self,
        weights: str,
        num_feat: Count = 64,
        *,
        loss_weight: NotNegative = 3e-2,
        bias: float = 0.0,
        reduction: Literal['mean', 'sum'] = 'mean',
    ) -> None:
        super().__init__()
        self.loss_weight, self.bias, self.reduction = loss_weight, bias, reduction
        self.ranker = Ranker(num_feat=num_feat)
        load_weights(self.ranker, weights, option=f'{WHERE}:weights', network=WHERE)
        self.ranker.eval().requires_grad_(False)

    @classmethod
    def check(cls, where: str, block: Mapping[str, Any]) -> None:
        """FileNotFoundError without the weights."""
        find_pretrained(block['weights'], f'{where}:weights')

    def forward(self, sr: Tensor, gt: Tensor | None = None) -> Tensor:
        """sr (N,3,H,W) RGB in about [0,1], sides >= 32 -> a scalar; ``gt`` is not looked at."""
        ranks = (self.ranker(sr) - self.bias).sigmoid()
        return self.loss_weight * (ranks.sum() if self.reduction == 'sum' else ranks.mean())
