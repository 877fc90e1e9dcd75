"""What ``num_gpu`` of an option file comes to on this machine."""

from __future__ import annotations

import torch


def has_gpu(num_gpu: object) -> bool:
    """Whether work is done on a GPU: one is asked for, or ``auto``, and one is there."""
    return not why_no_gpu(num_gpu)


def why_no_gpu(num_gpu: object) -> str:
    """Why it is not, in words; '' if it is."""
    if num_gpu == 0:
        return 'num_gpu is 0'
    return '' if torch.cuda.is_available() else 'this machine has no CUDA device'
