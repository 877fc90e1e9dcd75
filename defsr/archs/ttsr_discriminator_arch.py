"""The critic of TTSR's published training setup, which DEF follows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from basicsr.utils.registry import ARCH_REGISTRY
from torch import Tensor, nn

from defsr.utils.checks import check_int

_STRIDE = 32  # five stages, each halving the size


@ARCH_REGISTRY.register()
class TTSRDiscriminator(nn.Module):
    """TTSR's critic: an image of one fixed size to one number, for WGAN-GP.

    Five stages of a 3x3 convolution and a 3x3 convolution of stride 2, each with LeakyReLU 0.2,
    then two linear layers. There is no normalisation: the gradient penalty is per sample, and
    batch statistics would tie the samples together.

    Args:
        num_in_ch (int): channels of the image. Default: 3.
        num_feat (int): width of the first stage, doubled at each of the others. Default: 32,
            which gives 32, 64, 128, 256, 512.
        input_size (int | Sequence[int]): side of a square input or [height, width], multiples of
            32; equals the data set's ``gt_size``. Default: 160.

    Raises:
        ValueError: for a size that is no positive multiple of 32, or a width below 1.
    """

    def __init__(
        self, num_in_ch: int = 3, num_feat: int = 32, input_size: int | Sequence[int] = 160
    ) -> None:
        super().__init__()
        given = {'num_in_ch': num_in_ch, 'num_feat': num_feat, 'input_size': input_size}
        self.check('network_d', given)
        self.input_size = _check_size('network_d', input_size)
        widths = [num_in_ch, *(num_feat * 2**i for i in range(5))]
        stages = [
            layer
            for num_in, num_out in zip(widths[:-1], widths[1:], strict=True)
            for layer in (
                nn.Conv2d(num_in, num_out, 3, padding=1),
                nn.LeakyReLU(0.2, inplace=True),
                nn.Conv2d(num_out, num_out, 3, stride=2, padding=1),
                nn.LeakyReLU(0.2, inplace=True),
            )
        ]
        self.body = nn.Sequential(*stages)
        height, width = (side // _STRIDE for side in self.input_size)
        self.head = nn.Sequential(
            nn.Linear(widths[-1] * height * width, 1024),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Linear(1024, 1),
        )

    @classmethod
    def check(cls, where: str, block: Mapping[str, Any]) -> None:
        """Refuse arguments that the constructor would; ValueError names the option."""
        for key in ('num_in_ch', 'num_feat'):
            check_int(f'{where}:{key}', block[key], 1)
        _check_size(where, block['input_size'])

    def forward(self, x: Tensor) -> Tensor:
        """(N,num_in_ch,H,W) in [0,1] -> (N,1), unbounded. ValueError if not of ``input_size``."""
        if tuple(x.shape[-2:]) != self.input_size:
            expected, given = ('x'.join(map(str, s)) for s in (self.input_size, x.shape[-2:]))
            raise ValueError(
                f'The discriminator got an image of {given} (HxW), but was built for {expected}. '
                f"Set `network_d:input_size` and the training set's `gt_size` to one size."
            )
        return self.head(self.body(x).flatten(1))


def _check_size(where: str, size: Any) -> tuple[int, int]:
    is_one = isinstance(size, (int, float))
    sides = (size, size) if is_one else tuple(size)
    is_valid = len(sides) == 2 and all(
        isinstance(side, int) and side > 0 and side % _STRIDE == 0 for side in sides
    )
    if is_valid:
        return sides
    nearest = [max(round(float(side) / _STRIDE), 1) * _STRIDE for side in sides[:2]]
    raise ValueError(
        f'{where}:input_size is {size}, but must be one multiple of {_STRIDE} or two, [height, '
        f'width]. Nearest: {nearest[0] if is_one else nearest}.'
    )
