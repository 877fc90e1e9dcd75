"""How many matches one geometry confirms: between related photographs, and by chance.

    python tests/benchmarks/rectify_thresholds.py --data DIR --out thresholds.jsonl --figure F.png

Each input of the real pairs with its own reference, and with that of another scene. For both
matchers: confirmed matches, the share of the image that they cover, the mean rho, and what the null
space of the reference then gains or costs over projected I_DE. Goes on where it stopped.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from enhancer_cases import psnr_ssim_y
from measuring import data_parser, report, table
from rectified import BASE, DEGRADATION, Case, Rectifier, cases, enhance, load, measure
from tqdm import tqdm

from defsr.archs.interface import Reference
from defsr.benchmark.rows import Results
from defsr.diffusion.reference_null_space import best_of, with_null_space
from defsr.rectify.aliked_lightglue import ALIKEDLightGlue
from defsr.rectify.confirmation import LEAST_COVERED
from defsr.rectify.sift import SIFT
from defsr.utils.cli import run_cli

MATCHERS = {'aliked_lightglue': ALIKEDLightGlue.least, 'sift': SIFT.least}  # thresholds
KINDS = ('related', 'unrelated')
FEWEST = 6  # of the picture: eight are needed to fit anything


def pairs(root: Path) -> list[tuple[str, str, str, tuple]]:
    """(key, set, kind, pair) of every input, twice."""
    known = [(name, one) for name in ('near', 'web', 'far') for one in cases(root, name, 0)]
    found = []
    for number, (name, one) in enumerate(known):
        found.append((one[0], name, 'related', one))
        others = [other for _, other in known[number + 1 :] + known[:number] if other[1] != one[1]]
        other = others[len(others) // 2]
        folder, first, _ = one[2]
        found.append((one[0], name, 'unrelated', (one[0], one[1], (folder, first, other[2][2]))))
    return found


def look(case: Case, rectifier: Rectifier) -> dict[str, float]:
    """What a matcher finds, however little, and what that is worth if it is enough."""
    found = rectifier.find(case.de, Reference(case.ref), enhance)
    views = rectifier.rectify(case.lq, case.de, Reference(case.ref), found)
    base = measure(BASE, case)['psnr']
    gain = rho = 0.0
    if views:
        best = best_of([(view.image, view.evidence, view.valid) for view in views], 4)
        image, evidence = best.image, best.evidence
        sr = with_null_space(case.lq, case.de, image, evidence, DEGRADATION.operator)
        gain = psnr_ssim_y(sr, case.gt)['psnr'] - base
        rho = float(evidence.rho.sum() / views[0].valid.sum())
    covered = 0.0 if found.confirmed is None else found.confirmed.covered
    return {'number': found.number, 'covered': covered, 'used': len(views), 'rho': rho,
            'gain': gain}  # fmt: skip


def draw(rows: dict[str, Any], file: Path) -> None:
    """Share of pairs with at least so many confirmed matches."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.6), sharey=True, constrained_layout=True)
    for axis, matcher in zip(axes, MATCHERS, strict=True):
        for kind, colour in zip(KINDS, ('tab:blue', 'tab:red'), strict=True):
            chosen = [r for r in rows.values() if (r['matcher'], r['kind']) == (matcher, kind)]
            numbers = sorted(max(FEWEST, r['number']) for r in chosen)
            shares = [1 - i / len(numbers) for i in range(len(numbers))]
            axis.step(numbers, shares, where='pre', color=colour, label=f'{kind} ({len(numbers)})')
        least = MATCHERS[matcher]
        axis.axvline(least, color='black', linestyle=':', label=f'threshold {least}')
        axis.set(xscale='log', xlim=(FEWEST, 600), xlabel='confirmed matches', title=matcher)
        axis.grid(alpha=0.3)
        axis.legend()
    axes[0].set_ylabel('share of pairs with as many or more')
    figure.savefig(file, dpi=100)


def main() -> None:
    parser = data_parser(__doc__)
    parser.add_argument('--out', type=Path, required=True, help='file of what is measured')
    parser.add_argument('--figure', type=Path, help='of the curves')
    args = parser.parse_args()
    results = Results(args.out)
    rectifiers = {name: Rectifier(DEGRADATION, name) for name in MATCHERS}
    for name, group, kind, one in tqdm(pairs(args.data), unit='pair'):
        done = results.read()
        missing = [m for m in MATCHERS if f'{m} {kind} {name}' not in done]
        case = load(*one) if missing else None
        for matcher in missing:
            row = look(case, rectifiers[matcher])
            filled = dict.fromkeys(('psnr', 'ssim', 'seconds', 'megapixels', 'parameters'), 0)
            results.add(filled | row | {'key': f'{matcher} {kind} {name}', 'matcher': matcher,
                                        'kind': kind, 'set': group})  # fmt: skip
    rows = results.read()
    lines = []
    for matcher in MATCHERS:
        for kind in KINDS:
            chosen = [r for r in rows.values() if (r['matcher'], r['kind']) == (matcher, kind)]
            numbers = sorted(r['number'] for r in chosen)
            gains = [r['gain'] for r in chosen]
            lines.append([
                matcher, kind, str(len(chosen)), str(numbers[0]), str(numbers[len(numbers) // 2]),
                str(numbers[-1]), str(sum(bool(r['used']) for r in chosen)),
                f'{sum(gains) / len(gains):+.3f}', f'{min(gains):+.3f}',
            ])  # fmt: skip
    head = ('matcher', 'pairs', 'n', 'least', 'median', 'most', 'used', 'gain', 'worst')
    title = f'Confirmed matches (thresholds {MATCHERS}, on {LEAST_COVERED:.0%} of the image)'
    report(title, table(head, lines))
    if args.figure:
        draw(rows, args.figure)


if __name__ == '__main__':
    with torch.no_grad():
        run_cli(main)
