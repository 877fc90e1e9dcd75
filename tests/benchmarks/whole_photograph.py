"""Seconds and memory of each stage, from a small photograph and a reference to the large result.

    python tests/benchmarks/whole_photograph.py --data DIR [--cases stereo ...] [--commands ...]

``stereo``: scikit-image's pair, 500x740 (``whole``: in one piece). ``photograph``: 510x339 to
2040x1356 with a reference of that size; ``ddnm``: the same with the shipped prior at 10 steps as
enhancer. By ``options/upscale.yml``, with references rectified by the learned matcher, by SIFT, or
as they are. Memory is the most that the process held in that stage above what it held with networks
loaded and images read. Then the commands themselves, as one types them, each with the peak of its
whole process. ``--beside DIR``: each case by turns with the package of another checkout as well, an
earlier one, so that both see the same machine.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from itertools import product
from pathlib import Path

import torch
import yaml
from enhancer_cases import stereo_images
from measuring import (
    MIB,
    REPOSITORY,
    answer,
    data_parser,
    in_process,
    photograph,
    report,
    table,
)
from torch import Tensor
from torchvision.utils import save_image
from tqdm import tqdm

from defsr.config.files import load_options
from defsr.diffusion.degradation import Degradation
from defsr.methods.base import STAGES
from defsr.tools.demo_data import copy_demo_images
from defsr.upscaling import NETWORK, Upscaler
from defsr.utils.cli import run_cli
from defsr.utils.memory import forget_peak, resident

MATCHERS = {'learned': 'aliked_lightglue', 'SIFT': 'sift', 'as it is': 'none'}
CASES = (
    'stereo, learned',
    'stereo, SIFT',
    'stereo, as it is',
    'stereo, as it is, whole',
    'photograph, learned',
    'photograph, SIFT',
    'photograph, as it is',
    'photograph, ddnm, as it is',
)
COMMANDS = ('defsr-test', 'defsr-test, val:tile 128', 'defsr-upscale', 'defsr-upscale, ddnm')
SIZE = (1356, 2040)
PRIOR = REPOSITORY / 'options/small/enhance_cufed_small.yml'


class StageMeter:
    """Called as (stage, done, total): seconds and peak memory of every stage, of all its parts."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, float]] = {}
        forget_peak()
        self.base, self.stage, self.start = resident(), None, 0.0

    def __call__(self, stage: str | None, done: int = 0, total: int = 0) -> None:
        """Note the change from one stage to the next; None ends the last."""
        if stage == self.stage:
            return
        if self.stage:
            row = self.rows.setdefault(self.stage, {'seconds': 0.0, 'mib': 0.0})
            row['seconds'] += time.perf_counter() - self.start
            row['mib'] = max(row['mib'], (resident('VmHWM') - self.base) / MIB)
        forget_peak()
        self.stage, self.start = stage, time.perf_counter()


def images_of(case: str, data: Path) -> tuple[Tensor, Tensor]:
    """(lq, reference), (1,3,h,w) in [0, 1]."""
    if case.startswith('stereo'):
        gt, ref = (image[0, ..., :740] for image in stereo_images())
    else:
        gt = photograph(data, *SIZE)[0]
        ref = torch.roll(gt, (37, -61), (-2, -1))
    return Degradation('matlab', 4).degrade(gt)[None], ref[None]


def options_of(case: str, folder: Path) -> Path:
    """``options/upscale.yml`` with the case's matcher, or DDNM as the enhancer."""
    options = load_options(NETWORK)
    matcher = next((name for label, name in MATCHERS.items() if label in case), 'auto')
    options['rectify']['matcher'] = matcher
    if matcher == 'none':
        options['gate'] = 'none'
    if 'ddnm' in case:
        prior = load_options(PRIOR)
        options['network_e'] = prior['network_e']
        options['path']['pretrain_network_e'] = prior['path']['pretrain_network_e']
    file = folder / f'{case}.yml'
    file.write_text(yaml.safe_dump(json.loads(json.dumps(options))))
    return file


