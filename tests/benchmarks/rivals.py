"""Every small row of a rival: does its loss fall, does it resume exactly, which sizes it takes.

    python tests/benchmarks/rivals.py [--rows TTSR_x4 ...]

From the folder where ``datasets/`` is (docs/small_benchmark.md). Each row is an option file of
``options/small``, trained by the real command for so many iterations of its own recipe, in a folder
that is deleted; then its second half once more with ``--auto_resume``, and its first batches once
more with what was learned, since batches differ far more than 50 iterations change. A row whose
data or weights are not there is left out, with a line. Sizes are tried with the shipped weights:
two inputs, each with both of two references in one call.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from measuring import REPOSITORY, report, table

import torch  # isort: skip
from basicsr.archs import build_network
from tqdm import tqdm

from defsr.archs.interface import Reference
from defsr.config.files import load_options
from defsr.diffusion.degradation import Degradation
from defsr.methods.build import Restorer
from defsr.methods.networks import count_parameters
from defsr.utils.cli import run_cli

ROWS = (
    'SRCNN_x4', 'SRResNet_x4', 'SRGAN_x4', 'ranker_x4', 'RankSRGAN_x4', 'SRNTT_x4', 'TTSR_x4',
    'MASA_x4', 'C2_x4', 'DATSR_x4', 'RRDB_x4', 'ESRGAN_x4',
)  # fmt: skip
INPUTS = (20, 31), (33, 24)  # height, width
REFERENCES = (96, 120), (77, 141)
FIRST = 5  # batches whose mean loss is told


def losses(said: str) -> list[float]:
    """The loss that the row's recipe adds: its rank's, its critic's side, else L1."""
    for name in ('l_rank', 'l_g_rank', 'l_g_percep', 'l_g_pix', 'l_pix'):
        if found := re.findall(rf'\b{name}: ([\d.e+-]+)', said):
            return [float(value) for value in found]
    raise RuntimeError(f'no loss in what the training said: {said[-500:]}')


def run(folder: Path, row: str, number: int, *more: str, resume: bool = False) -> list[float]:
    """Losses of a training of so many iterations, by the real command.

    Raises:
        RuntimeError: the command ends in an error, of which this is the last line.
    """
    force = [f'name=try_{row}', f'train:total_iter={number}', f'val:val_freq={10 * number}']
    force += ['logger:print_freq=1', f'logger:save_checkpoint_freq={max(1, number // 2)}']
    force += ['logger:keep_last=~', 'logger:use_tb_logger=false', *more]
    command = [sys.executable, '-m', 'defsr.train', '-opt', f'options/small/{row}.yml']
    command += ['--auto_resume'] * resume
    done = subprocess.run(
        [*command, '--force_yml', *force], cwd=folder, capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError((done.stderr or done.stdout).strip().splitlines()[-1])
    return losses(done.stdout + done.stderr)


def train(folder: Path, row: str, number: int) -> tuple[list[float], list[float], float, bool]:
    """Train, resume half-way, and see the first batches again with what was learned.

    Returns:
        Losses of the first batches before and after, the largest difference between the weights at
        the end and those of the resumed training, and whether the losses on the way are the same.
    """
    whole = run(folder, row, number)
    models = folder / f'experiments/try_{row}/models'
    ends = [*models.glob(f'*_{number}.pth'), *models.glob('*_latest.pth')]
    weights = {path: torch.load(path, weights_only=True) for path in ends}
    for path in (*ends, models.with_name('training_states') / f'{number}.state'):
        path.unlink()
    resumed = run(folder, row, number, resume=True)
    off = max(
        difference(torch.load(path, weights_only=True), content)
        for path, content in weights.items()
    )
    learned = models.rename(folder / row) / f'net_g_{number}.pth'
    given = [f'path:pretrain_network_g={learned}', 'path:param_key_g=params']
    after = run(folder, row, FIRST, *given)
    return whole[:FIRST], after, off, whole[-len(resumed) :] == resumed


def difference(one: Mapping, other: Mapping) -> float:
    """The largest between the tensors of two checkpoints."""
    pairs = [
        (one[part][key], other[part][key])
        for part in other
        if part.startswith('params')
        for key in other[part]
    ]
    return max(float((a.double() - b.double()).abs().max()) for a, b in pairs)


def sizes(row: str) -> str:
    """Of how many sizes of inputs, N = 2, two references each, the result is as it should be."""
    opt = load_options(REPOSITORY / f'options/small/{row}.yml')
    weights = REPOSITORY / f'experiments/pretrained_models/small_{row.removesuffix("_x4")}.pth'
    if opt['model_type'] == 'RankerModel' or not weights.exists():
        return '-'
    opt['path'] = {**opt['path'], 'pretrain_network_g': str(weights)}
    restorer = Restorer.build(opt, torch.device('cpu'), Degradation('matlab', opt['scale']))
    generator = torch.Generator().manual_seed(0)
    refs = [Reference(torch.rand(2, 3, *size, generator=generator)) for size in REFERENCES]
    right = 0
    for height, width in INPUTS:
        lq = torch.rand(2, 3, height, width, generator=generator)
        with torch.no_grad():
            sr = restorer.method.super_resolve(restorer.net_g, lq, refs).sr
        right += sr.shape == (2, 3, 4 * height, 4 * width) and bool(sr.isfinite().all())
    return f'{right} of {len(INPUTS)}'


def parameters(row: str) -> str:
    """Millions, of ``network_g``."""
    net = build_network(load_options(REPOSITORY / f'options/small/{row}.yml')['network_g'])
    return f'{count_parameters(net) / 1e6:.2f} M'


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--rows', nargs='*', choices=ROWS, default=ROWS, metavar='ROW')
    parser.add_argument('--iterations', type=int, default=50)
    args = parser.parse_args()
    torch.set_num_threads(1)
    os.environ |= {'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(REPOSITORY)}
    rows, left_out = [], []
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        for name in ('datasets', 'options'):
            (here / name).symlink_to(Path(name).resolve())
        (here / 'experiments').mkdir()
        for path in Path('experiments').iterdir():
            (here / 'experiments' / path.name).symlink_to(path.resolve())
        for row in tqdm(args.rows, unit='row'):
            try:
                before, after, off, alike = train(here, row, args.iterations)
            except RuntimeError as error:
                left_out.append(f'{row} is left out: {error}')
                continue
            means = [f'{statistics.fmean(part):.4f}' for part in (before, after)]
            told = f'{off:g}', 'the same' if alike else 'others'
            rows.append([row, parameters(row), *means, *told, sizes(row)])
    head = ['row', 'parameters', f'loss of the first {FIRST} batches', 'after training']
    head += ['resumed: difference of weights', 'losses', 'sizes of input']
    title = f'The rivals: {args.iterations} iterations each, resumed half-way'
    report(title, table(head, rows), '\n'.join(left_out))


if __name__ == '__main__':
    run_cli(main)
