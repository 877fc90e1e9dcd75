"""What exact resume, guarded steps and whole checkpoints cost, against BasicSR alone.

    python tests/benchmarks/safety_overhead.py [--options options/small/train_EDSR_small_x4.yml]

Two models of one option file train in turns in one process, on crops of scikit-image's stereo
pair: as BasicSR builds them with its own sampler, and as ``defsr/train.py`` does. Each turn reads
its data through its own loader. The ratios are medians over pairs of neighbouring turns, so that
a machine that slows down for a while does not decide them: of the time on the wall, and of the
processor time of the training process, which other processes disturb less. A checkpoint's time is
measured apart and charged at the option file's ``save_checkpoint_freq``.
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

from defsr.config.files import load_options
from defsr.running.loaders import build_loaders
from defsr.running.training_run import build_safe_model

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

    def seconds(self, num_iter: int) -> tuple[float, float]:
        """Train for ``num_iter`` iterations: time on the wall, processor time."""
        start, start_cpu = time.perf_counter(), time.process_time()
        for data in islice(self.batches, num_iter):
            self.current_iter += 1
            self.model.update_learning_rate(self.current_iter)
            self.model.feed_data(data)
            self.model.optimize_parameters(self.current_iter)
        return time.perf_counter() - start, time.process_time() - start_cpu

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
    number = args.iterations
    walls = [[seconds[0] / number for seconds in pair] for pair in pairs]
    cpus = [[seconds[1] / number for seconds in pair] for pair in pairs]
    lines = [
        f'{args.options.name}: {len(pairs)} pairs of turns, {number} iterations each, '
        f'{torch.get_num_threads()} threads',
        f'{"":32}{"BasicSR":>10}{"defsr":>10}{"more":>9}   middle half of the pairs',
    ]
    for name, rows in (('s per iteration', walls), ('s per iteration, processor', cpus)):
        plain, safe = medians(rows)
        ratios = sorted(row[1] / row[0] - 1 for row in rows)
        quarter = len(ratios) // 4
        lines.append(
            f'{name:32}{plain:10.4f}{safe:10.4f}{statistics.median(ratios):+9.2%}   '
            f'{ratios[quarter]:+.2%} to {ratios[-1 - quarter]:+.2%}'
        )
    plain, safe = medians(saves)
    freq = opt['logger']['save_checkpoint_freq']
    lines.append(f'{"s per checkpoint":32}{plain:10.4f}{safe:10.4f}')
    share = (safe - plain) / freq / medians(walls)[0]
    lines.append(f'{f"one every {freq:g} iterations":32}{"":20}{share:+9.2%}')
    sys.stdout.write('\n'.join(lines) + '\n')


def medians(rows: list) -> list[float]:
    """Column by column."""
    return [statistics.median(column) for column in zip(*rows, strict=True)]


if __name__ == '__main__':
    main()
