"""The levels of texture features that DEF works at, fine to coarse."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from defsr.utils.checks import check_block, check_choice, check_int

# Level name -> its size over that of the matched level.
LEVEL_FACTORS = {'relu1_1': 4, 'relu2_1': 2, 'relu3_1': 1}
MATCH_LEVEL = 'relu3_1'
VGG_CHANNELS = {'relu1_1': 64, 'relu2_1': 128, 'relu3_1': 256}


def check_channels(where: str, num_ch: Mapping[str, int] | None) -> dict[str, int]:
    """``num_ch`` of a block: level -> channels, of None VGG's; ValueError for other levels."""
    if num_ch is None:
        return dict(VGG_CHANNELS)
    for level, channels in check_block(f'{where}:num_ch', num_ch).items():
        check_choice(f'A level of {where}:num_ch', level, LEVEL_FACTORS)
        check_int(f'{where}:num_ch:{level}', channels, 1)
    return dict(num_ch)


def check_groups(where: str, block: Mapping[str, Any]) -> dict[str, int]:
    """``num_ch`` of a block, whose ``num_group`` must divide all of them; ValueError names it."""
    num_group = check_int(f'{where}:num_group', block['num_group'], 1)
    num_ch = check_channels(where, block['num_ch'])
    for level, channels in num_ch.items():
        if channels % num_group:
            raise ValueError(
                f'{where}:num_group is {num_group}, but must divide the {channels} channels '
                f'of {level}.'
            )
    return num_ch
