"""What detail enhancement is worth to correspondences: confirmed matches by the query.

    python tests/benchmarks/rectify_queries.py --data DIR --figure docs/images/rectify_queries.png

Every second pair of the near and web sets. Queries: the bicubic image, A_pinv y, I_DE of DDNM with
the shipped prior and of the EDSR with the projection, and the ground truth, which is the most that
any enhancer could give. Keys: the reference as it is, and degraded and enhanced (by the EDSR).
"""

from __future__ import annotations

from pathlib import Path
from statistics import fmean

import torch
from enhancer_cases import OPTIONS, EnhancerFactory
from measuring import data_parser, report, table
from rectified import DEGRADATION, cases, enhance, load
from tqdm import tqdm

from defsr.ops.resize import upsample_bicubic
from defsr.rectify.confirmation import confirm
from defsr.rectify.matchers import MATCHERS
from defsr.utils.cli import run_cli

KEYS = 'raw', 'enhanced'


def draw(means: dict[tuple[str, str, str], float], queries: list[str], file: Path) -> None:
    """Bars by query, a colour for each matcher and key."""
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(8, 3.6), constrained_layout=True)
    series = [(matcher, key) for matcher in MATCHERS for key in KEYS]
    for number, (matcher, key) in enumerate(series):
        values = [means[query, matcher, key] for query in queries]
        places = [place + 0.2 * (number - 1.5) for place in range(len(queries))]
        axis.bar(places, values, width=0.2, label=f'{matcher}, reference {key}')
    axis.set_xticks(range(len(queries)), queries)
    most = 1.35 * max(means.values())  # with room for the legend
    axis.set(ylabel='confirmed matches, mean of pairs', xlabel='query', ylim=(0, most))
    axis.grid(axis='y', alpha=0.3)
    axis.legend(ncol=2)
    figure.savefig(file, dpi=100)


def main() -> None:
    parser = data_parser(__doc__)
    parser.add_argument('--figure', type=Path, help='of the bars')
    args = parser.parse_args()
    matchers = {name: make() for name, make in MATCHERS.items()}
    known = [one for name in ('near', 'web') for one in cases(args.data, name, 0)][::2]
    ddnm = EnhancerFactory(OPTIONS).make({})
    numbers: dict[tuple[str, str, str], list[int]] = {}
    operator = DEGRADATION.operator
    for one in tqdm(known, unit='pair'):
        case = load(*one)
        ref = DEGRADATION.cut(case.ref)
        keys = dict(zip(KEYS, (ref, enhance(DEGRADATION.degrade(ref))), strict=True))
        queries = {
            'bicubic': upsample_bicubic(case.lq, 4).clamp(0, 1),
            'A_pinv y': operator.A_pinv(case.lq).clamp(0, 1),
            'DDNM': ddnm(case.lq),
            'EDSR': case.de,
            'ground truth': case.gt,
        }
        for query, image in queries.items():
            for matcher, find in matchers.items():
                for key, other in keys.items():
                    size = (image.shape[-2], image.shape[-1])
                    found = confirm(find(image, other), size, find.least)
                    number = 0 if found is None else found.number
                    numbers.setdefault((query, matcher, key), []).append(number)
    means = {which: fmean(values) for which, values in numbers.items()}
    names = list(dict.fromkeys(query for query, _, _ in means))
    lines = [
        [query, *(f'{means[query, m, k]:.0f}' for m in MATCHERS for k in KEYS)] for query in names
    ]
    head = ('query', *(f'{m}, {k}' for m in MATCHERS for k in KEYS))
    report(f'Confirmed matches, mean of {len(known)} pairs', table(head, lines))
    if args.figure:
        draw(means, names, args.figure)


if __name__ == '__main__':
    with torch.no_grad():
        run_cli(main)
