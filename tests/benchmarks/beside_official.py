"""TTSR, MASA-SR and C2-Matching beside their authors' code: the same weights and images, one run.

    python tests/benchmarks/beside_official.py --official DIR --data DIR [--methods TTSR ...]

``DIR`` of ``--official`` has a checkout of each repository, by its own name; one that is absent is
left out. Nothing in them is changed: weights that they would download are drawn by a seed, as all
others are, and C2-Matching's deformable convolution, which is for CUDA alone, is torchvision's.
What the authors' data sets hand to their networks is made here as this package makes it:
interpolated images without rounding, and for MASA the input padded to multiples of 8.

Timed, each run in a process of its own: everything from images in memory to the result, without
gradients, in one piece; threads wait without turning, so that other work on the machine costs both
alike. Memory is the most that the process grew by. Results are compared twice:
as timed, where rounding decides between places that match almost alike, and at half the size in
float64, with the lead that a match needs over an earlier one set to 0 in ours, as in theirs.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import tempfile
import time
import types
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from measuring import (
    REPOSITORY,
    answer,
    data_parser,
    in_process,
    measured,
    photograph,
    report,
    table,
)

import torch  # isort: skip
import torchvision
from torch import Tensor, nn
from tqdm import tqdm

from defsr.archs.interface import Reference
from defsr.config.files import load_options
from defsr.diffusion.degradation import Degradation
from defsr.methods.build import build_method
from defsr.ops import matching
from defsr.ops.block_matching import BLOCK
from defsr.ops.padding import pad_reflect
from defsr.ops.resize import downsample_bicubic, upsample_bicubic
from defsr.utils.cli import run_cli

SCALE = 4
MEASURES = {'seconds': 'seconds', 'processor': 'processor seconds', 'mib': 'MiB'}
WARM_UP = 6  # LR blocks of MASA's to a side
Work = Callable[[Tensor, Tensor], Tensor]  # (lq, reference) -> result, all (1,3,.,.) in [0, 1]


class DeformConv:
    """torchvision's modulated convolution for C2-Matching's; counts its seconds."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(
        self,
        x: Tensor,
        offset: Tensor,
        mask: Tensor,
        weight: Tensor,
        bias: Tensor,
        stride: int,
        padding: int,
        dilation: int,
        groups: int,
    ) -> Tensor:
        """``dcn_v2_conv``; torchvision sees the groups in the shapes."""
        start = time.perf_counter()
        places = stride, padding, dilation
        out = torchvision.ops.deform_conv2d(x, offset, weight, bias, *places, mask=mask)
        self.seconds += time.perf_counter() - start
        return out


class Loaded(NamedTuple):
    """What is timed, the networks in it; of theirs the weights by our option files' blocks, and
    what stands in for an operation of its own."""

    work: Work
    nets: list[nn.Module]
    states: dict[str, dict[str, Tensor]]
    stand_in: DeformConv | None = None


class Rival(NamedTuple):
    """The authors' repository, our option file, and how the network in a checkout is run."""

    repository: str
    options: str
    load: Callable[[Path], Loaded]


def ttsr(code: Path) -> Loaded:
    """``model/TTSR.py`` with the widths of its ``train.sh``; images in [-1, 1]."""
    _without_download('vgg19')
    args = types.SimpleNamespace(num_res_blocks='16+16+8+4', n_feats=64, res_scale=1.0)
    net = _module(code, 'model.TTSR').TTSR(args).eval()
    kept = {name: x for name, x in net.state_dict().items() if 'LTE_copy' not in name}
    state = drawn(kept, sub_mean=None, LTE=2.0)
    net.load_state_dict(state, strict=False)

    def work(lq: Tensor, ref: Tensor) -> Tensor:
        small = Degradation('pil', SCALE).degrade(ref)
        images = lq, _enlarged(lq, 'pil'), ref, _enlarged(small, 'pil')
        names = 'lr', 'lrsr', 'ref', 'refsr'
        sr, *_ = net(**{name: 2 * x - 1 for name, x in zip(names, images, strict=True)})
        return (sr + 1) / 2

    return Loaded(work, [net], {'network_g': state})


def masa(code: Path) -> Loaded:
    """``models/archs/MASA_arch.py`` as ``test.py`` builds it; images in BGR, padded to 8."""
    args = types.SimpleNamespace(input_nc=3, nf=64, sr_scale=SCALE, num_nbr=1)
    net = _module(code / 'models/archs', 'MASA_arch').MASA(args).eval()
    state = drawn(net.state_dict())
    net.load_state_dict(state)

    def work(lq: Tensor, ref: Tensor) -> Tensor:
        height, width = (SCALE * side for side in lq.shape[-2:])
        images = pad_reflect(lq, BLOCK), ref, downsample_bicubic(ref, SCALE)
        return net(*(image.flip(1) for image in images)).flip(1)[..., :height, :width]

    return Loaded(work, [net], {'network_g': state})


