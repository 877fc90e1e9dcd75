"""Make a weight file to ship of a training checkpoint: moving average, half precision."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from defsr.utils.cli import run_cli, tell
from defsr.utils.files import atomic_path

if TYPE_CHECKING:
    from torch import Tensor


def export_weights(
    checkpoint: str | Path,
    out: str | Path,
    precision: str = 'half',
    options: str | Path | None = None,
) -> dict[str, Tensor]:
    """Write a checkpoint's best weights as ``params``, with what it was trained with.

    Args:
        checkpoint: as BasicSR saves it; ``params_ema`` if it has it, else ``params``.
        out: file to write, whole or not at all.
        precision: ``half`` or ``full`` (float32), for floating point tensors. Loading brings
            them back to float32.
        options: the option file that it was trained with, for one that does not say.

    Returns:
        The state dict as written.

    Raises:
        FileNotFoundError: without the checkpoint.
        ValueError: for a file that is none, and for weights that are not finite, or not in half
            precision: beyond 65504.
    """
    import torch  # seconds, which --help need not wait

    from defsr.config.files import load_options
    from defsr.methods.build import trained_with
    from defsr.utils.paths import find_pretrained
    from defsr.utils.weights import TRAINED_WITH, read_checkpoint, state_dict_of

    path = find_pretrained(checkpoint, 'checkpoint')
    content = read_checkpoint(path, option='checkpoint')
    state = state_dict_of(content, path, 'checkpoint')
    dtype = {'half': torch.float16, 'full': torch.float32}[precision]
    state = {k: v.to(dtype) if v.is_floating_point() else v for k, v in state.items()}
    _check_finite(state, checkpoint, precision)
    kept = {key: content[key] for key in (TRAINED_WITH,) if key in content}
    if options and not kept:
        kept = {TRAINED_WITH: trained_with(load_options(options))}
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(out) as temporary, open(temporary, 'wb') as file:
        torch.save({'params': state} | kept, file)  # a name would go into the file
    return state


def _check_finite(state: Mapping[str, Tensor], checkpoint: str | Path, precision: str) -> None:
    bad = [k for k, v in state.items() if v.is_floating_point() and not v.isfinite().all()]
    if bad:
        raise ValueError(
            f'{checkpoint} has weights that are not finite in {precision} precision ({bad[0]}). '
            'Take another checkpoint, or --precision full.'
        )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument('checkpoint', help='net_g_*.pth of a training')
    parser.add_argument('--out', required=True, help='file to write')
    parser.add_argument('--options', help='what it was trained with, if it does not say')
    parser.add_argument('--precision', choices=('half', 'full'), default='half')
    return parser.parse_args()


def main() -> None:
    """Entry point of ``python -m defsr.tools.export_weights``."""
    args = parse()
    from defsr.utils.fingerprints import digest_of_file

    state = export_weights(args.checkpoint, args.out, args.precision, args.options)
    number = sum(value.numel() for value in state.values())
    size = Path(args.out).stat().st_size / 1e6
    tell(f'{args.out}: {number:,d} numbers, {size:.1f} MB, SHA-256 {digest_of_file(args.out)}')


if __name__ == '__main__':
    run_cli(main)