def one_case(row: dict) -> None:
    """Super-resolve one case in this process, and hand back the stages."""
    lq, ref = images_of(row['case'], Path(row['data']))
    with tempfile.TemporaryDirectory() as folder:
        upscaler = Upscaler(options=options_of(row['case'], Path(folder)))
    meter = StageMeter()
    upscaler(lq, [ref], progress=meter, **({'tile': None} if 'whole' in row['case'] else {}))
    meter(None)
    answer(meter.rows)


def command_peak(command: list[str]) -> tuple[float, float]:
    """Seconds and peak MiB of a command; RuntimeError if it fails."""
    start, peak = time.perf_counter(), 0.0
    process = subprocess.Popen(
        command, cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    status = Path(f'/proc/{process.pid}/status')
    while process.poll() is None:
        with suppress(OSError):
            lines = [x for x in status.read_text().splitlines() if x.startswith('VmHWM')]
            peak = max(peak, *(int(line.split()[1]) / 1024 for line in lines), 0.0)
        time.sleep(0.05)
    if process.returncode:
        raise RuntimeError(f'{" ".join(command)} ended with status {process.returncode}.')
    return time.perf_counter() - start, peak


def commands(folder: Path, data: Path) -> dict[str, list[str]]:
    """What a user types, by a short name, with its images in ``folder``."""
    copy_demo_images(REPOSITORY / 'datasets/demo')
    lq, ref = images_of('photograph', data)
    save_image(lq, folder / 'photo.png')
    save_image(ref, folder / 'other.png')
    test = [sys.executable, 'defsr/test.py', '-opt', 'options/test_DEF_demo.yml', '--force_yml']
    upscale = [sys.executable, '-m', 'defsr.tools.upscale', '-i', str(folder / 'photo.png')]
    upscale += ['-r', str(folder / 'other.png'), '--force', '-o', str(folder / 'sharp.png')]
    found = (
        [*test, 'name=whole_photograph'],
        [*test, 'name=whole_photograph', 'val:tile=128'],
        upscale,
        [*upscale, '--options', str(options_of('ddnm', folder))],
    )
    return dict(zip(COMMANDS, found, strict=True))


def parse() -> argparse.Namespace:
    parser = data_parser(__doc__)
    parser.add_argument('--cases', nargs='*', default=CASES, choices=CASES)
    parser.add_argument('--beside', type=Path, help='another checkout')
    parser.add_argument('--commands', nargs='*', default=list(COMMANDS), choices=COMMANDS)
    parser.add_argument('--row', help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    args = parse()
    if args.row:
        one_case(json.loads(args.row))
        return
    checkouts = (
        {'': REPOSITORY} if args.beside is None else {'': REPOSITORY, ', other': args.beside}
    )
    lines = []
    for case, (label, checkout) in tqdm(list(product(args.cases, checkouts.items())), unit='case'):
        stages = in_process(__file__, {'case': case, 'data': str(args.data)}, checkout)
        cells = [
            f'{stages[stage]["seconds"]:.1f} s, {stages[stage]["mib"]:.0f} MiB'
            if stage in stages
            else '-'
            for stage in STAGES
        ]
        total = sum(stage['seconds'] for stage in stages.values())
        peak = max(stage['mib'] for stage in stages.values())
        lines.append([case + label, *cells, f'{total:.1f} s, {peak:.0f} MiB'])
    if lines:
        report('Stage by stage', table(['case', *STAGES, 'all'], lines))
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        known = commands(Path(folder), args.data) if args.commands else {}
        for name in tqdm(args.commands, unit='command'):
            seconds, peak = command_peak(known[name])
            lines.append([name, f'{seconds:.0f}', f'{peak:.0f}'])
    if lines:
        report('Whole commands', table(['command', 'seconds', 'peak MiB of the process'], lines))


if __name__ == '__main__':
    run_cli(main)