def c2_matching(code: Path) -> Loaded:
    """Its three networks as ``options/test/test_C2_matching_mse.yml`` has them."""
    _without_download('vgg16', 'vgg19')
    sys.modules['_ext'] = types.ModuleType('_ext')
    archs = 'mmsr.models.archs'
    for name in ('mmsr', 'mmsr.models', archs):  # without what theirs import at once
        package = sys.modules[name] = types.ModuleType(name)
        package.__path__ = [str(code / name.replace('.', '/'))]
    stand_in = _module(code, f'{archs}.DCNv2.dcn_v2').dcn_v2_conv = DeformConv()
    extractor = _module(code, f'{archs}.contras_extractor_arch').ContrasExtractorSep().eval()
    search = _module(code, f'{archs}.corres_generation_arch').CorrespondenceGenerationArch().eval()
    net = _module(code, f'{archs}.ref_restoration_arch').RestorationNet().eval()
    trunk = {'mean': None, 'std': None, 'weight': 2.0}
    states = {
        'network_m': drawn(extractor.state_dict(), **trunk),
        'network_t': drawn(search.vgg.vgg_net.state_dict(), **trunk),
        'network_g': drawn(net.state_dict(), conv_offset_mask=0.05),
    }
    nets = [extractor, search.vgg.vgg_net, net]
    for part, state in zip(nets, states.values(), strict=True):
        part.load_state_dict(state)
    states['network_t'] |= {name: getattr(search.vgg, name) for name in ('mean', 'std')}

    def work(lq: Tensor, ref: Tensor) -> Tensor:
        found = search(extractor(_enlarged(lq, 'symmetric'), ref), ref)
        return net(lq, *found)

    return Loaded(work, [*nets, search], states, stand_in)


RIVALS = {
    'TTSR': Rival('TTSR', 'train_TTSR_x4.yml', ttsr),
    'MASA-SR': Rival('MASA-SR', 'train_MASA_x4.yml', masa),
    'C2-Matching': Rival('C2-Matching', 'train_C2_x4.yml', c2_matching),
}


def drawn(state: Mapping[str, Tensor], **gains: float | None) -> dict[str, Tensor]:
    """Weights of a seed: half of one over the inputs as variance, so that depth is no matter.

    ``gains``: part of a name -> another share for such tensors, None: they stay.
    """
    generator = torch.Generator().manual_seed(0)
    made = {}
    for name, value in state.items():
        gain = next((gain for part, gain in gains.items() if part in name), 0.5)
        fan_in = value.shape[1:].numel() if value.ndim > 1 else 200
        noise = torch.randn(value.shape, generator=generator)
        made[name] = value if gain is None else (gain / fan_in) ** 0.5 * noise
    return made


def ours(method: str, weights: Path) -> Loaded:
    """Our method by its option file, with the files ``network_*.pth`` of a folder."""
    opt = load_options(REPOSITORY / 'options' / RIVALS[method].options)
    files = {f'pretrain_{file.stem}': str(file) for file in weights.glob('network_*.pth')}
    opt |= {'path': files, 'check_trained': False}
    for block in ('network_g', 'network_t'):
        if 'weights' in (opt.get(block) or {}):
            opt[block]['weights'] = 'none'
    degradation = Degradation(opt['datasets']['val']['degradation'], SCALE)
    way, net_g = build_method(opt, torch.device('cpu'), degradation)
    net_g.eval().requires_grad_(False)

    def work(lq: Tensor, ref: Tensor) -> Tensor:
        lq, ref = (x.contiguous(memory_format=torch.channels_last) for x in (lq, ref))
        return way.super_resolve(net_g, lq, [Reference(ref)]).sr

    return Loaded(work, [net_g, *way.frozen.values()], {})


def _module(folder: Path, name: str) -> types.ModuleType:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    return importlib.import_module(name)


def _without_download(*names: str) -> None:
    """torchvision's VGG without its weights, whatever is asked for."""
    for name in names:
        make = getattr(torchvision.models, name)
        for module in (torchvision.models, torchvision.models.vgg):
            setattr(module, name, lambda make=make, **_: make(weights=None))


def _enlarged(lq: Tensor, border: str) -> Tensor:
    return upsample_bicubic(lq, SCALE, border).clamp(0, 1)


