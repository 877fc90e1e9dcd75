"""CUFED's training pairs through the enhancer, in GPU-hours, on paper.

    python tests/benchmarks/gpu_hours.py

FLOPs are counted exactly, operator by operator, on the meta device (a multiplication and an
addition are two); nothing is computed. The rates of GPUs are assumptions, printed with the table;
this machine's is measured on the small prior.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from measuring import build_prior, clock, prior_arguments, report, table
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from defsr.archs.adm_unet_arch import ADMUNet

NUM_PAIRS = 11871  # CUFED's training set
SIDES = (160, 256)  # its images; the side that the weights were trained at
STEPS = (100, 1000)
GPUS = (1, 8, 64)
RATES = {  # sustained FLOP/s: share of the data sheet's dense 16-bit rate
    'A100, 40 % of 312 TFLOP/s': 0.40 * 312e12,
    'H100, 35 % of 989 TFLOP/s': 0.35 * 989e12,
}


def count_flops(net: nn.Module, side: int) -> dict[str, int]:
    """FLOPs of one call with one image, by operator; ``net`` lies on the meta device."""
    x_t, t = torch.empty(1, 3, side, side, device='meta'), torch.empty(1, device='meta')
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        net(x_t, t)
    return {str(kind): number for kind, number in counter.get_flop_counts()['Global'].items()}


def attention_flops(net: nn.Module, side: int) -> int:
    """By hand, of both products of each attention: 4 * positions^2 * channels."""
    positions = []

    def note(module: nn.Module, inputs: tuple, _: object) -> None:
        if type(module).__name__ == 'AttentionBlock':
            x = inputs[0]
            positions.append((x.shape[-2] * x.shape[-1], x.shape[1]))

    hooks = [module.register_forward_hook(note) for module in net.modules()]
    count_flops(net, side)
    for hook in hooks:
        hook.remove()
    return sum(4 * number**2 * channels for number, channels in positions)


def measured_rate(options: Path, side: int, flops: int, repeats: int) -> float:
    """FLOP/s of the small prior on this machine: the fastest of a few calls."""
    net, seconds = build_prior(options), []
    x_t, t = torch.randn(1, 3, side, side), torch.full((1,), 500.0)
    for _ in range(repeats + 1):
        start = clock()
        net(x_t, t)
        seconds.append(clock() - start)
    return flops / min(seconds[1:])


def counts_table(nets: dict[str, nn.Module]) -> tuple[str, dict[tuple[str, int], int]]:
    """GFLOPs of one call of each denoiser at each side."""
    rows, totals = [], {}
    for name, net in nets.items():
        for side in SIDES:
            counts = count_flops(net, side)
            totals[name, side] = total = sum(counts.values())
            counted = counts.get('aten.bmm', 0)  # what attention is on the meta device
            assert counted == attention_flops(net, side), counts
            million = sum(p.numel() for p in net.parameters()) / 1e6
            rows.append(
                [f'{name}, {side}x{side}', f'{million:.1f}', f'{total / 1e9:.1f}',
                 f'{counted / total:.1%}']
            )  # fmt: skip
    head = ['denoiser, size', 'million parameters', 'GFLOPs per call', 'of it attention']
    return table(head, rows), totals


def hours_table(totals: dict[tuple[str, int], int], rates: dict[str, float]) -> str:
    """Hours for all pairs on 1, 8 and 64 machines."""
    rows = []
    for (name, side), flops in totals.items():
        for machine, rate in rates.items():
            cells = []
            for images in (1, 2):
                for steps in STEPS:
                    hours = NUM_PAIRS * images * steps * flops / rate / 3600
                    cells.append(' / '.join(short(hours / number) for number in GPUS))
            rows.append([f'{name}, {side}x{side}, {machine}', *cells])
    head = ['denoiser, size, machine']
    head += [f'{what}, {n} steps' for what in ('query', 'query and reference') for n in STEPS]
    return table(head, rows)


def short(hours: float) -> str:
    """Two digits, without exponents."""
    return f'{hours:,.0f}' if hours >= 10 else f'{hours:.2g}' if hours >= 0.01 else '< 0.01'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--repeats', type=int, default=5, help='calls that measure this machine')
    prior_arguments(parser)
    args = parser.parse_args()
    with torch.device('meta'):
        nets = {'ADMUNet': ADMUNet().eval(), 'small prior': build_prior(args.options)}
    counts, totals = counts_table(nets)
    rate = measured_rate(args.options, 256, totals['small prior', 256], args.repeats)
    here = {f'this machine, {rate / 1e9:.0f} GFLOP/s measured': rate}
    report(
        f'{NUM_PAIRS:,} pairs of CUFED',
        'FLOPs are per image, in a call with one or with many. The sampler around the denoiser, '
        'reading and writing are not in them. Hours on 1 / 8 / 64 machines, shared out evenly.',
        counts,
        hours_table(totals, RATES | here),
    )


if __name__ == '__main__':
    main()
