"""Deformable sampling around matches, and merging what is there, for C2-Matching and DATSR."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from defsr.archs.layers import conv3, leaky
from defsr.archs.levels import LEVEL_FACTORS, check_groups
from defsr.ops.deform import TAPS, Backend, deform_conv_at
from defsr.ops.warping import finer_positions


def check_aggregation(where: str, block: Mapping[str, Any]) -> None:
    """``num_ch`` and ``num_group`` of a block; ValueError names the option."""
    if {*LEVEL_FACTORS} - {*check_groups(where, block)}:
        raise ValueError(f'{where}:num_ch must have all of {[*LEVEL_FACTORS]}.')


class AggregationStage(nn.Module):
    """One level: deformable sampling around the matches, merged into the features.

    A position p is at place d of the patch around p - d; tap d of the kernel reads where that
    patch's match has its place d, and d beside it. Offsets and masks come from the features and
    from what of the reference is laid beside them.

    Args:
        num_feat: width.
        num_ch: channels of the level's textures.
        num_beside: channels of what is laid beside the features.
        make_body: what works on the merged features.
        tail: what follows; it makes the next level's.
        num_group: deformable groups.
        num_offset_feat: width of the offset branch. Default: ``num_ch``.
        num_texture_feat: channels that sampling gives. Default: ``num_ch``.
        max_offset: offsets are so much times their tanh. Default: as they are.
    """

    backend: Backend = 'auto'

    def __init__(
        self,
        num_feat: int,
        num_ch: int,
        num_beside: int,
        make_body: Callable[[], nn.Module],
        tail: nn.Module,
        *,
        num_group: int,
        num_offset_feat: int | None = None,
        num_texture_feat: int | None = None,
        max_offset: float | None = None,
    ) -> None:
        super().__init__()
        width, num_texture_feat = num_offset_feat or num_ch, num_texture_feat or num_ch
        self.num_group, self.max_offset = num_group, max_offset
        self.offset = nn.Sequential(
            conv3(num_feat + num_beside, width),
            leaky(),
            conv3(width, width),
            leaky(),
            conv3(width, 3 * len(TAPS) * num_group),
        )
        bound = (9 * num_ch) ** -0.5
        weight = torch.empty(num_texture_feat, num_ch, 3, 3).uniform_(-bound, bound)
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(torch.zeros(num_texture_feat))
        self.head = nn.Sequential(conv3(num_feat + num_texture_feat, num_feat), leaky())
        self.body = make_body()
        self.tail = tail

    def start_at_matches(self) -> None:
        """No offset, and all masks 1/2."""
        for parameter in self.offset[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(
        self,
        x: Tensor,
        feat_ref: Tensor,
        beside: Tensor,
        match_yx: Tensor,
        factor: int,
        *,
        similarity: Tensor | None = None,
        skip: Tensor | None = None,
    ) -> Tensor:
        """(N,C,f*h,f*w) -> what ``tail`` makes of it with textures.

        Args:
            x: features.
            feat_ref: (N, num_ch, f*h', f*w') textures.
            beside: (N, num_beside, f*h, f*w), for the offsets.
            match_yx: (N, 2, h + 2, w + 2), see ``Correspondences``.
            factor: f, the level's size over that of the matched level.
            similarity: (N, 1, f*h, f*w), factor on what the masks are the sigmoid of.
            skip: (N, C, f*h, f*w), added to the features that textures are merged into.
        """
        base_yx, taps_yx = around_matches(match_yx, factor)
        num_mask = len(TAPS) * self.num_group
        branch = self.offset(torch.cat((x, beside), dim=1))
        offset_yx, mask = branch.split([2 * num_mask, num_mask], dim=1)
        if self.max_offset is not None:
            offset_yx = self.max_offset * torch.tanh(offset_yx)
        texture = deform_conv_at(
            feat_ref,
            base_yx,
            (offset_yx.unflatten(1, (self.num_group, -1)) + taps_yx.unsqueeze(1)).flatten(1, 2),
            torch.sigmoid(mask if similarity is None else mask * similarity),
            self.weight,
            self.bias,
            self.backend,
        )
        texture = F.leaky_relu(texture, 0.1, inplace=True)
        merged = self.head(torch.cat((x if skip is None else x + skip, texture), dim=1))
        return self.tail(self.body(merged) + x)


def around_matches(match_yx: Tensor, factor: int) -> tuple[Tensor, Tensor]:
    """Each position's own match, and how far from it its patches' matches put each tap.

    Args:
        match_yx: (N, 2, h + 2, w + 2), see ``Correspondences``.
        factor: f, the level's size over that of the matched level.

    Returns:
        (N, 2, f*h, f*w) int64 positions and (N, 9*2, f*h, f*w) float offsets.
    """
    height, width = (side - 2 for side in match_yx.shape[-2:])
    own = match_yx[..., 1:-1, 1:-1]
    offsets = []
    for dy, dx in TAPS:
        around = match_yx[..., 1 - dy : 1 - dy + height, 1 - dx : 1 - dx + width]
        offsets.append(factor * (around + around.new_tensor([dy, dx]).view(1, 2, 1, 1) - own))
    taps_yx = torch.cat(offsets, dim=1).float()
    taps_yx = taps_yx.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
    return finer_positions(own, factor), taps_yx
