"""Three images of the null space made one: of I_DE, of a network's result, and of a reference."""

from __future__ import annotations

import torch
from basicsr.utils.registry import ARCH_REGISTRY
from torch import Tensor, nn
from torch.nn import functional as F

from defsr.archs.layers import residual_blocks
from defsr.diffusion.reference_null_space import NullSpaces, enlarged, trust
from defsr.utils.kinds import Count

AT_FIRST, SR_AT_FIRST = 0.5, 0.9  # of ``trust`` for the reference; of the rest for the result
LEAST = 1e-3  # of a share, so that none is lost for good
GAIN = 4.0  # details are small; the network sees them so much larger
CANDIDATES = 3


@ARCH_REGISTRY.register()
class NullSpaceFusion(nn.Module):
    """The ``fusion`` of a ``DEFNet``: shares of three candidates, and what none of them has.

    All at the input's size, a pixel of it being ``scale``^2 positions of each image side by side.
    At the start the reference counts by half of ``trust`` and the network's result for nearly all
    of the rest.

    Args:
        num_feat (int): width. Default: 64.
        num_block (int): residual blocks. Default: 8.
        scale (int): of the images. Default: 4.
    """

    def __init__(self, num_feat: Count = 64, num_block: Count = 8, scale: Count = 4) -> None:
        super().__init__()
        self.scale = scale
        cells = scale**2
        self.first = nn.Conv2d(CANDIDATES * 3 * cells + 10, num_feat, 3, padding=1)
        self.body = residual_blocks(num_block, num_feat)
        self.last = nn.Conv2d(num_feat, (CANDIDATES + 3) * cells, 3, padding=1)
        for parameter in self.last.parameters():
            nn.init.zeros_(parameter)

    def forward(
        self, lq: Tensor, de: Tensor, sr: Tensor, spaces: NullSpaces, confidence: Tensor
    ) -> Tensor:
        """Fuse.

        Args:
            lq: (N, 3, h, w).
            de, sr: (N, 3, H, W), the enhanced input and a network's result.
            spaces: of the reference.
            confidence: (N, h, w) of the matches.

        Returns:
            (N, 3, H, W), about [0, 1], not clamped.
        """
        found = spaces.evidence
        details = [de - spaces.pinv, sr - spaces.pinv, spaces.other]
        cells = [F.pixel_unshuffle(GAIN * detail, self.scale) for detail in details]
        known = (
            lq - 0.5,
            spaces.soft - 0.5,
            found.rho,
            found.fine,
            found.gain,
            confidence[:, None],
        )
        answer = self.last(self.body(self.first(torch.cat((*cells, *known), dim=1))))
        logits, rest = answer.split((CANDIDATES * self.scale**2, 3 * self.scale**2), dim=1)
        other = AT_FIRST * trust(found)
        shares = torch.cat(
            ((1 - other) * (1 - SR_AT_FIRST), (1 - other) * SR_AT_FIRST, other), dim=1
        )
        start = enlarged(shares, self.scale).clamp(min=LEAST).log()
        weight = (start + F.pixel_shuffle(logits, self.scale)).softmax(dim=1)
        fused = sum(weight[:, i : i + 1] * detail for i, detail in enumerate(details))
        return spaces.pinv + fused + F.pixel_shuffle(rest, self.scale) / GAIN
