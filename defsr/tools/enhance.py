"""Fill caches of detail-enhanced images, which training and tests read as ``dataroot_de``.

    defsr-enhance -opt options/enhance_CUFED.yml

The same command goes on where it was stopped or killed. See docs/enhance.md.
"""

from __future__ import annotations

import argparse

from defsr.config.files import load_options, override_options
from defsr.utils.cli import run_cli
from defsr.utils.stopping import StopRequest


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog='defsr-enhance', description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add = parser.add_argument
    add('-opt', required=True, metavar='FILE', help='option file')
    add(
        '--launcher', choices=('none', 'pytorch', 'slurm'), default='none',
        help='pytorch under torchrun, slurm under srun: the work is divided among the processes',
    )  # fmt: skip
    add(
        '--force_yml', nargs='+', default=[], metavar='KEY=VALUE',
        help='change options, as in images_per_batch=4 or path:pretrain_network_e=my.pth',
    )  # fmt: skip
    return parser.parse_args()


def run() -> None:
    """Read the command line and fill the caches."""
    args = parse_arguments()
    # PyTorch takes seconds, which --help need not wait.
    import torch

    from defsr.enhance.job import GO_ON, fill_caches
    from defsr.enhance.options import check_enhance_options
    from defsr.utils import distributed

    opt = override_options(load_options(args.opt), args.force_yml)
    if args.launcher != 'none':
        check_enhance_options(opt)
        use_cuda = torch.cuda.is_available() and opt.get('num_gpu') != 0
        dist_params = opt.get('dist_params') or {}
        distributed.init_dist(args.launcher, use_cuda=use_cuda, dist_params=dist_params)
    stop = StopRequest()
    stop.listen()
    try:
        fill_caches(opt, stop)
    except distributed.LostProcessError:
        if stop.signal:  # as the other one was
            raise SystemExit(128 + stop.signal) from None
        raise OSError(
            f'Another process of this run has ended; look at its last message. {GO_ON}'
        ) from None
    distributed.leave()


def main() -> None:
    """Entry point of ``defsr-enhance``."""
    run_cli(run)


if __name__ == '__main__':
    main()
