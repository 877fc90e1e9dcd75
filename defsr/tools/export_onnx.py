"""A trained network as an ONNX file, for programs without PyTorch.

    defsr-export-onnx -opt FILE [--weights FILE] --out net.onnx [--size HxW]

writes ``network_g`` of an option file, checks the file with ONNX Runtime against PyTorch, and says
how far they differ. What stands around the network, enhancing and matching, stays outside: a
network that reads matches has them as inputs. See docs/export.md.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from defsr.utils.cli import run_cli, tell

if TYPE_CHECKING:
    from torch import nn

EXPORTED = ('lq', 'matches')  # what networks may read
OPSET = 20
TRACED, CHECKED = ((12, 10), (9, 14)), ((17, 21), (13, 11))  # HxW of the input and the reference
TOLERANCE = 1e-4  # of the range of the result
MISSING = "defsr-export-onnx needs {}: pip install 'defsr[onnx]'."


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        network: the network's type.
        inputs: name -> shape, with ``height`` and ``width`` where any size will do.
        difference: the largest one between ONNX Runtime and PyTorch, on the check's input.
        size: HxW of that input.
    """

    network: str
    inputs: Mapping[str, Sequence[int | str]]
    difference: float
    size: tuple[int, int]


def export(
    options: str | Path,
    out: str | Path,
    weights: str | Path | None = None,
    size: tuple[int, int] | None = None,
) -> Exported:
    """Write ``network_g`` of an option file as ONNX, and compare what it gives.

    Args:
        options: an option file.
        out: ``*.onnx``; appears whole and checked, or not at all.
        weights: of ``network_g``. Default: the file's ``path:pretrain_network_g``.
        size: height and width of the only input that the file is to take, for networks that
            cannot be exported for all. Default: any, and any number of images.

    Raises:
        ValueError: without the extra ``onnx``; for a network without weights, one that matches
            by itself or reads what is not in files, and one that PyTorch's exporter does not know
            how to write; if ONNX Runtime gives another result.
        FileNotFoundError: without the option file or the weights.
    """
    from defsr.archs.plain_inputs import LEAST
    from defsr.utils.checks import check_at_least, check_choice
    from defsr.utils.files import atomic_path

    check_choice('The end of --out', Path(out).suffix.lower(), ('.onnx',))
    for name, side in zip(('--size: height', '--size: width'), size or (), strict=False):
        check_at_least(name, side, LEAST)
    _check_packages()
    net, said = _loaded(options, weights)
    program, inputs = _traced(net, size)
    program.model.metadata_props['trained_with'] = json.dumps(said)
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # lines of our source, with the folders of this machine
        node.doc_string = None
    with atomic_path(out) as temporary:
        program.save(temporary, external_data=False)
        checked = (size, size) if size else CHECKED
        difference = _difference(net, temporary, *checked, num=1 if size else 2)
    shapes = {x.name: [d if isinstance(d, int) else str(d) for d in x.shape] for x in inputs}
    return Exported(type(net).__name__, shapes, difference, checked[0])


def _check_packages() -> None:
    """ValueError without the extra, or with a PyTorch that does not say when it exports."""
    from importlib.util import find_spec

    import torch

    for name in ('onnx', 'onnxscript', 'onnxruntime'):
        if find_spec(name) is None:
            raise ValueError(MISSING.format(name))
    if not hasattr(torch.compiler, 'is_exporting'):
        raise ValueError(
            f'defsr-export-onnx needs PyTorch 2.7 or newer, but this is {torch.__version__}.'
        )


def _loaded(options: str | Path, weights: str | Path | None) -> tuple[nn.Module, dict[str, Any]]:
    """``network_g`` in eval mode with its weights, and what it was trained with."""
    from basicsr.utils.registry import ARCH_REGISTRY

    from defsr.archs.blocks import build_network
    from defsr.archs.interface import has_weights, reads_of
    from defsr.config.blocks import check_network, required
    from defsr.config.files import load_options
    from defsr.methods.build import trained_with
    from defsr.methods.networks import check_trained
    from defsr.utils.weights import load_weights

    opt = load_options(options)
    block = required(opt, '', 'network_g')
    check_network('network_g', block)
    arch = ARCH_REGISTRY.get(block['type'])
    name, reads = block['type'], reads_of(arch)
    if not has_weights(arch):
        raise ValueError(f'network_g is {name}, which has no weights: there is nothing to export.')
    if reads not in EXPORTED:
        raise ValueError(
            f'network_g is {name}, which matches or reads references by itself ({reads}): that '
            'is not in ONNX. Export a network that reads lq or matches, such as EDSR or DEFNet.'
        )
    if block.get('fusion') is not None:
        raise ValueError(
            'network_g has a fusion, which reads rectified references: that is not in ONNX. '
            'Export a network without.'
        )
    path = opt.get('path') or {}
    file = path.get('pretrain_network_g') if weights is None else weights
    if file is None:
        raise ValueError(
            f'{name} has no weights: path:pretrain_network_g is missing. Give --weights FILE.'
        )
    net = build_network(block)
    said = trained_with(opt)
    load_weights(
        net,
        file,
        option='path:pretrain_network_g' if weights is None else '--weights',
        network='network_g',
        param_key=path.get('param_key_g'),
        trained_with=said if check_trained(opt) else None,
    )
    return net.eval().requires_grad_(False), said


