"""Operations on tensors without parameters, state, files or options."""

from defsr.ops.deform import deform_conv_at
from defsr.ops.matching import match_patches
from defsr.ops.resize import downsample_bicubic, downsample_pil, upsample_bicubic
from defsr.ops.warping import gather_positions, match_positions

__all__ = [
    'deform_conv_at',
    'downsample_bicubic',
    'downsample_pil',
    'gather_positions',
    'match_patches',
    'match_positions',
    'upsample_bicubic',
]
