"""The picture of docs/rectify.md: a turned and reduced reference, found, straightened and used.

    python tests/benchmarks/rectify_figure.py --figure docs/images/rectify.jpg

The left image of the stereo pair, reduced x4, with the right one turned by 25 degrees and reduced
to 0.8; the result once with the reference as it is, once rectified and gated.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from enhancer_cases import lq_of, psnr_ssim_y, stereo_images
from rectified import BEST, DEGRADATION, LEARNED, Row
from rectify_robustness import resized, turned
from torch.nn import functional as F

from defsr.archs.interface import Reference
from defsr.images.figures import match_lines, save_figure
from defsr.images.levels import to_levels
from defsr.ops.resize import upsample_bicubic
from defsr.utils.cli import run_cli

CROP = slice(180, 340), slice(150, 390)


def main() -> None:
    from matplotlib import pyplot

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--figure', type=Path, required=True)
    args = parser.parse_args()
    left, right = (DEGRADATION.cut(image) for image in stereo_images())
    lq, ref = lq_of(left), Reference(resized(turned(right, 25), 0.8))
    results = {}
    for name, row in {
        'reference as it is': Row(BEST),
        'rectified and gated': Row(BEST, LEARNED, {'gate': 'evidence'}),
    }.items():
        restorer = row.restorer
        results[name] = restorer.method.super_resolve(restorer.net_g, lq, [ref], tile=96)
    found = results['rectified and gated']
    images = {'bicubic': upsample_bicubic(lq, 4)}
    images |= {name: result.sr for name, result in results.items()} | {'ground truth': left}
    figure = pyplot.figure(figsize=(13, 6), constrained_layout=True)
    axes = figure.subplot_mosaic([['m', 'm', 'w', 'r'], ['0', '1', '2', '3']])
    places = found.views[0].confirmed.matches
    axes['m'].imshow(match_lines(found.de, ref.image, *places))
    axes['m'].set_title(f'{len(places.query_yx)} confirmed matches, enhanced input and reference')
    axes['w'].imshow(to_levels(found.rectified))
    axes['w'].set_title('the reference in its frame')
    rho = F.interpolate(found.rho, scale_factor=4)[0, 0]
    axes['r'].imshow(rho.numpy(), cmap='gray', vmin=0, vmax=1)
    axes['r'].set_title('rho')
    for number, (name, image) in enumerate(images.items()):
        axis = axes[str(number)]
        axis.imshow(to_levels(image)[CROP])
        psnr = '' if image is left else f', {psnr_ssim_y(image, left)["psnr"]:.2f} dB'
        axis.set_title(f'{name}{psnr}')
    for axis in axes.values():
        axis.axis('off')
    save_figure(figure, args.figure, 'jpg')


if __name__ == '__main__':
    with torch.no_grad():
        run_cli(main)
