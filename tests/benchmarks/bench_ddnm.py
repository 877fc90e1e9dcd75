"""What a DDNM step costs beside its denoiser, and how the denoiser likes its windows.

    python tests/benchmarks/bench_ddnm.py [--parts step project layout batches] [--rounds 7]

``step``: everything but the denoiser as a share of a step, part by part. ``project``: the bicubic
projection against one through the singular value decomposition (as DDNM's published code has it)
and against deepinv's ``DownsamplingMatlab``, if that package is installed. ``layout``:
``channels_last``. ``batches``: windows in one call. All times are taken in turns, in one process.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import torch
from measuring import (
    answer,
    build_enhancer,
    build_prior,
    clock,
    in_process,
    in_turns,
    measured,
    milliseconds,
    prior_arguments,
    ratio,
    report,
    table,
)
from torch import Tensor, nn

from defsr.archs.adm_unet_arch import ADMUNet
from defsr.diffusion import BicubicDownsample
from defsr.diffusion.operators import downsample_matrix
from defsr.diffusion.steps import predict_x0, renoise
from defsr.diffusion.windows import CanvasNoise, Window

SMALL_ADM = {'image_size': 64, 'num_feat': 32, 'num_res_block': 1, 'attention_resolutions': (8,)}


class Svd:
    """The projection by full singular vectors, as DDNM's published ``SRConv`` does it.

    ``A = U S V^T`` in each direction: to the spectrum by V^T, scaling, back by U, and the other
    way round for the pseudo-inverse.
    """

    def __init__(self, side: int, scale: int) -> None:
        left, singular, right_t = torch.linalg.svd(downsample_matrix('symmetric', side, scale))
        self.left, self.right = left.float(), right_t.T.contiguous().float()
        self.singular = torch.outer(singular, singular).float()
        self.small = side // scale

    def A(self, x: Tensor) -> Tensor:
        spectrum = self.right.T @ x @ self.right
        kept = spectrum[..., : self.small, : self.small] * self.singular
        return self.left @ kept @ self.left.T

    def A_pinv(self, y: Tensor) -> Tensor:
        spectrum = y.new_zeros(*y.shape[:2], len(self.right), len(self.right))
        spectrum[..., : self.small, : self.small] = (self.left.T @ y @ self.left) / self.singular
        return self.right @ spectrum @ self.right.T

    def project(self, x: Tensor, y: Tensor) -> Tensor:
        return x - self.A_pinv(self.A(x) - y)


def deepinv_project() -> Callable[[Tensor, Tensor], Tensor] | None:
    """``x - A_dagger(A x - y)`` by deepinv, or None."""
    try:
        from deepinv.physics import DownsamplingMatlab
    except ImportError:
        return None
    physics = DownsamplingMatlab(factor=4)
    return lambda x, y: x - physics.A_dagger(physics.A(x) - y)


def bench_step(args: argparse.Namespace) -> None:
    """Everything but the denoiser, as a share of whole steps at 256x256."""
    num_steps, side = args.steps, args.side
    enhancer = build_enhancer(args.options, args.weights, num_steps=num_steps)
    lq = torch.rand(1, 3, side // 4, side // 4)
    net, inside = enhancer.denoiser.forward, []

    def timed(x_t: Tensor, t: Tensor) -> Tensor:
        start = clock()
        out = net(x_t, t)
        inside.append(clock() - start)
        return out

    enhancer.denoiser.forward = timed
    enhancer.enhance(lq)
    shares, steps = [], []
    for _ in range(args.rounds):
        inside.clear()
        start = clock()
        enhancer.enhance(lq)
        whole = clock() - start
        shares.append(1 - sum(inside) / whole)
        steps.append(whole / num_steps)
    step, share = statistics.median(steps), statistics.median(shares)
    rows = [
        ['whole step', f'{1000 * step:.1f}', '100 %'],
        ['all but the denoiser', f'{1000 * step * share:.2f}', f'{share:.2%}'],
    ]
    seconds = in_turns(step_parts(side), 10 * args.rounds)
    rows += [
        [f'{name}, alone', milliseconds(values), f'{statistics.median(values) / step:.2%}']
        for name, values in seconds.items()
    ]
    count = sum(p.numel() for p in enhancer.denoiser.parameters()) / 1e6
    report(
        f'Beside the denoiser, {side}x{side}, {num_steps} steps',
        f'Small prior of {count:.2f} M parameters. The share includes what an image costs once: '
        'reading its content, the first noise, the last projection.',
        table(['part', 'ms per step', 'share'], rows),
    )


def step_parts(side: int) -> dict[str, Callable[[], object]]:
    """The sampler's parts, one by one."""
    operator, canvas = BicubicDownsample(4), CanvasNoise([0])
    x, eps, noise = torch.randn(3, 1, 3, side, side)
    y, whole = operator.A(x), Window(0, side, 0, side)
    return {
        'projection': lambda: operator.project(x, y),
        'drawing noise': lambda: canvas.draw(1, whole),
        'x0 of the predicted noise': lambda: predict_x0(x, eps, 0.5),
        'the next state': lambda: renoise(x, eps, noise, 0.5, 0.85),
    }