def _traced(net: nn.Module, size: tuple[int, int] | None) -> tuple[Any, Sequence[Any]]:
    """PyTorch's program for a file, and its inputs. ValueError if it does not know how."""
    import torch

    from defsr.archs.plain_inputs import (
        free_sides,
        named_inputs,
        random_inputs,
        with_plain_inputs,
    )

    traced = (size, size) if size else TRACED
    example = random_inputs(net, *traced, num=1 if size else 2)
    try:
        with torch.no_grad(), _quiet():
            program = torch.onnx.export(
                with_plain_inputs(net),
                kwargs=example,
                input_names=[*named_inputs(example)],
                output_names=['sr'],
                dynamic_shapes=None if size else free_sides(net),
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        reason = next(iter(str(cause).strip().splitlines()), type(cause).__name__)
        hint = 'Export another network.' if size else 'Give --size HxW, for a file of one size.'
        raise ValueError(
            f'{type(net).__name__} cannot be written as ONNX for '
            f'{"that" if size else "any"} size ({reason[:200]}). {hint}'
        ) from error
    assert program is not None
    return program, program.model.graph.inputs


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's own lines, which are about itself."""
    logger = logging.getLogger('torch.onnx')
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter('ignore')
            yield
    finally:
        logger.setLevel(level)


def _difference(
    net: nn.Module, path: Path, here: Sequence[int], there: Sequence[int], num: int
) -> float:
    """The largest one to PyTorch. ValueError if it is above ``TOLERANCE`` of the range."""
    import onnxruntime
    import torch

    from defsr.archs.plain_inputs import named_inputs, random_inputs, with_plain_inputs

    example = random_inputs(net, here, there, num)
    with torch.no_grad():
        wanted = with_plain_inputs(net)(**example)
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=['CPUExecutionProvider'])
    [found] = session.run(['sr'], {k: v.numpy() for k, v in named_inputs(example).items()})
    difference = float((torch.from_numpy(found) - wanted).abs().max())
    span = max(1.0, float(wanted.max() - wanted.min()))
    if not difference <= TOLERANCE * span:
        raise ValueError(
            f'ONNX Runtime differs from PyTorch by {difference:.2g} on values of a range of '
            f'{span:.2g}, more than {TOLERANCE:g} of it: nothing is written. Try other versions '
            'of onnx and onnxruntime.'
        )
    return difference


def size_of(text: str) -> tuple[int, int]:
    """``HxW`` -> both sides. ValueError for another text."""
    found = re.fullmatch(r'(\d{1,5})x(\d{1,5})', text)
    if found is None:
        raise ValueError(f'--size is {text!r}, but must be HxW, such as 128x96.')
    return int(found[1]), int(found[2])


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog='defsr-export-onnx', description='Write a trained network as an ONNX file.'
    )
    parser.add_argument('-opt', required=True, metavar='FILE', help='option file with network_g')
    parser.add_argument('--weights', metavar='FILE', help='default: its path:pretrain_network_g')
    parser.add_argument('--out', required=True, metavar='FILE', help='*.onnx, to write')
    parser.add_argument('--size', metavar='HxW', help='the only size of lq; default: any size')
    return parser.parse_args()


def run() -> None:
    """Parse the command line, write, and say what."""
    args = parse()
    size = None if args.size is None else size_of(args.size)
    found = export(args.opt, args.out, args.weights, size)
    for name, shape in found.inputs.items():
        tell(f'{name}: {" x ".join(map(str, shape))}')
    megabytes = Path(args.out).stat().st_size / 1e6
    height, width = found.size
    tell(
        f'{args.out}: {found.network}, {"one size" if size else "any size"}, {megabytes:.1f} MB; '
        f'differs from PyTorch by at most {found.difference:.1e} at {height}x{width} (HxW)'
    )


def main() -> None:
    """Entry point of ``defsr-export-onnx``."""
    run_cli(run)


if __name__ == '__main__':
    main()
