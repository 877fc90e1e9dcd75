"""What a GPU does in which time: matching, upscaling, training iterations, the large denoiser.

    python tests/benchmarks/on_gpu.py --data DIR [--parts matching upscale train denoiser ...]

``agreement``: photographs upscaled on the CPU and on the GPU. ``matching``: grids of VGG features,
beside TTSR's and C2-Matching's ways and the bare product on the same card. ``upscale``: the stereo
pair and 510x339 to 2040x1356, stage by stage. ``train``: an iteration of every recipe at its own
batch and crops, by the model that ``defsr/train.py`` builds, convolutions in TF32 as PyTorch does
by default, and how often the host waits in one; and the operations that take longest.
``denoiser``: a call of the 553-million-parameter denoiser at 256x256. Networks have random weights,
times do not depend on them. A part that fails is told and the others go on; the status is 1 then.
"""

from __future__ import annotations

import itertools
import statistics
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

from bench_matching import BARE, CONVOLUTION, TTSR, match_by_convolution, match_by_unfold
from measuring import REPOSITORY, data_parser, report, table

import torch  # isort: skip
from basicsr.archs import build_network
from basicsr.models import build_model
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from tqdm import tqdm
from whole_photograph import CASES, images_of, options_of

from defsr.config.files import load_options
from defsr.methods.base import STAGES
from defsr.ops.match_refine import refine_positions
from defsr.ops.matching import GPU_BLOCK_ELEMENTS, match_patches
from defsr.ops.matching_near import match_patches_near
from defsr.upscaling import Upscaler
from defsr.utils.cli import run_cli
from defsr.utils.memory import PeakMemory

GRIDS = (40, 64, 96, 125, 250)
CHANNELS = 256
RECIPES = ('upscale', 'DEF', 'upscale_EDSR', 'C2', 'TTSR', 'EDSR', 'MASA', 'DATSR')
PROFILED = ('upscale', 'DEF')
OF_THE_RUN = ('grad_clip_norm', 'nonfinite', 'max_nonfinite', 'resume_with')  # not of the model
GIB = 2**30
GPU_CASES = tuple(case for case in CASES if 'ddnm' not in case and 'learned' not in case)


def seconds(work: Callable[[], object], rounds: int = 5) -> float:
    """Median of a few calls, until the card is done."""
    work()
    times = []
    for _ in range(rounds):
        torch.cuda.synchronize()
        start = time.perf_counter()
        work()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def peak(work: Callable[[], object]) -> float:
    """GiB that a call allocates at most above what is there."""
    with PeakMemory() as found:
        work()
    return found.bytes / GIB


def syncs(work: Callable[[], object]) -> int:
    """How often the host waits for the card, as PyTorch sees it."""
    torch.cuda.set_sync_debug_mode('warn')
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter('always')
            work()
    finally:
        torch.cuda.set_sync_debug_mode('default')
    return sum('synchroniz' in str(warning.message) for warning in said)


def matching(*_: Path) -> list[str]:
    """Grids of every size by every way; then what is around the search."""
    generator = torch.Generator('cuda').manual_seed(0)
    rows, others = [], []
    for grid in GRIDS:
        query, key = (
            torch.rand(1, CHANNELS, grid, grid, generator=generator, device='cuda') for _ in 'qk'
        )
        flat = key[0].flatten(1).T, query[0].flatten(1)
        products = torch.empty(grid**2, grid**2, device='cuda')
        ways = {
            TTSR: lambda q=query, k=key: match_by_unfold(q, k),
            CONVOLUTION: lambda q=query, k=key: match_by_convolution(q, k),
            BARE: lambda a=flat, out=products: torch.mm(*a, out=out),
            'tiles': lambda q=query, k=key: match_patches(q, k, block_elements=GPU_BLOCK_ELEMENTS),
            'kernel': lambda q=query, k=key: match_patches(q, k),
        }
        taken = {name: seconds(way) for name, way in ways.items()}
        index, theirs = ways['kernel']()[0].flatten(), ways[TTSR]()[0].flatten()
        cells = [f'{1000 * value:.2f}' for value in taken.values()]
        cells += [f'{taken[TTSR] / taken["kernel"]:.1f}x', f'{taken["kernel"] / taken[BARE]:.2f}']
        cells += [f'{peak(ways[name]):.2f}' for name in (TTSR, CONVOLUTION, 'kernel')]
        rows.append(
            [f'{grid}x{grid}', *cells, f'{float((index == theirs).float().mean()):.2%}',
             syncs(ways['kernel'])]
        )  # fmt: skip
        del products, ways
        corners = 2 * torch.randint(0, grid, (1, 2, grid, grid), generator=generator, device='cuda')
        finer = [torch.rand(1, 128, 2 * grid, 2 * grid, device='cuda') for _ in 'qk']
        near, refine = (
            lambda q=query, k=key: match_patches_near(q, k, 8),
            lambda f=finer, p=corners: refine_positions(*f, p, 2, 2, 5),
        )
        others.append(
            [f'{grid}x{grid}', f'{1000 * seconds(near):.2f}', syncs(near),
             f'{1000 * seconds(refine):.2f}', syncs(refine)]
        )  # fmt: skip
    ways = TTSR, CONVOLUTION, BARE, 'match_patches, tiles', 'match_patches, kernel'
    head = ['grid', *(f'{name}, ms' for name in ways), 'faster than TTSR', 'times bare']
    head += [f'{name}, GiB' for name in (TTSR, CONVOLUTION, 'kernel')]
    around = ['grid', 'within 8, ms', 'syncs', 'refinement at twice the grid, ms', 'syncs']
    return [table([*head, 'same index as TTSR', 'syncs'], rows), table(around, others)]


