"""Photographs as they come: what is worth what if the input is not a bicubic reduction.

    python tests/benchmarks/inputs.py --data DIR --out docs/results/inputs.jsonl [--figure JPG]

A crop of the stereo pair, and every second pair of the near and web sets, reduced by other means
or with JPEG, noise and blur. Gains in PSNR-Y over bicubic interpolation of the same input:
``network`` is the enhancer alone, ``clean`` and ``auto`` are ``options/upscale.yml`` with that
``quality``. What is in the file is not measured again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from statistics import fmean

import cv2
import numpy as np
import torch
from enhancer_cases import Record, psnr_ssim_y, stereo_images
from measuring import data_parser, report, table
from rectified import cases, load
from torch import Tensor
from tqdm import tqdm

from defsr.diffusion.degradation import Degradation
from defsr.images.figures import busiest_window, save_comparison
from defsr.images.levels import from_levels, to_levels
from defsr.ops.resize import upsample_bicubic
from defsr.upscaling import Upscaler
from defsr.utils.cli import run_cli

STEREO = 'stereo crop'
OF_PAIRS = ('clean', 'Lanczos (Pillow)', 'JPEG 75', 'noise 15')
FIGURE = ('JPEG 75', 'noise 15')
QUALITIES = ('clean', 'auto')


def reduced(gt: Tensor) -> Tensor:
    """(1,3,H,W) -> (1,3,h,w), bicubic as MATLAB's and rounded."""
    return Degradation('matlab', 4).make_lq(gt)[1]


def through_jpeg(gt: Tensor, quality: int) -> Tensor:
    levels = to_levels(reduced(gt))[..., ::-1]
    _, data = cv2.imencode('.jpg', levels, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return from_levels(np.ascontiguousarray(cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1]))


def with_noise(gt: Tensor, levels: float) -> Tensor:
    lq = reduced(gt)
    noise = torch.randn(lq.shape, generator=torch.Generator().manual_seed(0))
    return ((255 * lq + levels * noise).round() / 255).clamp(0, 1)


def by_pillow(gt: Tensor) -> Tensor:
    from PIL import Image

    levels = to_levels(gt)
    size = levels.shape[1] // 4, levels.shape[0] // 4
    return from_levels(np.asarray(Image.fromarray(levels).resize(size, Image.Resampling.LANCZOS)))


def by_area(gt: Tensor) -> Tensor:
    levels = to_levels(gt)
    size = levels.shape[1] // 4, levels.shape[0] // 4
    return from_levels(cv2.resize(levels, size, interpolation=cv2.INTER_AREA))


def blurred(gt: Tensor) -> Tensor:
    levels = cv2.GaussianBlur(to_levels(gt), (0, 0), 2.0)
    return reduced(from_levels(levels))


INPUTS: dict[str, Callable[[Tensor], Tensor]] = {
    'clean': reduced,
    'Lanczos (Pillow)': by_pillow,
    'area (OpenCV)': by_area,
    'JPEG 90': lambda gt: through_jpeg(gt, 90),
    'JPEG 75': lambda gt: through_jpeg(gt, 75),
    'JPEG 50': lambda gt: through_jpeg(gt, 50),
    'noise 5': lambda gt: with_noise(gt, 5),
    'noise 15': lambda gt: with_noise(gt, 15),
    'blur of 2 pixels': blurred,
}


@cache
def upscaler(quality: str) -> Upscaler:
    return Upscaler(device='cpu', quality=quality)


def stereo_crop() -> tuple[Tensor, Tensor]:
    """GT 320x384 and the reference, 340x450."""
    left, right = (image.reshape(1, *image.shape[-3:]) for image in stereo_images())
    return left[..., 120:440, 200:584], right[..., 110:450, 150:600]


def pairs(root: Path) -> Iterator[tuple[str, str, Callable[[], tuple[Tensor, Tensor]]]]:
    """(set, name, how to read GT and reference)."""
    yield STEREO, STEREO, stereo_crop
    known = [one for name in ('near', 'web') for one in cases(root, name, 0)][::2]
    for one in known:

        def read(one: tuple[str, str, tuple] = one) -> tuple[Tensor, Tensor]:
            case = load(*one)
            return case.gt, case.ref

        yield 'near and web', one[0], read


def results_of(lq: Tensor, ref: Tensor) -> dict[str, Tensor]:
    """Column -> image."""
    found = {'bicubic': upsample_bicubic(lq, 4).clamp(0, 1)}
    found['network'] = upscaler('clean').restorer.method.enhance(lq)
    return found | {quality: upscaler(quality)(lq, [ref]) for quality in QUALITIES}


def measure(root: Path, record: Record) -> None:
    """What the record does not have yet."""
    jobs = [
        (group, name, read, kind)
        for group, name, read in pairs(root)
        for kind in (INPUTS if group == STEREO else OF_PAIRS)
    ]
    for group, name, read, kind in tqdm(jobs, unit='image'):
        key = f'{kind} / {name}'
        if key not in record:
            gt, ref = read()
            images = results_of(INPUTS[kind](gt), ref)
            scores = {column: psnr_ssim_y(image, gt)['psnr'] for column, image in images.items()}
            record.add(key, {'set': group, 'input': kind, 'scores': scores})


def draw(path: str) -> None:
    """Before and after, of the stereo crop."""
    gt, ref = stereo_crop()
    for kind in FIGURE:
        images = results_of(INPUTS[kind](gt), ref)
        labels = {'bicubic': 'bicubic', 'clean': 'taken as it is', 'auto': 'cleaned first'}
        panels = {labels[column]: images[column] for column in labels} | {'ground truth': gt}
        window = (*busiest_window(gt, images['auto'], images['clean'], 112), 112)
        file = Path(path)
        name = file.with_stem(f'{file.stem}_{kind.lower().replace(" ", "_")}')
        save_comparison(name, panels, dict.fromkeys(panels, window), title=kind)


def main() -> None:
    parser = data_parser(__doc__)
    parser.add_argument('--out', required=True, help='file of what is measured')
    parser.add_argument('--figure', help='PNG; one for each of a few inputs')
    args = parser.parse_args()
    logging.getLogger('basicsr').setLevel(logging.WARNING)
    record = Record(args.out)
    measure(args.data, record)
    rows = []
    for group in (STEREO, 'near and web'):
        for kind in INPUTS:
            own = [
                row['scores']
                for row in record.rows.values()
                if row['set'] == group and row['input'] == kind
            ]
            if not own:
                continue
            cells = [f'{group}, {len(own)}', kind, f'{fmean(x["bicubic"] for x in own):.2f}']
            for column in ('network', *QUALITIES):
                gains = [x[column] - x['bicubic'] for x in own]
                worst = f' ({min(gains):+.2f})' if len(own) > 1 else ''
                cells.append(f'{fmean(gains):+.2f}{worst}')
            rows.append(cells)
    head = ('pairs', 'input', 'bicubic', 'network', 'quality: clean', 'quality: auto')
    report('Gain over bicubic interpolation of the same input', table(head, rows))
    if args.figure:
        draw(args.figure)


if __name__ == '__main__':
    with torch.no_grad():
        run_cli(main)
