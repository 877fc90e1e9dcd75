"""What references are worth when they are brought into the frame of the input first: one table.

    python tests/benchmarks/rectified.py --data DIR --out rectified.jsonl

Real pairs of neighbouring viewpoints (near), of tourists' cameras (web), of extreme angle, season
or light (far), the CUFED5 image with each of its references, the stereo pair, and pairs made of
photographs. All results are projected onto the clean input. Gains in PSNR-Y are over projected
I_DE, per scene and as the mean of scenes, with the paired bootstrap over scenes, or over images
where these are independent. Rows are kept in the file as they are measured: the same command goes
on, also beside others that measure other ``--sets``; ``--table`` prints what is there.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from statistics import fmean, median
from typing import Any

import torch
from enhancer_cases import lq_of, psnr_ssim_y, stereo_images
from measuring import data_parser, report, table
from torch import Tensor
from tqdm import tqdm

from defsr.archs.interface import Reference
from defsr.benchmark.rows import Results
from defsr.config.files import load_options
from defsr.data.image_source import ImageSource
from defsr.data.pair_settings import PairSettings
from defsr.data.pair_synthesis import make_pair
from defsr.diffusion.degradation import Degradation
from defsr.diffusion.reference_null_space import project
from defsr.images.levels import to_levels
from defsr.methods.build import Restorer
from defsr.metrics.bootstrap import FEWEST, paired_bootstrap
from defsr.metrics.trunk_distance import trunk_distance
from defsr.ops.resize import upsample_bicubic
from defsr.rectify.rectifier import Rectified, Rectifier
from defsr.utils.cli import run_cli

BEST = 'options/small/best_x4.yml', 'small_best.pth'
TRAINED = (
    'experiments/small_best_rectified_x4/models/net_g_latest.pth'  # not shipped: it does not win
)
FUSED = 'options/small/best_rectified_x4.yml', TRAINED
EDSR = 'options/small/EDSR_x4.yml', 'small_EDSR.pth'
NULL_SPACE = 'options/small/null_space_x4.yml', ''
SETS = ('near', 'web', 'far', 'cufed5', 'stereo', 'made')
DEGRADATION = Degradation('matlab', 4)
BASE = 'I_DE'


@dataclass(frozen=True)
class Row:
    """A method of the table: options with weights, how it rectifies, and what else it sets."""

    files: tuple[str, str] | None = None
    rectify: tuple[str, str, bool] | None = None  # matcher, model, flow
    more: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def restorer(self) -> Restorer:
        options, weights = self.files or NULL_SPACE
        opt = load_options(options)
        opt |= {'project': 'exact'} | dict(self.more) if 'network_e' in opt else {}
        if 'network_e' in opt:
            opt['rectify'] = 'none' if self.rectify is None else _block(self.rectify)
        path = {**(opt.get('path') or {}), 'pretrain_network_g': weights or None}
        opt |= {'path': path, 'check_trained': False}
        return Restorer.build(opt, torch.device('cpu'), DEGRADATION)


LEARNED, SIFT = ('aliked_lightglue', 'field', True), ('sift', 'field', True)
BOTH = 'aliked_lightglue', 'field_and_planes', True
ROWS = {
    'bicubic': Row(),
    BASE: Row(),
    'EDSR': Row(EDSR),
    'best, reference as it is': Row(BEST),
    'best, learned': Row(BEST, LEARNED),
    'best, SIFT, gated': Row(BEST, SIFT, {'gate': 'evidence'}),
    'best, learned, gated': Row(BEST, LEARNED, {'gate': 'evidence'}),
    'best, learned, gated, field and planes': Row(BEST, BOTH, {'gate': 'evidence'}),
    'the same, matched within 8': Row(BEST, BOTH, {'gate': 'evidence', 'match_reach': 8}),
    'null space, SIFT': Row(NULL_SPACE, SIFT),
    'null space, learned': Row(NULL_SPACE, LEARNED),
    'null space, learned, no flow': Row(NULL_SPACE, ('aliked_lightglue', 'field', False)),
    'null space, learned, homography': Row(NULL_SPACE, ('aliked_lightglue', 'homography', True)),
    'null space, learned, planes': Row(NULL_SPACE, ('aliked_lightglue', 'planes', True)),
    'null space, learned, field and planes': Row(NULL_SPACE, BOTH),
    'retrained, learned': Row(FUSED, LEARNED),
}


@dataclass
class Case:
    """One pair, and what all rows need of it, once."""

    name: str
    scene: str
    gt: Tensor
    ref: Tensor

    def __post_init__(self) -> None:
        height, width = (side - side % 4 for side in self.gt.shape[-2:])
        self.gt = self.gt[..., :height, :width].contiguous()
        self.lq = lq_of(self.gt)
        self.de = enhance(self.lq)
        self.found: dict[str, Any] = {}
        self.views: dict[tuple, tuple[list[Rectified], float]] = {}

    def rectified(self, how: tuple[str, str, bool]) -> tuple[list[Rectified], float]:
        """The views of the reference, and the seconds that they took."""
        if how not in self.views:
            rectifier, ref, start = _rectifier(how), Reference(self.ref), time.perf_counter()
            if how[0] not in self.found:
                self.found[how[0]] = rectifier.find(self.de, ref, enhance)
            views = rectifier.rectify(self.lq, self.de, ref, self.found[how[0]])
            self.views[how] = views, time.perf_counter() - start
        return self.views[how]


def enhance(lq: Tensor) -> Tensor:
    """The EDSR of the best row with the projection."""
    return _best().method.enhance(lq)


def measure(row: str, case: Case) -> dict[str, Any]:
    """PSNR-Y, SSIM-Y and trunk distance of one result, its time, and how it was rectified."""
    one, matches, covered, rho = ROWS[row], -1, 0.0, 0.0
    start = time.perf_counter()
    if row == 'bicubic':
        image = upsample_bicubic(case.lq, 4)
    elif row == BASE:
        image = project(case.de, case.lq, DEGRADATION.operator)
    elif one.rectify is None:
        restorer = one.restorer
        reads_lq = row == 'EDSR'
        refs = [] if reads_lq else [Reference(case.ref)]
        found = restorer.method.super_resolve(
            restorer.net_g, case.lq, refs, de=None if reads_lq else case.de
        )
        image = found.sr
    else:
        views, _ = case.rectified(one.rectify)
        number = case.found[one.rectify[0]].number
        start = time.perf_counter()
        restorer = one.restorer
        refs = [Reference(case.ref)]
        image = restorer.method.super_resolve(
            restorer.net_g, case.lq, refs, de=case.de, views=views
        ).sr
        matches = number
        if views:
            valid = torch.stack([view.valid for view in views]).any(dim=0)
            best = torch.stack([view.evidence.rho for view in views]).amax(dim=0)
            covered, rho = float(valid.float().mean()), float(best.sum() / valid.sum())
    seconds = time.perf_counter() - start
    seconds += case.rectified(one.rectify)[1] if one.rectify else 0
    image = image.clamp(0, 1)
    trunk = trunk_distance(_best().method.net_t, image, case.gt)
    found = {'matches': matches, 'covered': covered, 'rho': rho, 'trunk': trunk}
    return psnr_ssim_y(image, case.gt) | found | {'seconds': seconds}


def cases(root: Path, name: str, made: int) -> Iterator[tuple[str, str, tuple]]:
    """(name, scene, what ``load`` takes) of each pair of a set."""
    if name in ('near', 'web', 'far'):
        lines = (root / f'realpairs_{name}.txt').read_text().splitlines()
        for gt, ref in (line.split()[:2] for line in lines if line.strip()):
            scene = re.sub(r'\d*_0\.\w+$', '', gt)
            yield gt.removesuffix('_0.png'), scene, (root / 'realpairs', gt, ref)
    elif name == 'cufed5':
        for number in range(1, 6):
            yield f'cufed5_{number}', 'cufed5', (root / 'cufed5', '001_0.png', f'001_{number}.png')
    elif name == 'stereo':
        for side in (0, 1):
            yield f'stereo_{side}', 'stereo', (None, side, 1 - side)
    else:
        names = ImageSource('--data', root / 'bsds500/val').names()[:made]
        for photo in names:
            yield f'made_{photo}', f'made_{photo}', (root / 'bsds500/val', photo, names)


def load(name: str, scene: str, source: tuple) -> Case:
    """Read the images of a pair."""
    folder, first, second = source
    if folder is None:
        images = stereo_images()
        return Case(name, scene, images[first], images[second])
    read = ImageSource('--data', folder).read
    if isinstance(second, str):
        return Case(name, scene, read(first)[None], read(second)[None])
    settings = PairSettings(size=240, ref_size=240, scale=(0.75, 1.33), unrelated=0.0)
    pair = make_pair(first, 0, settings, second, lambda photo: to_levels(read(photo)))
    gt, ref = (torch.from_numpy(x.copy()).permute(2, 0, 1)[None] / 255 for x in (pair.gt, pair.ref))
    return Case(name, scene, gt, ref)


def rows_of(results: Results, sets: Sequence[str], root: Path, made: int) -> list[list[str]]:
    """Lines of the table: gains over I_DE by set."""
    done = results.read()
    lines = []
    for row in ROWS:
        for name, members in (('near + web', ('near', 'web')), *((one, [one]) for one in sets)):
            pairs = [(p, scene) for one in members for p, scene, _ in cases(root, one, made)]
            keys = [(f'{row} {pair}', f'{BASE} {pair}') for pair, _ in pairs]
            if not all(key in done for both in keys for key in both):
                continue
            own = [done[key] for key, _ in keys]
            gains = [done[key]['psnr'] - done[base]['psnr'] for key, base in keys]
            scenes: dict[str, list[float]] = {}
            for (_, scene), gain in zip(pairs, gains, strict=True):
                scenes.setdefault(scene, []).append(gain)
            means = [fmean(values) for values in scenes.values()]
            interval = '-'
            if len(means) >= FEWEST:
                low, high = paired_bootstrap(means)[1:3]
                interval = f'{low:+.2f} .. {high:+.2f}'
            lines.append([
                row, name, *(f'{fmean(x[key] for x in own):{form}}' for key, form in FORMS.items()),
                f'{fmean(means):+.2f}', interval, f'{fmean(gains):+.2f}', f'{median(gains):+.2f}',
                f'{min(gains):+.2f}',
            ])  # fmt: skip
    return lines


FORMS = {'psnr': '.2f', 'ssim': '.4f', 'trunk': '.3f', 'seconds': '.1f'}
HEAD = (
    'row', 'set', 'PSNR-Y', 'SSIM-Y', 'trunk', 's', 'gain: scenes', '95 %', 'pairs', 'median',
    'worst',
)  # fmt: skip


def _block(how: tuple[str, str, bool]) -> dict[str, Any]:
    return dict(zip(('matcher', 'model', 'flow'), how, strict=True))


@cache
def _rectifier(how: tuple[str, str, bool]) -> Rectifier:
    same = next((r for h, r in _MADE.items() if h[0] == how[0]), None)
    made = _MADE[how] = Rectifier(DEGRADATION, **_block(how))
    if same is not None:  # its networks are loaded
        made.__dict__['matcher'] = same.matcher
    return made


_MADE: dict[tuple[str, str, bool], Rectifier] = {}


@cache
def _best() -> Restorer:
    return Row(BEST).restorer


def main() -> None:
    parser = data_parser(__doc__)
    add = parser.add_argument
    add('--out', type=Path, required=True, help='file of what is measured')
    add('--sets', nargs='+', choices=SETS, default=SETS, help='to measure')
    usual = [row for row in ROWS if row != 'retrained, learned']  # which is to be trained first
    add('--rows', nargs='+', choices=[*ROWS], default=usual, help='to measure')
    add('--made', type=int, default=20, help='pairs made of photographs')
    add('--table', action='store_true', help='measure nothing, print what there is')
    args = parser.parse_args()
    results = Results(args.out)
    if not args.table:
        pairs = [pair for name in args.sets for pair in cases(args.data, name, args.made)]
        for name, scene, source in tqdm(pairs, unit='pair'):
            missing = [row for row in args.rows if f'{row} {name}' not in results.read()]
            case = load(name, scene, source) if missing else None
            for row in missing:
                found = {'megapixels': case.gt[0, 0].numel() / 1e6, 'parameters': 0}
                results.add(found | measure(row, case) | {'key': f'{row} {name}'})
    report('Rectified references', table(HEAD, rows_of(results, SETS, args.data, args.made)))


if __name__ == '__main__':
    with torch.no_grad():
        run_cli(main)
