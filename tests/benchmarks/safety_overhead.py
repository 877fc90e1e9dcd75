"""What exact resume, guarded steps and whole checkpoints cost, against BasicSR alone.

    python tests/benchmarks/safety_overhead.py [--options options/small/train_EDSR_small_x4.yml]

Two models of one option file train in turns in one process, on crops of scikit-image's stereo
pair: as BasicSR builds them with its own sampler, and as ``defsr/train.py`` does. Each turn reads
its data through its own loader. The ratio is the median over pairs of neighbouring turns, so that
a machine that slows down for a while does not decide it. A checkpoint's time is measured apart and
charged at the option file's ``save_checkpoint_freq``.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import sys
import tempfile
import time
from copy import deepcopy
from itertools import islice
from pathlib import Path

import defsr  # noqa: F401  # isort: skip  (before BasicSR: applies the patches)
import cv2
import skimage
import torch
from basicsr.data import build_dataloader, build_dataset
from basicsr.data.data_sampler import EnlargedSampler
from basicsr.models import build_model

from defsr.data.loaders import build_loaders
from defsr.training_run import build_safe_model
from defsr.utils.options import load_options

REPOSITORY = Path(__file__).resolve().parents[2]


def prepare(file: Path, folder: Path) -> dict:
    """The file's options, as BasicSR's ``parse_options`` leaves them, on images in ``folder``."""
    opt = load_options(file)
    source = Path(skimage.__file__).parent / 'data'
    for role, name in (('gt', 'left'), ('ref', 'right')):
        (folder / role).mkdir()
        image = cv2.imread(str(source / f'motorcycle_{name}.png'))
        for i in range(12):
            top, left = 160 * (i // 4), 160 * (i % 4)
            window = image[top : top + 160, left : left + 160]
            cv2.imwrite(str(folder / role / f'{i}.png'), window)
    train = opt['datasets']['train']
    train |= {f'dataroot_{role}': str(folder / role) for role in ('gt', 'ref')}
    train |= {'phase': 'train', 'scale': opt['scale'], 'dataset_enlarge_ratio': 1000}
    for name in ('models', 'training_states', 'visualization'):
        opt['path'][name] = str(folder / name)
        (folder / name).mkdir()
    for key in [key for key in opt['path'] if key.startswith('pretrain_network')]:
        opt['path'][key] = None
    opt['datasets'] = {'train': train}
    opt['train']['num_iter_per_pass'] = 1
    return opt | {'is_train': True, 'dist': False, 'rank': 0, 'world_size': 1}


class Turns:
    """A model and its endless batches; each turn goes on where the last one ended."""

    def __init__(self, model, loader) -> None:
        self.model, self.batches, self.current_iter = model, iter(loader), 0

    def seconds(self, num_iter: int) -> float:
        """Train for ``num_iter`` iterations."""
        start = time.perf_counter()
        for data in islice(self.batches, num_iter):
            self.current_iter += 1
            self.model.update_learning_rate(self.current_iter)
            self.model.feed_data(data)
            self.model.optimize_parameters(self.current_iter)
        return time.perf_counter() - start

    def seconds_to_save(self, number: int) -> float:
        """Write a checkpoint."""
        start = time.perf_counter()
        self.model.save(0, number)
        return time.perf_counter() - start


def plain_turns(opt: dict) -> Turns:
    """As BasicSR's ``train_pipeline`` has it."""
    block = opt['datasets']['train']
    dataset = build_dataset(block)
    sampler = EnlargedSampler(dataset, 1, 0, block['dataset_enlarge_ratio'])
    loader = build_dataloader(dataset, block, opt['num_gpu'], sampler=sampler, seed=0)
    return Turns(build_model(deepcopy(opt)), loader)


def safe_turns(opt: dict) -> Turns:
    """As ``defsr/train.py`` has it."""
    loaders = build_loaders(opt, logging.getLogger('silent'))
    model = build_safe_model(opt)
    model.clock = loaders.clock
    return Turns(model, loaders.train)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = REPOSITORY / 'options/small/train_EDSR_small_x4.yml'
    parser.add_argument('--options', type=Path, default=default)
    parser.add_argument('--rounds', type=int, default=20, help='pairs of turns')
    parser.add_argument('--iterations', type=int, default=10, help='iterations of a turn')
    args = parser.parse_args()
    logging.getLogger('basicsr').setLevel('ERROR')
    with tempfile.TemporaryDirectory() as folder:
        opt = prepare(args.options, Path(folder))
        plain, safe = plain_turns(opt), safe_turns(opt)
        pairs, saves = [], []
        for i in range(args.rounds + 1):
            order = (plain, safe) if i % 2 else (safe, plain)
            seconds = {id(turns): turns.seconds(args.iterations) for turns in order}
            pairs.append((seconds[id(plain)], seconds[id(safe)]))
            saves.append([turns.seconds_to_save(i + 1) for turns in (plain, safe)])
    pairs, saves = pairs[1:], saves[1:]  # the first warms up
    report(args, opt, pairs, saves)


def report(args: argparse.Namespace, opt: dict, pairs: list, saves: list) -> None:
    """Print seconds and ratios."""
    per_iter = [statistics.median(column) / args.iterations for column in zip(*pairs, strict=True)]
    per_save = [statistics.median(column) for column in zip(*saves, strict=True)]
    ratio = statistics.median(safe / plain for plain, safe in pairs)
    freq = opt['logger']['save_checkpoint_freq']
    with_saves = ratio + (per_save[1] - per_save[0]) / freq / per_iter[0]
    ratios = sorted(safe / plain for plain, safe in pairs)
    quarter = len(ratios) // 4
    lines = [
        f'{args.options.name}: {len(pairs)} pairs of turns, {args.iterations} iterations each, '
        f'{torch.get_num_threads()} threads',
        f'{"":24}{"BasicSR":>12}{"defsr":>12}',
        f'{"s per iteration":24}{per_iter[0]:12.4f}{per_iter[1]:12.4f}',
        f'{"s per checkpoint":24}{per_save[0]:12.4f}{per_save[1]:12.4f}',
        f'time of an iteration: {100 * (ratio - 1):+.2f}% '
        f'(middle half of the pairs: {100 * (ratios[quarter] - 1):+.2f}% to '
        f'{100 * (ratios[-1 - quarter] - 1):+.2f}%)',
        f'with a checkpoint every {freq:g} iterations: {100 * (with_saves - 1):+.2f}%',
    ]
    sys.stdout.write('\n'.join(lines) + '\n')


if __name__ == '__main__':
    main()
