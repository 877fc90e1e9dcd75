"""Fill caches of detail-enhanced images, which training and tests read as ``dataroot_de``.

    defsr-enhance -opt options/enhance_CUFED.yml

The same command goes on where it was stopped or killed. See docs/caches.md.
"""

from __future__ import annotations

from defsr.tools.option_jobs import Job, run_option_job
from defsr.utils.cli import run_cli


def _load() -> Job:
    from defsr.enhance.job import fill_caches
    from defsr.enhance.options import check_enhance_options

    return check_enhance_options, fill_caches


def main() -> None:
    """Entry point of ``defsr-enhance``."""
    run_cli(lambda: run_option_job('defsr-enhance', __doc__, _load))


if __name__ == '__main__':
    main()
