"""A small denoiser for tests that need some ADMUNet."""

from __future__ import annotations

TINY_ADM = {
    'type': 'ADMUNet',
    'image_size': 32,
    'num_feat': 32,
    'num_res_block': 1,
    'channel_mult': [1, 2],
    'attention_resolutions': [16],
    'num_head_channels': 32,
}
