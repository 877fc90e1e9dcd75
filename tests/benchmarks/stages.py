"""Where a trained row loses: matching, transfer, or what its enhancer gives.

    python tests/benchmarks/stages.py --data DIR --method options/small/best_x4.yml:small_best.pth

PSNR-Y of the result (8 bit, crop_border 4) on the CUFED5 image with reference 1 and on the stereo
pair, both ways: bicubic, I_DE, the row as it is; with the matches that the GT query finds (matching
were perfect, transfer and network as they are); with GT as the reference (nothing is missing, and
the row's own query has to find it); with an unrelated reference (what the network adds by itself).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from enhancer_cases import lq_of, psnr_ssim_y, stereo_images
from measuring import build_restorer, data_parser, report, table
from torch import Tensor

from defsr.archs.interface import Reference
from defsr.archs.stacked_features import texture_features
from defsr.data.image_source import ImageSource
from defsr.methods.build import Restorer
from defsr.methods.matched import Matched
from defsr.ops.resize import upsample_bicubic
from defsr.utils.cli import run_cli

ROWS = ('bicubic', 'I_DE', 'as it is', 'matched by GT', 'GT as reference', 'unrelated reference')


def pairs(root: Path) -> Iterator[tuple[str, Tensor, Tensor, Tensor]]:
    """(name, GT, reference, unrelated reference), sides multiples of 4."""
    cufed = ImageSource('--data', root / 'cufed5')
    gt, ref = (_trim(cufed.read(f'001_{i}.png')[None]) for i in (0, 1))
    left, right = (_trim(image) for image in stereo_images())
    yield 'cufed5 1', gt, ref, left
    yield 'stereo left', left, right, gt
    yield 'stereo right', right, left, gt


def _trim(image: Tensor) -> Tensor:
    height, width = (side - side % 4 for side in image.shape[-2:])
    return image[..., :height, :width].contiguous()


def restored_by_gt(restorer: Restorer, lq: Tensor, gt: Tensor, ref: Tensor) -> Tensor:
    """The row's result with the matches of the GT query in the untouched reference."""
    method = restorer.method
    oracle = Matched(
        method.net_e, method.net_t, 'ref', match_patch_size=method.patch_size,
        match_refine=method.refine,
    )  # fmt: skip
    aligned = oracle.align(gt, oracle.prepare(None, [Reference(ref)]))
    de = method.enhance(lq)
    own = replace(aligned, de=de, feat_de=texture_features(method.net_t, de))
    return restorer.net_g(lq, own).sr


def measure(restorer: Restorer, gt: Tensor, ref: Tensor, other: Tensor) -> list[float]:
    """PSNR-Y of each of ``ROWS``."""
    lq = lq_of(gt)
    images = (
        upsample_bicubic(lq, 4),
        restorer.method.enhance(lq),
        restorer(lq, [ref]),
        restored_by_gt(restorer, lq, gt, ref),
        restorer(lq, [gt]),
        restorer(lq, [other]),
    )
    return [psnr_ssim_y(image, gt)['psnr'] for image in images]


def main() -> None:
    parser = data_parser(__doc__)
    add = parser.add_argument
    add('--method', default='options/small/best_x4.yml:small_best.pth', help='OPTIONS:WEIGHTS')
    args = parser.parse_args()
    options, _, weights = args.method.partition(':')
    restorer = build_restorer(options, weights)
    columns = {name: measure(restorer, *images) for name, *images in pairs(args.data)}
    lines = [
        [row, *(f'{values[number]:.2f}' for values in columns.values())]
        for number, row in enumerate(ROWS)
    ]
    report(f'By stage: {args.method}', table(['PSNR-Y', *columns], lines))


if __name__ == '__main__':
    with torch.no_grad():
        run_cli(main)
