"""Inputs that are not clean: a rectified reference is still worth something, and costs nothing.

    python tests/benchmarks/rectify_inputs.py --data DIR --out docs/results/rectify_inputs.jsonl

Every second pair of the near and web sets; the input as it is, through JPEG, and with noise. Of the
shipped network for photographs, PSNR-Y over I_DE of the same input, projected onto the input or
not, and what ``project: auto`` chooses.
"""

from __future__ import annotations

from pathlib import Path
from statistics import fmean

import cv2
import numpy as np
import torch
from enhancer_cases import Record, psnr_ssim_y
from measuring import data_parser, report, table
from rectified import BEST, BOTH, DEGRADATION, Row, cases, enhance, load
from torch import Tensor
from tqdm import tqdm

from defsr.archs.interface import Reference
from defsr.diffusion.reference_null_space import project
from defsr.images.levels import from_levels, to_levels
from defsr.ops.input_quality import is_clean
from defsr.utils.cli import run_cli

ROW = Row(BEST, BOTH, {'gate': 'evidence', 'project': 'off'})


def through_jpeg(lq: Tensor, quality: int) -> Tensor:
    _, data = cv2.imencode('.jpg', to_levels(lq[0])[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    image = np.ascontiguousarray(cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1])
    return from_levels(image)


def with_noise(lq: Tensor, levels: float) -> Tensor:
    noise = torch.randn(lq.shape, generator=torch.Generator().manual_seed(0))
    return ((255 * lq + levels * noise).round() / 255).clamp(0, 1)


INPUTS = {
    'clean': lambda lq: lq,
    'JPEG 90': lambda lq: through_jpeg(lq, 90),
    'JPEG 75': lambda lq: through_jpeg(lq, 75),
    'noise 5': lambda lq: with_noise(lq, 5),
}


def main() -> None:
    parser = data_parser(__doc__)
    parser.add_argument('--out', type=Path, required=True, help='file of what is measured')
    args = parser.parse_args()
    results = Record(args.out)
    known = [one for name in ('near', 'web') for one in cases(args.data, name, 0)][::2]
    for one in tqdm(known, unit='pair'):
        if all(f'{name} {one[0]}' in results for name in INPUTS):
            continue
        case, restorer = load(*one), ROW.restorer
        refs, operator = [Reference(case.ref)], DEGRADATION.operator
        for name, change in INPUTS.items():
            lq = change(case.lq)
            de = enhance(lq)
            sr = restorer.method.super_resolve(restorer.net_g, lq, refs, de=de).sr
            images = {'de': de, 'off': sr.clamp(0, 1), 'exact': project(sr, lq, operator)}
            scores = {which: psnr_ssim_y(x, case.gt)['psnr'] for which, x in images.items()}
            auto = 'exact' if is_clean(lq) else 'off'
            results.add(f'{name} {one[0]}', scores | {'auto': auto})
    rows = []
    for name in INPUTS:
        own = [results.rows[f'{name} {pair}'] for pair, _, _ in known]
        gains = {w: [x[w] - x['de'] for x in own] for w in ('off', 'exact')}
        gains['auto'] = [x[x['auto']] - x['de'] for x in own]
        cells = [f'{fmean(found):+.3f} ({min(found):+.3f})' for found in gains.values()]
        exact = sum(x['auto'] == 'exact' for x in own)
        rows.append([name, f'{fmean(x["de"] for x in own):.2f}', *cells, f'{exact}'])
    head = ('input', 'I_DE', 'off, mean (worst)', 'exact', 'auto', 'auto is exact')
    report(f'Inputs that are not clean, {len(known)} pairs', table(head, rows))


if __name__ == '__main__':
    with torch.no_grad():
        run_cli(main)
