"""Where one DEF training iteration spends its time, in its first formulation and now.

    OMP_NUM_THREADS=1 python tests/benchmarks/profile_step.py [--size small|paper] [--repeat 3]
        [--batch N] [--beside CHECKOUT]

``paper``: 160x160 crops, batch 9, VGG19 (random weights: the time is the same), 64 features,
cached I_DE, all three losses. ``small``: options/small/train_DEF_GAN_small_x4.yml. Before and
after run in turns, each in a process of its own, since the allocator is the process's. The rates
of a plain convolution and matrix product of the same machine stand beside them, so that the
figures of two machines can be compared. ``--beside``: the package of another checkout, by its own
copy of this file, in place of the first formulation.
"""

from __future__ import annotations

import argparse
import json
import resource
from collections import defaultdict
from collections.abc import Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path

import defsr  # noqa: F401  # isort: skip  (before BasicSR: applies the patches)
import torch
from basicsr.archs import build_network
from basicsr.losses import build_loss
from first_formulation import first_formulation
from measuring import answer, clock, in_process, report, table

from defsr.archs.interface import Reference
from defsr.config.files import load_options
from defsr.losses.gradient_penalty import gradient_penalty
from defsr.methods.matched import Matched
from defsr.utils.allocator import keep_freed_memory

OPTIONS = Path(__file__).resolve().parents[2] / 'options'
LEVERS = ('rearranged', 'channels_last', 'allocator')  # in the order they are added