def images_of(data: Path, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """(1,3,h,w) of that size and a reference (1,3,4h,4w), the same photograph moved."""
    gt = photograph(data, *(SCALE * side for side in size))
    return Degradation('pil', SCALE).degrade(gt), torch.roll(gt, (37, -61), (-2, -1))


@torch.no_grad()
def one_run(row: Mapping[str, Any]) -> None:
    """One work in this process: its cost; its result in the folder of the row."""
    warnings.filterwarnings('ignore', message='torch.meshgrid')
    torch.set_num_threads(row['threads'])
    folder, method, dtype = Path(row['folder']), row['method'], getattr(torch, row['dtype'])
    loaded = (
        ours(method, folder) if row['who'] == 'ours' else RIVALS[method].load(Path(row['code']))
    )
    for block, state in loaded.states.items():
        torch.save(state, folder / f'{block}.pth')
    for net in loaded.nets:
        net.to(dtype)
    if dtype == torch.float64:
        matching.TIE = 0.0
    lq, ref = (image.to(dtype) for image in images_of(Path(row['data']), row['size']))
    side = WARM_UP * BLOCK
    loaded.work(lq[..., :side, :side], ref[..., : SCALE * side, : SCALE * side])
    found, stand_in = {}, loaded.stand_in or DeformConv()
    stand_in.seconds = 0.0
    cost = measured(lambda: found.update(sr=loaded.work(lq, ref)))
    torch.save(found['sr'], folder / f'{row["who"]}.pt')
    answer(cost | {'stand_in': stand_in.seconds})


def compared(row: Mapping[str, object], rounds: int = 1) -> tuple[dict[str, list[dict]], str]:
    """Costs of both by turns, and how far their results are apart."""
    costs: dict[str, list[dict]] = {'theirs': [], 'ours': []}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(rounds):
            # Theirs write the weights, in the first round.
            for who in list(costs)[:: -1 if number % 2 else 1]:
                costs[who].append(in_process(__file__, row | {'who': who, 'folder': folder}))
        theirs, own = (torch.load(f'{folder}/{who}.pt', weights_only=True) for who in costs)
    return costs, f'{float((theirs - own).abs().max()):.0e}'


def cells(costs: Mapping[str, list[dict]], what: str) -> list[str]:
    """Theirs, ours and their ratio, of medians."""
    theirs, own = (median(cost[what] for cost in costs[who]) for who in ('theirs', 'ours'))
    return [f'{theirs:.4g}', f'{own:.4g}', f'{theirs / own:.2f}']


def parse() -> argparse.Namespace:
    parser = data_parser(__doc__)
    help_text = "folder of the authors' repositories; default: official"
    parser.add_argument('--official', type=Path, default=Path('official'), help=help_text)
    parser.add_argument('--methods', nargs='*', default=list(RIVALS), choices=list(RIVALS))
    parser.add_argument('--threads', nargs='*', type=int, default=[1, 2])
    parser.add_argument('--rounds', type=int, default=3, help='runs of each; default: 3')
    parser.add_argument('--size', nargs=2, type=int, default=[83, 125], help='of the input, h w')
    parser.add_argument('--row', help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    args = parse()
    if args.row:
        one_run(json.loads(args.row))
        return
    os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')
    known = {method: args.official / RIVALS[method].repository for method in args.methods}
    for method, code in known.items():
        if not code.is_dir():
            sys.stderr.write(f'{method} is left out: there is no {code}.\n')
    parts = [f'{what}: {who}' for what in MEASURES.values() for who in ('theirs', 'ours', 'ratio')]
    present = [method for method, code in known.items() if code.is_dir()]
    half = [side // 2 for side in args.size]
    exact: dict[str, str] = {}
    for threads in args.threads if present else ():
        torch.set_num_threads(threads)
        lines, notes = [], []
        for method in tqdm(present, unit='method'):
            row = {'method': method, 'code': str(known[method]), 'threads': threads}
            row |= {'data': str(args.data), 'size': args.size, 'dtype': 'float32'}
            costs, apart = compared(row, args.rounds)
            if method not in exact:
                exact[method] = compared(row | {'size': half, 'dtype': 'float64'})[1]
            values = [cell for what in MEASURES for cell in cells(costs, what)]
            lines.append([method, *values, apart, exact[method]])
            if seconds := median(cost['stand_in'] for cost in costs['theirs']):
                notes.append(f"Of {method}'s seconds {seconds:.3g} are in torchvision's operation.")
        head = ['method', *parts, 'largest difference', 'in float64']
        report("Beside the authors' code", table(head, lines), *notes)


if __name__ == '__main__':
    run_cli(main)
