"""Which network a weight file holds, and the file written anew in this package's own form.

    defsr-convert FILE [--out FILE]

says who publishes such files and prints the block for an option file: ``network_g`` and the sizes
that the tensors have. Published networks are known by ``defsr.archs.published``, those trained here
say themselves what they are.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from defsr.utils.cli import run_cli, tell

if TYPE_CHECKING:
    from torch import Tensor

    from defsr.archs.published import Found

PRECISIONS = ('keep', 'half', 'bf16', 'full')
ENDS = ('.pth', '.pt', '.safetensors')


def convert(
    file: str | Path,
    out: str | Path | None = None,
    precision: str = 'keep',
    options: str | Path | None = None,
    compress: bool = False,
) -> Found:
    """Tell a weight file's network, and write its weights.

    Args:
        file: PyTorch's, safetensors, or SRCNN's MATLAB file. Of a training checkpoint the moving
            average is taken if there is one.
        out: file to write, whole or not at all: ``params`` in a ``.pth`` or ``.pt``, or a
            ``.safetensors``. What a checkpoint says of its training goes with it.
        precision: of the numbers: ``keep``, ``half``, ``bf16`` (fewer digits, which pack by a
            quarter more) or ``full`` (float32). Loading brings them back to float32.
        options: the option file that it was trained with, for a network that is not known.
        compress: pack a ``.pth`` without loss, by about a twelfth. PyTorch reads it as it reads
            others, but for ``mmap``.

    Returns:
        The network, with the state dict as written.

    Raises:
        FileNotFoundError: without the file.
        ValueError: for a file that is none or of no network that is known, an ``out`` of another
            end, and for weights that are not finite, or not in half precision: beyond 65504.
    """
    from defsr.archs.published import Found, find_network
    from defsr.config.files import load_options
    from defsr.methods.build import trained_with
    from defsr.utils.checks import check_choice
    from defsr.utils.paths import find_pretrained
    from defsr.utils.weights import TRAINED_WITH, read_checkpoint, state_dict_of

    path = find_pretrained(file, 'the file')
    if out is not None:
        check_choice('The end of --out', Path(out).suffix.lower(), ENDS)
        if Path(out).resolve() == path.resolve():
            raise ValueError(f'--out {out} is the file itself. Choose another name.')
    content = read_checkpoint(path, option='the file')
    state = state_dict_of(content, path, 'the file')
    said: Any = content.get(TRAINED_WITH)
    if said is None and options is not None:
        said = trained_with(load_options(options))
    if isinstance(said, Mapping) and isinstance(said.get('network_g'), Mapping):
        found = Found('a training with this package', dict(said['network_g']), state)
        kept = {TRAINED_WITH: dict(said)}
    else:
        found, kept = find_network(state, path), {}
    own = _in_precision(found.state, precision, path)
    if out is not None:
        _write(Path(out), own, kept, compress)
    return Found(found.source, found.network, own)


def _in_precision(state: Mapping[str, Tensor], precision: str, path: Path) -> dict[str, Tensor]:
    import torch

    dtypes = {'half': torch.float16, 'bf16': torch.bfloat16, 'full': torch.float32}
    dtype = dtypes.get(precision)
    own = {k: v.to(dtype) if v.is_floating_point() else v for k, v in state.items()}
    bad = [k for k, v in own.items() if v.is_floating_point() and not v.float().isfinite().all()]
    if bad:
        raise ValueError(
            f'{path} has weights that are not finite in {precision} precision ({bad[0]}). Take '
            'another checkpoint, or --precision full.'
        )
    return {key: value.clone().contiguous() for key, value in own.items()}  # none shares memory


def _write(out: Path, state: Mapping[str, Tensor], kept: Mapping[str, Any], compress: bool) -> None:
    import json

    import torch

    from defsr.utils.files import atomic_path, compress_archive
    from defsr.utils.strangers import save_safetensors

    with atomic_path(out) as temporary:
        if out.suffix.lower() == '.safetensors':
            save_safetensors(state, temporary, {k: json.dumps(v) for k, v in kept.items()})
        else:
            with open(temporary, 'wb') as file:
                torch.save({'params': dict(state), **kept}, file)  # a name would go into the file
            if compress:
                compress_archive(temporary)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Tell which network a weight file holds, and convert it.',
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument('file', help='*.pth, *.pt, *.safetensors; SRCNN: *.mat')
    parser.add_argument('--out', help='file to write, *.pth or *.safetensors')
    parser.add_argument('--precision', choices=PRECISIONS, default='keep')
    parser.add_argument('--compress', action='store_true', help='pack a *.pth without loss')
    parser.add_argument('--options', help='what it was trained with, if it does not say')
    return parser.parse_args()


def _run() -> None:
    args = parse()
    import yaml

    from defsr.utils.fingerprints import digest_of_file

    found = convert(args.file, args.out, args.precision, args.options, args.compress)
    number = sum(value.numel() for value in found.state.values())
    tell(f'{args.file}: {found.source}; {len(found.state)} tensors, {number:,d} numbers')
    block = {'network_g': {'type': found.network['type'], **found.network}}
    sys.stdout.write(yaml.safe_dump(block, sort_keys=False, default_flow_style=False))
    if args.out:
        size = Path(args.out).stat().st_size / 1e6
        tell(f'{args.out}: {size:.1f} MB, SHA-256 {digest_of_file(args.out)}')


def main() -> None:
    """Entry point."""
    run_cli(_run)


if __name__ == '__main__':
    main()
