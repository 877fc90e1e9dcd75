"""The command line of tools that fill folders as an option file says, alone or with others."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from typing import Any

from defsr.config.files import load_options, override_options
from defsr.utils.stopping import StopRequest

Options = Mapping[str, Any]
# What checks an option file, and what does what it says.
Job = tuple[Callable[[Options], object], Callable[[Options, StopRequest], None]]


def run_option_job(prog: str, description: str | None, load: Callable[[], Job]) -> None:
    """Read the command line and work, in as many processes as the launcher starts.

    Args:
        prog, description: of the command.
        load: imports the job: PyTorch takes seconds, which --help need not wait.
    """
    args = _parser(prog, description).parse_args()
    check, work = load()
    from defsr.enhance.job import GO_ON
    from defsr.utils import distributed
    from defsr.utils.devices import has_gpu

    opt = override_options(load_options(args.opt), args.force_yml)
    if args.launcher != 'none':
        check(opt)
        use_cuda, dist_params = has_gpu(opt.get('num_gpu')), opt.get('dist_params') or {}
        distributed.init_dist(args.launcher, use_cuda=use_cuda, dist_params=dist_params)
    stop = StopRequest()
    stop.listen()
    try:
        work(opt, stop)
    except distributed.LostProcessError:
        if stop.signal:  # as the other one was
            raise SystemExit(128 + stop.signal) from None
        raise OSError(
            f'Another process of this run has ended; look at its last message. {GO_ON}'
        ) from None
    distributed.leave()


def _parser(prog: str, description: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog, description=description, formatter_class=argparse.RawTextHelpFormatter
    )
    add = parser.add_argument
    add('-opt', required=True, metavar='FILE', help='option file')
    add(
        '--launcher', choices=('none', 'pytorch', 'slurm'), default='none',
        help='pytorch under torchrun, slurm under srun: the work is divided among the processes',
    )  # fmt: skip
    add(
        '--force_yml', nargs='+', default=[], metavar='KEY=VALUE',
        help='change options, as in scale=4 or path:pretrain_network_e=my.pth',
    )  # fmt: skip
    return parser
