"""SRCNN: three convolutions that sharpen an interpolated image (Dong et al., TPAMI 2016)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isqrt
from typing import Annotated, Any, Literal

from basicsr.utils.registry import ARCH_REGISTRY
from torch import Tensor, nn

from defsr.ops.resize import upsample_bicubic
from defsr.utils.checks import check_image
from defsr.utils.kinds import Count, entries

# Y of ITU-R BT.601 in [16/255, 235/255], as MATLAB's rgb2ycbcr gives it.
Y_OF_RGB = (65.481 / 255, 128.553 / 255, 24.966 / 255)
Y_OFFSET, RGB_PER_Y = 16 / 255, 255 / 219
LAYERS, KINDS = (1, 2, 3), ('weight', 'bias')


@ARCH_REGISTRY.register()
class SRCNN(nn.Module):
    """SRCNN, 9-5-5 or 9-1-5, on the image as bicubic interpolation (MATLAB's) enlarges it.

    Args:
        num_ch (int): 1: on Y of YCbCr, Cb and Cr stay interpolated, as published; 3: on RGB.
            Default: 1.
        kernel_size (list): sides of the three kernels, odd. Default: [9, 5, 5].
        num_feat (list): width after the first and the second. Default: [64, 32].
        padding (str): ``zeros`` (PyTorch's ports) or ``replicate`` (the authors' MATLAB code).
            Default: ``zeros``.
        scale (int): factor of the interpolation. Default: 4.
    """

    official_source = 'SRCNN: yjn870/SRCNN-pytorch and other ports, or the authors as .mat'

    def __init__(
        self,
        num_ch: Literal[1, 3] = 1,
        kernel_size: Annotated[Sequence[Count], entries(3, 3)] = (9, 5, 5),
        num_feat: Annotated[Sequence[Count], entries(2, 2)] = (64, 32),
        padding: Literal['zeros', 'replicate'] = 'zeros',
        scale: Count = 4,
    ) -> None:
        super().__init__()
        self.check('network_g', {'kernel_size': kernel_size})
        self.num_ch, self.scale = num_ch, scale

        def conv(num_in: int, num_out: int, side: int) -> nn.Conv2d:
            return nn.Conv2d(num_in, num_out, side, padding=side // 2, padding_mode=padding)

        self.conv1 = conv(num_ch, num_feat[0], kernel_size[0])
        self.conv2 = conv(num_feat[0], num_feat[1], kernel_size[1])
        self.conv3 = conv(num_feat[1], num_ch, kernel_size[2])

    @classmethod
    def check(cls, where: str, block: Mapping[str, Any]) -> None:
        """Refuse kernels that have no middle; ValueError names the option."""
        if not all(side % 2 for side in block['kernel_size']):
            raise ValueError(
                f'{where}:kernel_size is {block["kernel_size"]}, but must be odd, as [9, 5, 5].'
            )

    @classmethod
    def official_block(cls, state: Mapping[str, Tensor]) -> dict[str, Any]:
        """The constructor's arguments, from the weights; their ``scale`` is not in them."""
        own = _own(state)
        shapes = [own[f'conv{i}.weight'].shape for i in LAYERS]
        return {
            'num_ch': shapes[0][1],
            'kernel_size': [shape[-1] for shape in shapes],
            'num_feat': [shape[0] for shape in shapes[:2]],
            'padding': 'replicate' if 'weights_conv1' in state else 'zeros',
        }

    @classmethod
    def from_official(cls, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The ports' state dict, or the variables of the authors' MATLAB files."""
        return _own(state)

    def forward(self, lq: Tensor) -> Tensor:
        """(N,3,h,w) RGB in [0,1] -> (N,3,scale*h,scale*w), not clamped."""
        image = upsample_bicubic(check_image('lq', lq), self.scale)
        if self.num_ch == 3:
            return self._layers(image)
        y = (image * image.new_tensor(Y_OF_RGB).view(3, 1, 1)).sum(1, keepdim=True) + Y_OFFSET
        return image + RGB_PER_Y * (self._layers(y) - y)  # the same on R, G and B: Cb, Cr stay

    def _layers(self, x: Tensor) -> Tensor:
        return self.conv3(self.conv2(self.conv1(x).relu()).relu())


def _own(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Published names -> ours. KeyError or ValueError if these are not SRCNN's."""
    if 'weights_conv1' not in state:
        return {f'conv{i}.{kind}': state[f'conv{i}.{kind}'] for i in LAYERS for kind in KINDS}
    return {
        f'conv{i}.{kind}': value
        for i in LAYERS
        for kind, value in (
            ('weight', _kernel(i, state[f'weights_conv{i}'])),
            ('bias', state[f'biases_conv{i}'].flatten()),
        )
    }


def _kernel(layer: int, weights: Tensor) -> Tensor:
    """MATLAB's (k*k, out), (in, k*k, out) or (in, k*k), columns first -> (out, in, k, k)."""
    if layer == 1:
        weights = weights[None]
    elif layer == 3:
        weights = weights[..., None]
    num_in, taps, num_out = weights.shape
    side = isqrt(taps)
    return weights.reshape(num_in, side, side, num_out).permute(3, 0, 2, 1).contiguous()
