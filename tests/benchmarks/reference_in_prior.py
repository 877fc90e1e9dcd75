"""A rectified reference inside a diffusion prior, beside the same reference joined afterwards.

    python tests/benchmarks/reference_in_prior.py --data DIR \
        --out docs/results/reference_in_prior.jsonl

The prior is FFDNet in five calls, as in ``options/small/null_space_ddnm_x4.yml``. References are
rectified once for all rows (learned matcher, field and planes, against the EDSR's I_DE), all
results projected onto the clean input. PSNR-Y; differences with the paired bootstrap, over scenes
of near and web, over images of the made pairs. Where no reference is confirmed each row is its
enhancer alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import torch
from enhancer_cases import Record, psnr_ssim_y
from measuring import data_parser, report, table
from rectified import BOTH, DEGRADATION, Case, cases, load
from torch import Tensor
from tqdm import tqdm

from defsr.archs.null_space_arch import ReferenceDDNM
from defsr.config.files import load_options
from defsr.diffusion.reference_null_space import NullSpaces, best_of, project, with_null_space
from defsr.methods.build import Restorer
from defsr.metrics.bootstrap import FEWEST, paired_bootstrap
from defsr.utils.cli import run_cli

OPTIONS = 'options/small/null_space_ddnm_x4.yml'
OPERATOR = DEGRADATION.operator
EDSR, AFTER_EDSR = 'EDSR', 'null space after EDSR'
PRIOR, AFTER, INSIDE = 'prior', 'null space after the prior', 'null space inside the prior'
ROWS = (EDSR, PRIOR, AFTER_EDSR, AFTER, INSIDE)
PAIRS = ((INSIDE, PRIOR), (INSIDE, AFTER), (INSIDE, AFTER_EDSR))
SETS = ('near', 'web', 'stereo', 'made')


def results_of(case: Case, net: ReferenceDDNM) -> dict[str, Tensor]:
    """The image of each row."""
    prior = net.prior(case.lq)
    views, _ = case.rectified(BOTH)
    images = {EDSR: case.de, PRIOR: prior, AFTER_EDSR: case.de, AFTER: prior, INSIDE: prior}
    if views:
        best = best_of([(v.image, v.evidence, v.valid) for v in views], DEGRADATION.scale)
        known = best.image, best.evidence, OPERATOR
        images |= {
            AFTER_EDSR: with_null_space(case.lq, case.de, *known),
            AFTER: with_null_space(case.lq, prior, *known),
            INSIDE: net(case.lq, case.de, NullSpaces.of(case.lq, *known)),
        }
    return images


def measure(case: Case, net: ReferenceDDNM) -> dict[str, float]:
    """PSNR-Y of each row."""
    return {
        name: psnr_ssim_y(project(image, case.lq, OPERATOR), case.gt)['psnr']
        for name, image in results_of(case, net).items()
    }


def lines_of(
    label: str, rows: Sequence[dict[str, float]], scenes: Sequence[str], better: tuple[str, str]
) -> list[str]:
    """A line of differences between two rows: over scenes with their interval, and over pairs."""
    gains = [row[better[0]] - row[better[1]] for row in rows]
    by_scene: dict[str, list[float]] = {}
    for scene, gain in zip(scenes, gains, strict=True):
        by_scene.setdefault(scene, []).append(gain)
    means = [fmean(values) for values in by_scene.values()]
    interval = '-'
    if len(means) >= FEWEST:
        low, high = paired_bootstrap(means)[1:3]
        interval = f'{low:+.2f} .. {high:+.2f}'
    ahead = sum(gain > 0 for gain in gains)
    return [
        ' - '.join(better), label, f'{fmean(means):+.2f}', interval, f'{fmean(gains):+.2f}',
        f'{min(gains):+.2f}', f'{max(gains):+.2f}', f'{ahead} of {len(gains)}',
    ]  # fmt: skip


def main() -> None:
    parser = data_parser(__doc__)
    parser.add_argument('--out', type=Path, required=True, help='file of what is measured')
    parser.add_argument('--made', type=int, default=10, help='pairs made of photographs')
    parser.add_argument('--extrapolation', type=float, help="other than the option file's")
    args = parser.parse_args()
    results = Record(args.out)
    opt = load_options(OPTIONS)
    if args.extrapolation is not None:
        opt['network_g']['diffusion']['extrapolation'] = args.extrapolation
    net = Restorer.build(opt, torch.device('cpu'), DEGRADATION).net_g
    known = {name: list(cases(args.data, name, args.made)) for name in SETS}
    for one in tqdm([one for name in SETS for one in known[name]], unit='pair'):
        if one[0] not in results:
            results.add(one[0], measure(load(*one), net))
    psnr, differences = [], []
    for label, names in (('near + web', SETS[:2]), *((name, [name]) for name in SETS)):
        pairs = [one for name in names for one in known[name]]
        rows, scenes = [results.rows[one[0]] for one in pairs], [one[1] for one in pairs]
        psnr.append([label, len(rows), *(f'{fmean(row[key] for row in rows):.2f}' for key in ROWS)])
        differences += [lines_of(label, rows, scenes, better) for better in PAIRS]
    head = ('difference', 'set', 'scenes', '95 %', 'pairs', 'worst', 'best', 'ahead')
    report(
        'The reference inside the prior',
        table(('set', 'pairs', *ROWS), psnr),
        table(head, differences),
    )


if __name__ == '__main__':
    with torch.no_grad():
        run_cli(main)
