"""Does I_DE help matching? Share of positions matched as the ground truth is.

    python tests/benchmarks/enhancer_matching.py --data DIR [--settings default ...] [--figure PNG]

scikit-image's stereo pair and the CUFED5 image with each of its five references, centre 256x320
of each (and all five in one index space), shipped VGG16 trunk at relu3_1, exact matching. The
yardstick is the match that the GT query finds in the untouched reference; a position counts if its
match lies within one position of that.
Queries: bicubic, A_pinv y, I_DE, GT. Keys: the reference, reduced and interpolated
(``ref_down_up``, TTSR's), reduced and enhanced as the query was (``ref_enhanced``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import product
from pathlib import Path

import torch
from enhancer_cases import (
    OPTIONS,
    EnhancerFactory,
    Record,
    centre,
    lq_of,
    stereo_images,
    texture_extractor,
)
from measuring import data_parser, table
from torch import Tensor, nn
from tqdm import tqdm

from defsr.archs.interface import Reference
from defsr.archs.levels import MATCH_LEVEL
from defsr.data.image_source import ImageSource
from defsr.diffusion import BicubicDownsample
from defsr.images.figures import save_figure
from defsr.methods.matched import Matched, ReferenceKeys
from defsr.ops.matching import match_patches
from defsr.ops.resize import upsample_bicubic
from defsr.utils.cli import run_cli

SIZE = (256, 320)
OPERATOR = BicubicDownsample(4)
KEYS = ('ref', 'ref_down_up', 'ref_enhanced')
ALL_FIVE = 'cufed5, all at once'
DDNM_PLUS = 'DDNM+ for 8 bit'
# What to try beside the option file's own sampling.
SETTINGS: dict[str, dict[str, object]] = {
    'default': {},
    'plain, 20 steps': {'num_steps': 20, 'extrapolation': 0.0},
    DDNM_PLUS: {'sigma_y': 'quantization'},
    'sample, 20 steps': {'num_steps': 20, 'extrapolation': 0.0, 'temperature': 1.0, 'eta': 0.85},
}

Enhance = Callable[[Tensor], Tensor] | None  # None: the ground truth itself
Shares = dict[str, dict[str, float]]  # query -> key -> share


def pairs(root: Path) -> dict[str, tuple[Tensor, list[Tensor]]]:
    """Name -> (GT, references), each (1,3,256,320)."""
    cufed = ImageSource('--data', root / 'cufed5')

    gt, *refs = (centre(cufed.read(f'001_{i}.png')[None], *SIZE) for i in range(6))
    left, right = (centre(image, *SIZE) for image in stereo_images())
    found = {'motorcycle': (left, [right])}
    found |= {f'cufed5 {i}': (gt, [ref]) for i, ref in enumerate(refs, start=1)}
    return found | {ALL_FIVE: (gt, refs)}


@torch.no_grad()
def positions(net_t: nn.Module, query: Tensor, references: ReferenceKeys) -> Tensor:
    """(2,h,w): row and column of each position's match; references lie one below the other."""
    feature = net_t(query.clamp(0, 1))[MATCH_LEVEL]
    index = match_patches(feature, references.key, key_mask=references.mask)[0][0]
    width = references.key.shape[-1]
    return torch.stack([index // width, index % width])


def shares(
    net_t: nn.Module, gt: Tensor, refs: Sequence[Tensor], queries: Mapping[str, Enhance]
) -> Shares:
    """Share of positions at most one position away from the GT query's match."""
    lq = lq_of(gt)
    given = [Reference(ref) for ref in refs]
    plain = {'ref': Matched(None, net_t, 'ref').prepare(None, given)}
    plain['ref_down_up'] = Matched(interpolate, net_t, 'ref_down_up').prepare(None, given)
    truth = positions(net_t, gt, plain['ref'])
    found: Shares = {}
    for label, enhance in queries.items():
        query, keys = gt, dict(plain)
        if enhance is not None:
            query = enhance(lq)
            keys['ref_enhanced'] = Matched(enhance, net_t, 'ref_enhanced').prepare(None, given)
        found[label] = {}
        for name, references in keys.items():
            distance = (positions(net_t, query, references) - truth).abs().amax(dim=0)
            found[label][name] = float((distance <= 1).float().mean())
    return found


def interpolate(lq: Tensor) -> Tensor:
    return upsample_bicubic(lq, 4)


def rows_of(rows: Mapping[str, Shares]) -> str:
    """Markdown: a line per query and key, a column per pair, the mean over cufed5 last."""
    cufed = [name for name in rows if name.startswith('cufed5') and name != ALL_FIVE]
    lines = []
    for query, keys in next(iter(rows.values())).items():
        for key in keys:
            cells = [f'{shares[query][key]:.3f}' for shares in rows.values()]
            cells.append(f'{sum(rows[name][query][key] for name in cufed) / len(cufed):.3f}')
            lines.append([f'{query} / {key}', *cells])
    return table(['query / key', *rows, 'cufed5, mean of 1 to 5'], lines)


def draw(rows: Mapping[str, Mapping[str, float]], path: str) -> None:
    """Grouped bars: one group per pair, one bar per query and key."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.4), dpi=110, layout='constrained')
    axis = figure.subplots()
    colours = {
        'bicubic': '#999999',
        'A_pinv y': '#e0a030',
        'default': '#2060c0',
        DDNM_PLUS: '#20a060',
    }
    shades = {'ref': 0.35, 'ref_down_up': 0.65, 'ref_enhanced': 1.0}
    bars = [
        (query, key) for query, key in product(colours, KEYS) if query in next(iter(rows.values()))
    ]
    width = 0.8 / len(bars)
    for number, (query, key) in enumerate(bars):
        places = [i + (number - len(bars) / 2) * width for i in range(len(rows))]
        values = [shares[query][key] for shares in rows.values()]
        label = f'{query} / {key}'.replace('default', 'I_DE')
        axis.bar(places, values, width, color=colours[query], alpha=shades[key], label=label)
    axis.set_xticks(range(len(rows)), list(rows))
    axis.set(ylabel='share matched as GT', title='Matching, by query / key')
    figure.legend(loc='outside lower center', fontsize=8, ncols=4)
    save_figure(figure, path)


def main() -> None:
    parser = data_parser(__doc__)
    parser.add_argument('--options', default=OPTIONS)
    parser.add_argument('--weights')
    parser.add_argument('--settings', nargs='*', default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument('--record', help='file of results so far, to go on from')
    parser.add_argument('--figure')
    args = parser.parse_args()
    factory = EnhancerFactory(args.options, args.weights)
    net_t, record = texture_extractor(), Record(args.record)
    queries: dict[str, Enhance] = {'bicubic': interpolate, 'A_pinv y': OPERATOR.A_pinv}
    queries |= {label: factory.make(SETTINGS[label]).enhance for label in args.settings}
    queries['GT'] = None
    rows: dict[str, Shares] = {}
    for name, (gt, refs) in tqdm(pairs(args.data).items(), unit='pair'):
        todo = {label: how for label, how in queries.items() if f'{name} / {label}' not in record}
        for label, found in shares(net_t, gt, refs, todo).items() if todo else ():
            record.add(f'{name} / {label}', {'shares': found})
        rows[name] = {label: record.rows[f'{name} / {label}']['shares'] for label in queries}
    tqdm.write('\n' + rows_of(rows))
    if args.figure:
        draw(rows, args.figure)


if __name__ == '__main__':
    run_cli(main)
