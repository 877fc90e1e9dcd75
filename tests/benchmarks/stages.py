"""Where a trained row loses: matching, transfer, or what its enhancer gives.

    python tests/benchmarks/stages.py --data DIR --method options/small/best_x4.yml:small_best.pth

PSNR-Y of the result (8 bit, crop_border 4) on the CUFED5 image with reference 1 and on the stereo
pair, both ways: bicubic, I_DE, the row as it is; with the matches that the GT query finds (matching
were perfect, transfer and network as they are); with GT as the reference (nothing is missing, and
the row's own query has to find it); with an unrelated reference (what the network adds by itself).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch
from enhancer_cases import lq_of, psnr_ssim_y, stereo_images
from measuring import data_argument, report, table
from torch import Tensor

from defsr.config.files import load_options
from defsr.data.image_source import ImageSource
from defsr.methods.build import ReferenceRestorer, build_restorer
from defsr.methods.texture_maps import texture_features
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


def restored_by_gt(restorer: ReferenceRestorer, lq: Tensor, gt: Tensor, ref: Tensor) -> Tensor:
    """The row's result with the matches of the GT query in the untouched reference."""
    pipeline = restorer.pipeline
    oracle = type(pipeline)(
        pipeline.net_e, pipeline.net_t, 'ref', match_patch_size=pipeline.patch_size,
        match_refine=pipeline.refine,
    )  # fmt: skip
    references = oracle.prepare([ref])
    aligned = oracle.align(gt, references)
    more = references.refined(aligned.feat_de, aligned.index, pipeline.refine)
    de = pipeline.enhance(lq)
    feat_de = texture_features(pipeline.net_t, de)
    matches = aligned.index, aligned.confidence, aligned.key_size
    return restorer.net_g(lq, feat_de, aligned.feat_ref, *matches, de=de, **more)


def measure(restorer: ReferenceRestorer, gt: Tensor, ref: Tensor, other: Tensor) -> list[float]:
    """PSNR-Y of each of ``ROWS``."""
    lq = lq_of(gt)
    images = (
        upsample_bicubic(lq, 4),
        restorer.pipeline.enhance(lq),
        restorer(lq, [ref]),
        restored_by_gt(restorer, lq, gt, ref),
        restorer(lq, [gt]),
        restorer(lq, [other]),
    )
    return [psnr_ssim_y(image, gt)['psnr'] for image in images]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    data_argument(parser)
    add = parser.add_argument
    add('--method', default='options/small/best_x4.yml:small_best.pth', help='OPTIONS:WEIGHTS')
    args = parser.parse_args()
    options, _, weights = args.method.partition(':')
    restorer = build_restorer(load_options(options), weights, torch.device('cpu'), file=options)
    columns = {name: measure(restorer, *images) for name, *images in pairs(args.data)}
    lines = [
        [row, *(f'{values[number]:.2f}' for values in columns.values())]
        for number, row in enumerate(ROWS)
    ]
    report(f'By stage: {args.method}', table(['PSNR-Y', *columns], lines))


if __name__ == '__main__':
    with torch.no_grad():
        run_cli(main)