class GpuMeter:
    """Called as (stage, done, total): seconds and peak GiB of every stage."""

    def __init__(self) -> None:
        self.rows: dict[str, list[float]] = {}
        self.stage: str | None = None
        self.start = 0.0

    def __call__(self, stage: str | None, done: int = 0, total: int = 0) -> None:
        if stage == self.stage:
            return
        torch.cuda.synchronize()
        if self.stage:
            row = self.rows.setdefault(self.stage, [0.0, 0.0])
            row[0] += time.perf_counter() - self.start
            row[1] = max(row[1], torch.cuda.max_memory_allocated() / GIB)
        torch.cuda.reset_peak_memory_stats()
        self.stage, self.start = stage, time.perf_counter()


def upscaled(case: str, data: Path, device: str, folder: Path, meter: GpuMeter | None) -> Tensor:
    """A case of ``whole_photograph.py``."""
    lq, ref = images_of(case, data)
    upscaler = Upscaler(options=options_of(case, folder), device=device)
    options = {'tile': None} if 'whole' in case else {}
    if meter and case.startswith('stereo'):  # what a first call loads is not counted
        upscaler(lq, [ref], **options)
    sr = upscaler(lq, [ref], progress=meter, **options)
    if meter:
        meter(None)
    return sr


def upscale(data: Path, folder: Path) -> list[str]:
    """Stages of each case."""
    lines = []
    for case in GPU_CASES:
        meter = GpuMeter()
        upscaled(case, data, 'cuda', folder, meter)
        cells = [
            '{:.2f} s, {:.2f} GiB'.format(*meter.rows[stage]) if stage in meter.rows else '-'
            for stage in STAGES
        ]
        total = sum(row[0] for row in meter.rows.values())
        lines.append([case, *cells, f'{total:.2f} s'])
        tqdm.write(' | '.join(map(str, lines[-1])), file=sys.stderr)
    return [table(['case', *STAGES, 'all'], lines)]


def agreement(data: Path, folder: Path) -> list[str]:
    """The stereo pair on both devices: dB between the results, largest difference."""
    lines = []
    for case in ('stereo, SIFT', 'stereo, as it is'):
        sr = {d: upscaled(case, data, d, folder, None).cpu().double() for d in ('cpu', 'cuda')}
        off = sr['cuda'] - sr['cpu']
        psnr = -10 * off.square().mean().log10()
        lines.append([case, f'{psnr:.1f}', f'{off.abs().max():.4f}', f'{off.abs().mean():.2e}'])
    head = ['case', 'CPU against GPU, dB', 'largest difference', 'mean difference']
    return [table(head, lines)]


