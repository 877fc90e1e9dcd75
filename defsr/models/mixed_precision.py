"""In which precision a network is trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from defsr.archs.in_bfloat16 import PRECISIONS, Precision
from defsr.utils.checks import check_choice


def train_precision(train_opt: Mapping[str, Any]) -> Precision:
    """``train:precision``; ValueError for what is not offered."""
    precision = train_opt.get('precision', 'fp32')
    if precision == 'fp16':
        raise ValueError(
            'train:precision is fp16, which needs a loss scaler in every checkpoint. Set bf16, '
            'which has the range of fp32, or fp32.'
        )
    return check_choice('train:precision', precision, PRECISIONS)
