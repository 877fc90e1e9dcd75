"""What the benchmarks share: the small prior, photographs, turns, memory, and the report."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import defsr  # noqa: F401  # isort: skip  (before BasicSR: applies the patches)
import torch
from basicsr.archs import build_network
from torch import Tensor, nn

from defsr.archs.enhancer_arch import DDNMEnhancer
from defsr.config.files import load_options
from defsr.data.image_source import ImageSource
from defsr.diffusion.degradation import Degradation
from defsr.methods.build import Restorer
from defsr.utils.memory import PeakMemory

REPOSITORY = Path(__file__).resolve().parents[2]
PRIOR = REPOSITORY / 'options/small/train_prior_small.yml'
MIB = 2**20


def data_parser(description: str) -> argparse.ArgumentParser:
    """A command line with ``--data``, the folder of the small sets (docs/datasets.md)."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    root = Path(os.environ.get('DEFSR_DATA', 'datasets'))
    help_text = 'folder of the small data sets; default: $DEFSR_DATA, or datasets'
    parser.add_argument('--data', type=Path, default=root, help=help_text)
    return parser


def prior_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--options`` and ``--weights`` of the denoiser."""
    parser.add_argument('--options', type=Path, default=PRIOR, help="the prior's option file")
    parser.add_argument('--weights', type=Path, help='of the prior; default: untrained')


def build_prior(options: Path = PRIOR) -> nn.Module:
    """The untrained ``network_g`` of an option file: the cost does not depend on weights."""
    torch.manual_seed(0)
    return build_network(load_options(options)['network_g']).eval().requires_grad_(False)


def build_restorer(options: str, weights: str) -> Restorer:
    """The method of an option file with given weights of ``network_g``, on the CPU."""
    opt = load_options(options)
    opt['path'] = {**(opt.get('path') or {}), 'pretrain_network_g': weights}
    return Restorer.build(opt, torch.device('cpu'), Degradation('matlab', opt['scale']))


def build_enhancer(
    options: str | Path, weights: str | Path | None, **diffusion: object
) -> DDNMEnhancer:
    """The small prior as it was trained, in a ``DDNMEnhancer``.

    Args:
        options: the prior's option file, which says what it predicts and on which schedule.
        weights: of the prior; None: untrained.
        diffusion: further sampling options.
    """
    opt = load_options(options)
    train = opt['train']
    trained = {'prediction': train['prediction'], 'denoiser_schedule': train['schedule']}
    torch.manual_seed(0)
    enhancer = DDNMEnhancer(opt['network_g'], opt['scale'], trained | diffusion)
    if weights is not None:
        enhancer.load_weights(weights)
    return enhancer


def photograph(data: Path, height: int, width: int, name: str = 'urban100/img_012.png') -> Tensor:
    """A real photograph of exactly that size, (1,3,height,width).

    A crop from the middle; repeated as mirror images, without steps, where it is too small.
    """
    image = ImageSource('--data', data).read(name)[None]
    for dim, wanted in ((-2, height), (-1, width)):
        while image.shape[dim] < wanted:
            image = torch.cat([image, image.flip(dim)], dim)
        image = image.narrow(dim, (image.shape[dim] - wanted) // 2, wanted)
    return image.contiguous()


def clock() -> float:
    """Seconds: of the processor where one thread works, which other processes disturb less."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def in_turns(works: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each work in each round, one after the other: load falls on all alike.

    A round before the first warms up. Odd rounds run in reverse.
    """
    seconds = {name: [] for name in works}
    for number in range(rounds + 1):
        for name in list(works)[:: -1 if number % 2 else 1]:
            start = clock()
            works[name]()
            if number:
                seconds[name].append(clock() - start)
    return seconds


def ratio(seconds: Mapping[str, Sequence[float]], name: str, base: str) -> float:
    """Median over the rounds of one work's time over another's in the same round."""
    pairs = zip(seconds[name], seconds[base], strict=True)
    return statistics.median(one / other for one, other in pairs)


def milliseconds(values: Sequence[float]) -> str:
    """The median, for a table."""
    return f'{1000 * statistics.median(values):.3g}'


def measured(work: Callable[[], object]) -> dict[str, float]:
    """Seconds and processor seconds of one run, MiB that the process grew by at its peak."""
    with PeakMemory() as peak:
        start, start_cpu = time.perf_counter(), time.process_time()
        work()
        seconds, processor = time.perf_counter() - start, time.process_time() - start_cpu
    return {'seconds': seconds, 'processor': processor, 'mib': peak.bytes / MIB}


def in_process(
    script: str, row: Mapping[str, object], checkout: Path = REPOSITORY
) -> dict[str, Any]:
    """Run ``script --row JSON`` in a new process, and read the JSON it prints last.

    Args:
        checkout: whose package it imports.
    """
    command = [sys.executable, script, '--row', json.dumps(dict(row))]
    env = os.environ | {'PYTHONPATH': str(checkout.resolve())}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=env)
    return json.loads(done.stdout.splitlines()[-1])


def answer(result: Mapping[str, object]) -> None:
    """What a process that ``in_process`` started hands back."""
    sys.stdout.write(json.dumps(dict(result)) + '\n')


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table: the first column to the left, numbers to the right."""
    lines = [head, ['---', *['---:'] * (len(head) - 1)], *rows]
    return '\n'.join('| ' + ' | '.join(map(str, line)) + ' |' for line in lines)


def report(title: str, *parts: str) -> None:
    """Print a Markdown section with date, machine, command line, then ``parts``."""
    command = ' '.join(['python', f'tests/benchmarks/{Path(sys.argv[0]).name}', *sys.argv[1:]])
    threads = torch.get_num_threads()
    kind = 'one thread, processor time' if threads == 1 else f'{threads} threads, time on the wall'
    gpu = torch.cuda.get_device_name() if torch.cuda.is_initialized() else 'no GPU in use'
    machine = (
        f'{os.cpu_count()} cores ({platform.machine()}, '
        f'{torch.backends.cpu.get_cpu_capability()}, {gpu}), '
        f'{kind}, PyTorch {torch.__version__.split("+")[0]}, float32'
    )
    head = f'`{command}`, {datetime.date.today()}, {machine}.'
    sys.stdout.write('\n\n'.join([f'## {title}', head, *filter(None, parts)]) + '\n\n')
    sys.stdout.flush()
