"""A reference that is turned, enlarged or reduced is worth what the upright one is; and the cost.

    python tests/benchmarks/rectify_robustness.py --data DIR

PSNR-Y of the null space alone over projected I_DE, on the stereo pair and five near pairs: the
reference turned (beside that the upright one, resampled once as well), or resized (beside that the
upright one, resized there and back). Then seconds and peak memory of the whole stage by size.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
import torch
from enhancer_cases import psnr_ssim_y
from measuring import data_parser, measured, report, table
from rectified import BASE, DEGRADATION, Case, cases, enhance, load, measure
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from defsr.archs.interface import Reference
from defsr.diffusion.reference_null_space import with_null_space
from defsr.rectify.rectifier import Rectifier
from defsr.utils.cli import run_cli

ANGLES, FACTORS = (10, 30, 90, 180), (0.5, 0.6, 1.6, 2.0)
NEAR = 'near_berlin0', 'near_lund03', 'near_lund12', 'near_sceaux03', 'near_sceaux08'
MEGAPIXELS = 0.2, 1, 4, 12


def turned(image: Tensor, degrees: float) -> Tensor:
    """All of it, on a larger canvas that continues it by reflection."""
    height, width = image.shape[-2:]
    side = math.ceil(math.hypot(height, width)) // 4 * 4 + 4
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1.0)
    matrix[:, 2] += (side - width) / 2, (side - height) / 2
    array = np.ascontiguousarray(image[0].permute(1, 2, 0).numpy())
    view = cv2.warpAffine(
        array, matrix, (side, side), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT
    )
    return torch.from_numpy(view).permute(2, 0, 1)[None].clamp(0, 1)


def resized(image: Tensor, factor: float) -> Tensor:
    size = [max(8, round(side * factor)) for side in image.shape[-2:]]
    return F.interpolate(image, size=size, mode='bicubic', antialias=True).clamp(0, 1)


def gain(case: Case, rectifier: Rectifier, ref: Tensor) -> float:
    """Of the null space alone, in dB."""
    base = measure(BASE, case)['psnr']
    views = rectifier(case.lq, case.de, [Reference(ref)], enhance)
    if not views:
        return 0.0
    image, evidence = views[0].image, views[0].evidence
    sr = with_null_space(case.lq, case.de, image, evidence, DEGRADATION.operator)
    return psnr_ssim_y(sr, case.gt)['psnr'] - base


def cost(megapixels: float, photo: Tensor, rectifier: Rectifier) -> list[str]:
    """Seconds of the stage and GiB that the process grows by, for a result of that size."""
    gt, lq = DEGRADATION.make_lq(resized(photo, math.sqrt(megapixels * 1e6 / photo[0, 0].numel())))
    de = DEGRADATION.operator.A_pinv(lq).clamp(0, 1)
    refs = [Reference(gt.roll(5, -1))]
    found = measured(lambda: rectifier(lq, de, refs, lambda x: de))
    return [f'{megapixels}', f'{found["seconds"]:.1f}', f'{found["mib"] / 1024:.2f}']


def main() -> None:
    args = data_parser(__doc__).parse_args()
    known = [one for one in cases(args.data, 'near', 0) if one[0] in NEAR]
    chosen = [*list(cases(args.data, 'stereo', 0))[:1], *known]
    lines = []
    rectifier = Rectifier(DEGRADATION, 'aliked_lightglue')
    for one in tqdm(chosen, unit='pair'):
        case = load(*one)
        cells = [f'{gain(case, rectifier, case.ref):+.2f}']
        cells += [f'{gain(case, rectifier, turned(case.ref, angle)):+.2f}' for angle in ANGLES]
        for factor in FACTORS:
            there = resized(case.ref, factor)
            back = resized(there, 1 / factor)[..., : case.ref.shape[-2], : case.ref.shape[-1]]
            cells.append(
                f'{gain(case, rectifier, there):+.2f} ({gain(case, rectifier, back):+.2f})'
            )
        lines.append([case.name, *cells])
    head = ['pair', 'upright', *(f'{a} degrees' for a in ANGLES), *(f'x {f}' for f in FACTORS)]
    report('Turned and resized references: dB over projected I_DE', table(head, lines))
    photo = load(*chosen[0]).gt
    rows = [cost(megapixels, photo, rectifier) for megapixels in MEGAPIXELS]
    report('The stage by size', table(('MP', 's', 'GiB'), rows))


if __name__ == '__main__':
    with torch.no_grad():
        run_cli(main)