def recipe(name: str, folder: Path) -> tuple[Callable[[], None], str]:
    """A recipe's iteration on a batch of noise, with nothing to download; what the batch is."""
    opt = load_options(REPOSITORY / f'options/train_{name}_x4.yml')
    train = opt['datasets']['train']
    opt |= {'num_gpu': 1, 'dist': False, 'is_train': True, 'rank': 0, 'world_size': 1}
    opt['path'] = {'models': str(folder), 'training_states': str(folder)}
    opt['datasets'] = {'train': train}
    blocks = [value for value in opt.values() if isinstance(value, dict)]
    for block in [*blocks, *(x for x in opt['train'].values() if isinstance(x, dict))]:
        if 'weights' in block:
            block['weights'] = 'none'
    if 'network_e' in opt:
        opt['network_e'] = {'type': 'BicubicEnhancer', 'scale': 4}
    for key in ('dataroot_de', 'dataroot_ref_de'):
        train.pop(key, None)
    for key in OF_THE_RUN:
        opt['train'].pop(key, None)
    opt['train'] |= {'num_iter_per_pass': 1}
    if opt['model_type'] != 'SRModel':
        opt['train'] |= {'rec_only_epochs': 0, 'allow_online': True}
    torch.manual_seed(0)
    model = build_model(opt)
    batch, side = train['batch_size_per_gpu'], train['gt_size']
    ref = train.get('ref_size') or side
    images = {
        'lq': torch.rand(batch, 3, side // 4, side // 4),
        'gt': torch.rand(batch, 3, side, side),
        'ref': torch.rand(batch, 3, ref, ref),
    }
    if 'dataroot_ref_rect' in train:
        images['ref_valid'] = torch.ones(batch, 1, side // 4, side // 4, dtype=torch.bool)
    numbers = itertools.count(1)

    def step() -> None:
        model.feed_data(images)
        model.optimize_parameters(next(numbers))

    return step, f'{batch} x {side}'


def timed(step: Callable[[], None]) -> list[str]:
    """Milliseconds, GiB, and synchronisations of an iteration."""
    return [f'{1000 * seconds(step, 3):.0f}', f'{peak(step):.1f}', str(syncs(step))]


def train(_: Path, folder: Path) -> list[str]:
    """Iterations of every recipe."""
    lines, slowest = [], []
    for name in RECIPES:
        try:
            step, batch = recipe(name, folder)
            lines.append([name, batch, *timed(step), ''])
            tqdm.write(' | '.join(map(str, lines[-1])), file=sys.stderr)
        except Exception as error:  # noqa: BLE001  # the others are still wanted
            lines.append([name, *['-'] * 4, (str(error) or repr(error)).splitlines()[0]])
            traceback.print_exc()
            continue
        if name not in PROFILED:
            continue
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
            step()
            torch.cuda.synchronize()
        events = sorted(seen.key_averages(), key=lambda e: -e.self_device_time_total)[:8]
        slowest += [
            [name, event.key[:60], event.count, f'{event.self_device_time_total / 1000:.1f}']
            for event in events
        ]
    head = ['recipe', 'batch', 'ms', 'GiB', 'syncs', 'said']
    return [table(head, lines), table(['recipe', 'kernel', 'calls', 'ms'], slowest)]


def denoiser(*_: Path) -> list[str]:
    """One call at 256x256 for one image and for four."""
    block = load_options(REPOSITORY / 'options/train_DEF_x4.yml')['network_e']['denoiser']
    torch.manual_seed(0)
    net = build_network(block).cuda().eval().requires_grad_(False)
    lines = []
    for batch in (1, 4):
        x_t, t = torch.randn(batch, 3, 256, 256, device='cuda'), torch.full((batch,), 500.0).cuda()
        for label, dtype, tf32, layout in (
            ('float32', None, False, torch.contiguous_format),
            ('TF32', None, True, torch.contiguous_format),
            ('bf16 autocast', torch.bfloat16, False, torch.contiguous_format),
            ('bf16 autocast, channels last', torch.bfloat16, False, torch.channels_last),
            ('fp16 autocast, channels last', torch.float16, False, torch.channels_last),
        ):
            net.to(memory_format=layout)
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
            precision = {'dtype': dtype or torch.bfloat16, 'enabled': dtype is not None}

            @torch.no_grad()
            def call(precision: dict = precision, x_t: Tensor = x_t, t: Tensor = t) -> Tensor:
                with torch.autocast('cuda', **precision):
                    return net(x_t, t)

            lines.append([batch, label, f'{1000 * seconds(call, 3):.1f}', f'{peak(call):.2f}'])
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = False, True
    return [table(['images', 'precision', 'ms', 'GiB above the weights'], lines)]


PARTS = {f.__name__: f for f in (matching, agreement, upscale, train, denoiser)}


def main() -> None:
    parser = data_parser(__doc__)
    parser.add_argument('--parts', nargs='*', choices=list(PARTS), default=list(PARTS))
    args = parser.parse_args()
    if not torch.cuda.is_available():
        raise RuntimeError('There is no CUDA device; this benchmark is for one.')
    failed = 0
    for name in args.parts:
        start = time.perf_counter()
        try:
            with tempfile.TemporaryDirectory() as folder:
                parts = PARTS[name](args.data, Path(folder))
        except Exception:  # noqa: BLE001
            failed += 1
            parts = [traceback.format_exc(limit=-4)]
        took = (
            f'{torch.cuda.get_device_name()}; this part took {time.perf_counter() - start:.0f} s.'
        )
        report(name.capitalize(), took, *parts)
    sys.exit(min(failed, 1))


if __name__ == '__main__':
    run_cli(main)