def bench_project(args: argparse.Namespace) -> None:
    """Time and residual of one projection, by three ways."""
    ours, theirs = BicubicDownsample(4), deepinv_project()
    rows = []
    for side in [64, 256, 512, 1024][: 2 if args.quick else 4]:
        x, y = torch.randn(1, 3, side, side), torch.rand(1, 3, side // 4, side // 4) * 2 - 1
        ways = {'defsr': ours.project, 'SVD': Svd(side, 4).project}
        if theirs is not None:
            ways['deepinv'] = theirs
        residuals = {
            name: float((ours.A(way(x, y).double()) - y).abs().max()) for name, way in ways.items()
        }
        works = {name: lambda way=way, x=x, y=y: way(x, y) for name, way in ways.items()}
        seconds = in_turns(works, args.rounds if side < 512 else min(3, args.rounds))
        rows += [
            [f'{side}x{side}, {name}', milliseconds(seconds[name]),
             f'{ratio(seconds, name, "defsr"):.1f}', f'{residuals[name]:.1e}']
            for name in ways
        ]  # fmt: skip
    missing = 'deepinv is not installed: its rows are left out.' if theirs is None else ''
    report(
        'The bicubic projection',
        'Three channels, values of about 1; the residual is max abs(A x - y) after the projection.',
        table(['side, way', 'ms', 'times defsr', 'residual'], rows),
        missing,
    )


@torch.no_grad()
def bench_layout(args: argparse.Namespace) -> None:
    """``channels_last`` off and on."""
    rows = []
    for name, net in (('small prior', build_prior(args.options)), ('ADMUNet', small_adm())):
        for number, side in ((8, 64), (1, args.side)):
            x, t = torch.randn(number, 3, side, side), torch.full((number,), 500.0)
            works = {}
            for layout in ('contiguous_format', 'channels_last'):
                kind = getattr(torch, layout)
                copied = deepcopy(net).to(memory_format=kind)
                fed = x.to(memory_format=kind)
                works[layout] = lambda copied=copied, fed=fed, t=t: copied(fed, t)
            seconds = in_turns(works, args.rounds)
            rows.append(
                [f'{name}, {number} x {side}x{side}', *map(milliseconds, seconds.values()),
                 f'{ratio(seconds, "channels_last", "contiguous_format"):.2f}']
            )  # fmt: skip
    report(
        '`channels_last`',
        f'The ADMUNet is a small one: `{SMALL_ADM}`.',
        table(['denoiser, batch', 'ms off', 'ms on', 'on / off'], rows),
    )


def small_adm() -> nn.Module:
    """An ADMUNet that a CPU can run."""
    torch.manual_seed(0)
    return ADMUNet(**SMALL_ADM).eval().requires_grad_(False)


def bench_batches(args: argparse.Namespace) -> None:
    """Seconds and memory per number of windows in a call of the denoiser."""
    rows = []
    for side in [64, 256][: 1 if args.quick else 2]:
        counts = [1, 2, 4, 8, 16]
        seconds = in_turns(batch_works(args.options, side, counts), max(3, args.rounds // 2))
        for count in counts:
            peak = in_process(__file__, {'options': str(args.options), 'side': side, 'n': count})
            times = ratio(seconds, str(count), '1') / count
            per_window = statistics.median(seconds[str(count)]) / count
            rows.append(
                [f'{side}x{side}', count, f'{1000 * per_window:.1f}', f'{times:.2f}',
                 f'{peak["mib"]:.0f}']
            )  # fmt: skip
    head = ['windows of', 'in one call', 'ms per window', 'times one by one', 'peak MiB']
    report(
        'Windows per batch',
        'The small prior. Peak: resident memory above that of the process before the call.',
        table(head, rows),
    )


def batch_works(options: Path, side: int, counts: list[int]) -> dict[str, Callable[[], object]]:
    """One call of the denoiser per number of windows."""
    net = build_prior(options)

    def work(count: int) -> Callable[[], object]:
        x_t, t = torch.randn(count, 3, side, side), torch.full((count,), 500.0)
        return lambda: net(x_t, t)

    return {str(count): work(count) for count in counts}


def one_row(row: dict) -> None:
    """Memory of one call, in a process of its own."""
    work = batch_works(Path(row['options']), row['side'], [row['n']])[str(row['n'])]
    answer(measured(work))


PARTS = {
    'step': bench_step,
    'project': bench_project,
    'layout': bench_layout,
    'batches': bench_batches,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--parts', nargs='+', choices=PARTS, default=list(PARTS))
    parser.add_argument('--rounds', type=int, default=7)
    parser.add_argument('--steps', type=int, default=20, help='of the sampler, for `step`')
    parser.add_argument('--side', type=int, default=256)
    parser.add_argument('--quick', action='store_true', help='small sizes only')
    parser.add_argument('--row', type=json.loads, help=argparse.SUPPRESS)
    prior_arguments(parser)
    args = parser.parse_args()
    if args.row:
        one_row(args.row)
        return
    for part in args.parts:
        PARTS[part](args)


if __name__ == '__main__':
    main()
