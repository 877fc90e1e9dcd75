"""Where one DEF training iteration spends its time.

    python tests/benchmarks/profile_step.py [--size small|paper] [--repeat 3] [--batch N]

``paper``: 160x160 crops, batch 9, VGG19 (random weights: the time is the same), 64 features,
cached I_DE, all three losses. ``small``: options/small/train_DEF_GAN_small_x4.yml. The rates of a
plain convolution and matrix product of the same machine stand beside it, so that the figures of
two machines can be compared.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import defaultdict
from contextlib import contextmanager
from pathlib import Path

import defsr  # noqa: F401  # isort: skip  (before BasicSR: applies the patches)
import torch
from basicsr.archs import build_network
from basicsr.losses import build_loss

from defsr.archs.pipeline import RefSRPipeline
from defsr.losses.gradient_penalty import gradient_penalty
from defsr.utils.options import load_options

OPTIONS = Path(__file__).resolve().parents[2] / 'options'


class StepProfile:
    """Seconds per part, the median over repetitions."""

    def __init__(self) -> None:
        self.seconds = defaultdict(list)

    @contextmanager
    def part(self, name: str):
        start = time.perf_counter()
        yield
        self.seconds[name].append(time.perf_counter() - start)

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

    def __init__(self, opt: dict, batch: int | None) -> None:
        train = opt['datasets']['train']
        batch = batch or train['batch_size_per_gpu']
        gt_size, ref_size = train['gt_size'], train['ref_size']
        generator = torch.Generator().manual_seed(0)
        self.lq = torch.rand(batch, 3, gt_size // 4, gt_size // 4, generator=generator)
        self.gt = torch.rand(batch, 3, gt_size, gt_size, generator=generator)
        self.ref = torch.rand(batch, 3, ref_size, ref_size, generator=generator)
        self.net_g, self.net_d = build_network(opt['network_g']), build_network(opt['network_d'])
        net_e, net_t = build_network(opt['network_e']), build_network(opt['network_t'])
        self.pipeline = RefSRPipeline(net_e, net_t, opt['match_key'])
        self.de = self.pipeline.enhance(self.lq)
        self.perceptual = build_loss(opt['train']['perceptual_opt'])
        self.optimizers = [torch.optim.Adam(n.parameters()) for n in (self.net_g, self.net_d)]
        self.label = f'batch {batch}, {gt_size}x{gt_size}, references {ref_size}x{ref_size}'

    def run(self, profile: StepProfile) -> None:
        pipeline, net_g = self.pipeline, self.net_g
        with profile.part('features of the reference'):
            references = pipeline.prepare([self.ref])
        with profile.part('features of I_DE + matching'):
            aligned = pipeline.align(self.de, references)
        with profile.part('transfer, forward'):
            texture = net_g.transfer(*aligned)
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
            start = time.perf_counter()
            for _ in range(5):
                work()
            rates[name] = 5 * flops / (time.perf_counter() - start) / 1e9
    return rates


def report(label: str, seconds: dict[str, float]) -> str:
    """A Markdown table."""
    total = sum(seconds.values())
    lines = [f'| {label} | seconds | share |', '| --- | ---: | ---: |']
    lines += [f'| {name} | {s:.3f} | {s / total:.0%} |' for name, s in seconds.items()]
    lines.append(f'| **whole iteration** | **{total:.3f}** | {1 / total:.3f} it/s |')
    return '\n'.join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--size', choices=('small', 'paper'), default='small')
    parser.add_argument('--repeat', type=int, default=3)
    parser.add_argument('--batch', type=int, default=None, help="default: the option file's")
    args = parser.parse_args()
    step = Step(load_case(args.size), args.batch)
    step.run(StepProfile())  # warm up
    profile = StepProfile()
    for _ in range(args.repeat):
        step.run(profile)
    sys.stdout.write(report(f'{args.size}: {step.label}', profile.median()) + '\n\n')
    for name, rate in machine_rates().items():
        sys.stdout.write(f'{name}: {rate:.0f} GFLOP/s, {torch.get_num_threads()} threads\n')


if __name__ == '__main__':
    main()
