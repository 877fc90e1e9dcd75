"""What the benchmarks of the enhancer share: crops of real photographs, settings, measurements."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import defsr  # noqa: F401  # isort: skip  (before BasicSR: applies the patches)
import skimage
from basicsr.archs import build_network
from basicsr.metrics import calculate_psnr, calculate_ssim
from basicsr.utils import tensor2img
from torch import Tensor, nn

from defsr.archs.enhancer_arch import DDNMEnhancer
from defsr.config.files import load_options
from defsr.data.image_source import ImageSource
from defsr.diffusion.degradation import Degradation
from defsr.images.levels import from_levels
from defsr.ops.resize import upsample_bicubic

OPTIONS = 'options/small/enhance_cufed_small.yml'
TRUNK = 'experiments/pretrained_models/vgg16_trunk_hed.pth'


@dataclass(frozen=True)
class Setting:
    """A way to enhance: a label for its row, and what differs from the option file."""

    label: str
    diffusion: Mapping[str, object] = field(default_factory=dict)

    @property
    def steps(self) -> int:
        return int(self.diffusion.get('num_steps', 0))


class EnhancerFactory:
    """Enhancers that differ in their sampling and share one denoiser.

    Args:
        options: option file with ``network_e`` and ``path:pretrain_network_e``.
        weights: other weights for the denoiser.
    """

    def __init__(self, options: str, weights: str | None = None) -> None:
        opt = load_options(options)
        self.block = {key: value for key, value in opt['network_e'].items() if key != 'type'}
        self.base = dict(self.block.pop('diffusion', {}))
        self.denoiser: nn.Module | None = None
        whole = self.make({})
        whole.load_weights(weights or opt['path']['pretrain_network_e'])
        self.denoiser = whole.denoiser

    def make(self, changes: Mapping[str, object]) -> DDNMEnhancer:
        """An enhancer with the file's options, but for ``changes``."""
        enhancer = DDNMEnhancer(**self.block, diffusion=self.base | dict(changes))
        if self.denoiser is not None:
            enhancer.denoiser = self.denoiser
        return enhancer


class Record:
    """Measurements in a file of JSON lines, so that a long benchmark goes on where it stopped."""

    def __init__(self, path: str | None) -> None:
        self.path = Path(path) if path else None
        self.rows: dict[str, dict] = {}
        if self.path and self.path.exists():
            for line in self.path.read_text().splitlines():
                row = json.loads(line)
                self.rows[row['key']] = row

    def __contains__(self, key: str) -> bool:
        return key in self.rows

    def add(self, key: str, row: Mapping[str, object]) -> None:
        """Keep a row; a line is written at once."""
        self.rows[key] = {'key': key, **row}
        if self.path:
            with open(self.path, 'a', encoding='utf-8') as file:
                file.write(json.dumps(self.rows[key]) + '\n')


def texture_extractor() -> nn.Module:
    """The VGG16 trunk of the repository."""
    block = {'type': 'VGGTextureExtractor', 'vgg_type': 'vgg16', 'weights': TRUNK}
    return build_network(block).eval().requires_grad_(False)


def centre(image: Tensor, height: int, width: int) -> Tensor:
    """The middle (..., height, width) of an image at least that large."""
    top, left = (image.shape[-2] - height) // 2, (image.shape[-1] - width) // 2
    return image[..., top : top + height, left : left + width]


def crops(
    root: Path, sets: Sequence[str], side: int, per_set: int | None = None
) -> Iterator[tuple[str, str, Tensor]]:
    """(set, name, GT (1,3,side,side)): the centre of each image; of CUFED5 the input only."""
    for name in sets:
        source = ImageSource('--data', root / name)
        images = ['001_0.png'] if name == 'cufed5' else source.names()
        for image in images[:per_set]:
            yield name, image, centre(source.read(image)[None], side, side)


def stereo_images() -> tuple[Tensor, Tensor]:
    """scikit-image's stereo pair, left and right, (1,3,500,741) in [0, 1]."""
    left, right, _ = skimage.data.stereo_motorcycle()
    return from_levels(left), from_levels(right)


def soft(image: Tensor) -> Tensor:
    """Reduced x4 and interpolated, as bicubic queries and ``ref_down_up`` are."""
    return upsample_bicubic(lq_of(image), 4).clamp(0, 1)


def lq_of(gt: Tensor) -> Tensor:
    """As the data sets make it: bicubic, rounded to 8 bit."""
    return Degradation('matlab', 4).degrade(gt[0])[None]


def psnr_ssim_y(image: Tensor, gt: Tensor) -> dict[str, float]:
    """PSNR in dB and SSIM on Y, crop_border 4, of (1,3,H,W) in [0, 1]: BasicSR's own."""
    one, other = tensor2img(image), tensor2img(gt)
    options = {'crop_border': 4, 'test_y_channel': True}
    return {
        'psnr': float(calculate_psnr(one, other, **options)),
        'ssim': float(calculate_ssim(one, other, **options)),
    }


def timed(function, *args) -> tuple[object, float]:
    """Its result and seconds."""
    start = time.perf_counter()
    result = function(*args)
    return result, time.perf_counter() - start
