"""Methods x data sets -> PSNR-Y, SSIM-Y, parameters, seconds per megapixel, loss.

    defsr-benchmark -opt options/benchmark_small.yml

Tables and a figure go to results/<name>/. The same command goes on where it was stopped or killed,
and measures anew only what has changed. See docs/benchmark.md.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from defsr.config.files import load_options, override_options
from defsr.utils.checks import check_choice
from defsr.utils.cli import run_cli, tell
from defsr.utils.stopping import StopRequest


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
        '--force_yml', nargs='+', default=[], metavar='KEY=VALUE',
        help='change options, as in tile=128',
    )  # fmt: skip
    return parser.parse_args()


def run() -> None:
    """Read the command line, measure, report; exit status 1 if a method has failed."""
    args = parse_arguments()
    # PyTorch takes seconds, which --help need not wait.
    from defsr.benchmark.examples import Examples
    from defsr.benchmark.html_report import HtmlReport
    from defsr.benchmark.options import read_benchmark
    from defsr.benchmark.report import Report
    from defsr.benchmark.runner import GO_ON, Runner, collect

    benchmark = read_benchmark(override_options(load_options(args.opt), args.force_yml))
    for name in args.methods or ():
        check_choice('--methods', name, list(benchmark.methods))
    for name in args.datasets or ():
        check_choice('--datasets', name, list(benchmark.datasets))
    folder = Path('results') / benchmark.name
    stop = StopRequest()
    stop.listen()
    runner = Runner(benchmark, folder, args.methods, args.datasets, stop)
    try:
        if not args.report_only:
            runner.run()
    finally:
        command = f'defsr-benchmark -opt {args.opt}'
        rows = collect(benchmark, folder)
        report = Report(benchmark, rows, runner.failures, command)
        report.write(folder)
    if benchmark.examples:
        Examples(benchmark, folder, rows).draw(folder / 'examples.png')
    if benchmark.report:
        HtmlReport(report, folder).write(folder / 'report.html')
    sys.stdout.write(report.markdown())
    tell(f'Tables and figure: {folder}/results.md, .csv, .json, .png')
    if benchmark.report:
        tell(f'Tables and images on a page: {folder}/report.html')
    if runner.failures:
        labels = sorted({label or name for label, name, _ in runner.failures})
        tell(f'{len(runner.failures)} failed, of {", ".join(labels)}: see above. {GO_ON}')
        raise SystemExit(1)


def main() -> None:
    """Entry point of ``defsr-benchmark``."""
    run_cli(run)


if __name__ == '__main__':
    main()
