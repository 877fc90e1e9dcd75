"""Which stage loses what on the pairs that gain least: each stage by the ground truth in turn.

    python tests/benchmarks/rectify_stages.py --data DIR --out docs/results/rectify_stages.jsonl

PSNR-Y of the null space alone (learned matcher, field and planes) over projected I_DE, on the pairs
of near, web and far whose gain in ``rectified.jsonl`` is below 0.1 dB (``--below``): as it is; with
the correspondences that the ground truth finds; with its flow as well; with the reference mixed in
where the ground truth wants it, by the own geometry and by that of the ground truth.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import torch
from enhancer_cases import Record, psnr_ssim_y
from measuring import REPOSITORY, data_parser, report, table
from rectified import BASE, BOTH, DEGRADATION, Case, cases, enhance, load
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from defsr.archs.interface import Reference
from defsr.benchmark.rows import Results
from defsr.diffusion.reference_null_space import (
    NullSpaces,
    best_of,
    project,
    with_null_space,
)
from defsr.rectify.rectifier import Rectified, Rectifier
from defsr.utils.cli import run_cli

ROW = 'null space, learned, field and planes'
WINDOW = 29  # pixels, over which the ground truth chooses what a reference counts
OPERATOR = DEGRADATION.operator
STAGES = ('as it is', 'matches by GT', 'and flow by GT', 'mixed by GT', 'all by GT')


def restored(case: Case, views: Sequence[Rectified], by_gt: bool) -> Tensor:
    """The null space of the best views, where they are trusted or where the GT wants it."""
    if not views:
        return project(case.de, case.lq, OPERATOR)
    best = best_of([(v.image, v.evidence, v.valid) for v in views], DEGRADATION.scale)
    if not by_gt:
        return with_null_space(case.lq, case.de, best.image, best.evidence, OPERATOR)
    spaces = NullSpaces.of(case.lq, best.image, best.evidence, OPERATOR)
    change, wanted = spaces.pinv + spaces.other - case.de, case.gt - case.de
    both, own = (
        F.avg_pool2d(x.mean(1, keepdim=True), WINDOW, 1, WINDOW // 2, count_include_pad=False)
        for x in (change * wanted, change * change)
    )
    share = (both / own.clamp(min=1e-8)).clamp(0, 1)
    return project(case.de + share * change, case.lq, OPERATOR)


def measure(case: Case, rectifier: Rectifier) -> dict[str, float]:
    """Gains by stage, and confirmed matches of I_DE and of the ground truth."""
    ref = Reference(case.ref)
    own, true = (rectifier.find(image, ref, enhance) for image in (case.de, case.gt))
    views = rectifier.rectify(case.lq, case.de, ref, own)
    by_gt = rectifier.rectify(case.lq, case.gt, ref, true)  # its flows aim at the ground truth
    images = (
        restored(case, views, False),
        restored(case, rectifier.rectify(case.lq, case.de, ref, true), False),
        restored(case, by_gt, False),
        restored(case, views, True),
        restored(case, by_gt, True),
    )
    base = psnr_ssim_y(project(case.de, case.lq, OPERATOR), case.gt)['psnr']
    gains = [psnr_ssim_y(image, case.gt)['psnr'] - base for image in images]
    numbers = [0 if x.confirmed is None else x.confirmed.number for x in (own, true)]
    return dict(zip(STAGES, gains, strict=True)) | {'own': numbers[0], 'true': numbers[1]}


def main() -> None:
    parser = data_parser(__doc__)
    parser.add_argument('--out', type=Path, required=True, help='file of what is measured')
    parser.add_argument('--below', type=float, default=0.1, help='gain in dB')
    parser.add_argument('--sets', nargs='+', default=['near', 'web', 'far'])
    args = parser.parse_args()
    gained = Results(REPOSITORY / 'docs/results/rectified.jsonl').read()
    known = [
        one
        for name in args.sets
        for one in cases(args.data, name, 0)
        if gained[f'{ROW} {one[0]}']['psnr'] - gained[f'{BASE} {one[0]}']['psnr'] < args.below
    ]
    results, rectifier = Record(args.out), Rectifier(DEGRADATION, *BOTH)
    for one in tqdm(known, unit='pair'):
        if one[0] not in results:
            results.add(one[0], measure(load(*one), rectifier))
    rows = []
    for name, _, _ in known:
        own = results.rows[name]
        rows.append([name, f'{own["own"]} / {own["true"]}', *(f'{own[s]:+.2f}' for s in STAGES)])
    scenes: dict[str, list[str]] = {}
    for name, scene, _ in known:
        scenes.setdefault(scene, []).append(name)
    means = [
        fmean(fmean(results.rows[name][s] for name in names) for names in scenes.values())
        for s in STAGES
    ]
    rows.append(['mean of scenes', '', *(f'{mean:+.2f}' for mean in means)])
    head = ('pair', 'matches: own / GT', *STAGES)
    report('By stage: the pairs that gain least', table(head, rows))


if __name__ == '__main__':
    with torch.no_grad():
        run_cli(main)