class StepProfile:
    """Seconds per part, the median over repetitions."""

    def __init__(self) -> None:
        self.seconds = defaultdict(list)

    @contextmanager
    def part(self, name: str):
        start = clock()
        yield
        self.seconds[name].append(clock() - start)

    def median(self) -> dict[str, float]:
        return {name: sorted(values)[len(values) // 2] for name, values in self.seconds.items()}


def load_case(size: str) -> dict:
    """Option blocks of one of the two sizes, with nothing to download."""
    if size == 'small':
        return load_options(OPTIONS / 'small/train_DEF_GAN_small_x4.yml')
    opt = load_options(OPTIONS / 'train_DEF_x4.yml')
    opt['network_e'] = {'type': 'BicubicEnhancer', 'scale': 4}
    opt['network_t']['weights'] = opt['train']['perceptual_opt']['weights'] = 'none'
    return opt


class Step:
    """One iteration of DEFModel on random images, part by part."""

    def __init__(self, opt: dict, batch: int | None, layout: torch.memory_format) -> None:
        torch.manual_seed(0)
        train = opt['datasets']['train']
        batch = batch or train['batch_size_per_gpu']
        gt_size, ref_size = train['gt_size'], train['ref_size']
        generator = torch.Generator().manual_seed(0)
        self.lq = torch.rand(batch, 3, gt_size // 4, gt_size // 4, generator=generator)
        self.gt = torch.rand(batch, 3, gt_size, gt_size, generator=generator)
        self.ref = torch.rand(batch, 3, ref_size, ref_size, generator=generator)
        self.net_g, self.net_d = build_network(opt['network_g']), build_network(opt['network_d'])
        net_e, net_t = build_network(opt['network_e']), build_network(opt['network_t'])
        self.perceptual = build_loss(opt['train']['perceptual_opt'])
        for net in (self.net_g, self.net_d, net_t, self.perceptual):
            net.to(memory_format=layout)
        self.lq, self.gt, self.ref = (
            image.to(memory_format=layout) for image in (self.lq, self.gt, self.ref)
        )
        self.pipeline = Matched(net_e, net_t, opt['match_key'])
        self.de = self.pipeline.enhance(self.lq).to(memory_format=layout)
        self.optimizers = [torch.optim.Adam(n.parameters()) for n in (self.net_g, self.net_d)]
        self.batch = batch

    def run(self, profile: StepProfile) -> None:
        pipeline, net_g = self.pipeline, self.net_g
        with profile.part('features of the reference'):
            references = pipeline.prepare(None, [Reference(self.ref)])
        with profile.part('features of I_DE + matching'):
            aligned = pipeline.align(self.de, references)
        with profile.part('transfer, forward'):
            texture = net_g.transfer(aligned)
        with profile.part('aggregation, forward'):
            sr = net_g.aggregator(self.lq, texture, aligned.confidence, aligned.feat_de)
        with profile.part('losses of G, forward'):
            loss = (sr - self.gt).abs().mean()
            loss = loss + 1e-2 * self.perceptual(sr, self.gt)[0]
            loss = loss - 1e-4 * self.net_d.requires_grad_(False)(sr).mean()
        with profile.part('losses of G, backward to SR'):
            (grad_sr,) = torch.autograd.grad(loss, sr)
        with profile.part('aggregation, backward'):
            leaves = [x for x in texture.values()]
            learned = list(net_g.aggregator.parameters())
            grads = torch.autograd.grad(sr, leaves + learned, grad_sr)
        with profile.part('transfer, backward'):
            torch.autograd.backward(leaves, grads[: len(leaves)])
        for parameter, grad in zip(learned, grads[len(leaves) :], strict=True):
            parameter.grad = grad
        with profile.part('optimizer of G'):
            self.optimizers[0].step()
            self.optimizers[0].zero_grad()
        with profile.part('critic, whole step'):
            self.net_d.requires_grad_(True)
            fake = sr.detach()
            loss_d = self.net_d(fake).mean() - self.net_d(self.gt).mean()
            loss_d = loss_d + 10 * gradient_penalty(self.net_d, self.gt, fake)
            loss_d.backward()
            self.optimizers[1].step()
            self.optimizers[1].zero_grad()


def machine_rates() -> dict[str, float]:
    """GFLOP/s of a 3x3 convolution and of a matrix product, float32."""
    conv = torch.nn.Conv2d(64, 64, 3, padding=1)
    image = torch.rand(4, 64, 160, 160)
    matrix = torch.rand(2048, 2048)
    rates = {}
    with torch.no_grad():
        for name, work, flops in (
            ('convolution', lambda: conv(image), 2 * 64 * 64 * 9 * image[:, 0].numel()),
            ('matrix product', lambda: matrix @ matrix, 2 * 2048**3),
        ):
            work()
            start = clock()
            for _ in range(5):
                work()
            rates[name] = 5 * flops / (clock() - start) / 1e9
    return rates


def measure(row: Mapping[str, object]) -> dict[str, object]:
    """One size in one form: seconds by part, page faults and system time of an iteration."""
    if row['allocator']:
        keep_freed_memory()
    layout = torch.channels_last if row['channels_last'] else torch.contiguous_format
    profile = StepProfile()
    with nullcontext() if row['rearranged'] else first_formulation():
        step = Step(load_case(row['size']), row['batch'], layout)
        step.run(StepProfile())  # warm up
        before = resource.getrusage(resource.RUSAGE_SELF)
        for _ in range(row['repeat']):
            step.run(profile)
        after = resource.getrusage(resource.RUSAGE_SELF)
    return {
        'parts': profile.median(),
        'faults': (after.ru_minflt - before.ru_minflt) / row['repeat'],
        'system': (after.ru_stime - before.ru_stime) / row['repeat'],
        'peak': after.ru_maxrss / 2**10,
        'batch': step.batch,
        'rates': machine_rates(),
    }


def compare(results: Mapping[str, Mapping]) -> str:
    """Tables of the forms beside each other, the first of them as the base."""
    names = list(results)
    parts = [results[name]['parts'] for name in names]
    totals = [sum(part.values()) for part in parts]
    head = ['seconds', *names, 'times faster']
    rows = [
        [part, *(f'{column[part]:.3f}' for column in parts), f'{parts[0][part] / last:.2f}']
        for part, last in parts[-1].items()
    ]
    rows += [
        ['**whole iteration**', *(f'**{t:.3f}**' for t in totals), f'{totals[0] / totals[-1]:.2f}'],
        ['iterations per second', *(f'{1 / total:.4f}' for total in totals), ''],
    ]
    for name, label, form in (
        ('faults', 'page faults', '.0f'),
        ('system', 'seconds in the system', '.3f'),
        ('peak', 'peak of the process, MiB', '.0f'),
    ):
        rows.append([label, *(f'{result[name]:{form}}' for result in results.values()), ''])
    for rate in results[names[0]]['rates']:
        values = [f'{result["rates"][rate]:.0f}' for result in results.values()]
        rows.append([f'{rate}, GFLOP/s', *values, ''])
    return table(head, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--size', choices=('small', 'paper'), default='small')
    parser.add_argument('--repeat', type=int, default=3)
    parser.add_argument('--batch', type=int, default=None, help="default: the option file's")
    parser.add_argument('--levers', action='store_true', help='add what was changed one by one')
    parser.add_argument('--beside', type=Path, help='another checkout')
    parser.add_argument('--row', type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.row:
        answer(measure(args.row))
        return
    counts = range(len(LEVERS) + 1) if args.levers else (0, len(LEVERS))
    results = {}
    if args.beside is not None:
        row = dict(vars(args), beside=None) | dict.fromkeys(LEVERS, True)
        other = args.beside / 'tests/benchmarks' / Path(__file__).name
        results['before'] = in_process(str(other), row, args.beside)
        counts = counts[-1:]
    for count in counts:
        levers = {lever: number < count for number, lever in enumerate(LEVERS)}
        name = 'before' if not count else f'+ {LEVERS[count - 1]}' if args.levers else 'after'
        row = {'size': args.size, 'batch': args.batch, 'repeat': args.repeat} | levers
        results[name] = in_process(__file__, row)
    report(f'{args.size}, batch {results["before"]["batch"]}', compare(results))


if __name__ == '__main__':
    main()
