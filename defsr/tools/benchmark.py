"""Methods x data sets -> PSNR-Y, SSIM-Y, parameters, seconds per megapixel, loss.

    defsr-benchmark -opt options/benchmark_small.yml

Tables and a figure go to results/<name>/; several processes divide the images:

    torchrun --nproc_per_node=2 -m defsr.tools.benchmark -opt FILE --launcher pytorch

The same command goes on where it was stopped or killed,
and measures anew only what has changed. See docs/benchmark.md.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from defsr.config.files import load_options, override_options
from defsr.utils.checks import check_choice
from defsr.utils.cli import run_cli, tell
from defsr.utils.stopping import StopRequest

if TYPE_CHECKING:
    from defsr.benchmark.options import Benchmark
    from defsr.benchmark.report import Report


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog='defsr-benchmark', description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add = parser.add_argument
    add('-opt', required=True, metavar='FILE', help='option file')
    add('--methods', nargs='+', metavar='LABEL', help='measure these only')
    add('--datasets', nargs='+', metavar='NAME', help='measure on these only')
    add('--report-only', action='store_true', help='write the tables of what is measured')
    add(
        '--launcher', choices=('none', 'pytorch', 'slurm'), default='none',
        help='pytorch under torchrun, slurm under srun: images are divided among the processes',
    )  # fmt: skip
    add(
        '--force_yml', nargs='+', default=[], metavar='KEY=VALUE',
        help='change options, as in tile=128',
    )  # fmt: skip
    return parser.parse_args()


def run() -> None:
    """Read the command line, measure, report; exit status 1 if a method has failed."""
    args = parse_arguments()
    # PyTorch takes seconds, which --help need not wait.
    from defsr.benchmark.options import read_benchmark
    from defsr.benchmark.report import Report
    from defsr.benchmark.rows import collect
    from defsr.benchmark.runner import GO_ON, Runner
    from defsr.utils import distributed

    benchmark = read_benchmark(override_options(load_options(args.opt), args.force_yml))
    for name in args.methods or ():
        check_choice('--methods', name, list(benchmark.methods))
    for name in args.datasets or ():
        check_choice('--datasets', name, list(benchmark.datasets))
    folder = Path('results') / benchmark.name
    if args.launcher != 'none':
        join(args.launcher, benchmark)
    stop = StopRequest()
    stop.listen()
    runner = Runner(benchmark, folder, args.methods, args.datasets, stop)
    try:
        if not args.report_only:
            runner.run()
    except distributed.LostProcessError:
        if stop.signal:  # as the other one was
            raise SystemExit(128 + stop.signal) from None
        raise OSError(f'Another process has ended; look at its last message. {GO_ON}') from None
    finally:
        if distributed.is_main():
            rows = collect(benchmark, folder)
            command = f'defsr-benchmark -opt {args.opt}'
            report = Report(benchmark, rows, runner.failures, command)
            report.write(folder)
    is_main = distributed.is_main()
    distributed.leave()
    if is_main:
        show(report, folder)


def show(report: Report, folder: Path) -> None:
    """Pictures, the page and the tables on the screen; exit status 1 for failures."""
    from defsr.benchmark.examples import Examples
    from defsr.benchmark.html_report import HtmlReport
    from defsr.benchmark.runner import GO_ON

    benchmark, failures = report.benchmark, report.failures
    if benchmark.examples:
        Examples(benchmark, folder, report.rows).draw(folder / 'examples.png')
    if benchmark.report:
        HtmlReport(report, folder).write(folder / 'report.html')
    sys.stdout.write(report.markdown())
    tell(f'Tables and figure: {folder}/results.md, .csv, .json, .png')
    if benchmark.report:
        tell(f'Tables and images on a page: {folder}/report.html')
    if failures:
        labels = sorted({label or name for label, name, _ in failures})
        tell(f'{len(failures)} failed, of {", ".join(labels)}: see above. {GO_ON}')
        raise SystemExit(1)


def join(launcher: str, benchmark: Benchmark) -> None:
    """Join the processes that a launcher starts; on GPUs each has its own.

    Raises:
        ValueError: for a benchmark without ``timed``, and as of ``init_dist``.
        OSError: if the processes do not reach each other.
    """
    from defsr.utils import distributed
    from defsr.utils.devices import has_gpu

    if not benchmark.timed:
        raise ValueError(
            'timed is missing, which --launcher needs: one process measures the data sets named '
            'there, while the others wait. Set it in the option file, as in '
            f'timed: [{next(iter(benchmark.datasets))}].'
        )
    # No gradient is exchanged: numbers go through gloo.
    use_cuda = has_gpu(benchmark.num_gpu)
    distributed.init_dist(launcher, use_cuda=use_cuda, dist_params={'backend': 'gloo'})


def main() -> None:
    """Entry point of ``defsr-benchmark``."""
    run_cli(run)


if __name__ == '__main__':
    main()
