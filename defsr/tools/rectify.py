"""Bring the references of a data set into the frames of their inputs, once, for training.

    defsr-rectify -opt options/rectify_CUFED.yml

Data sets read the result as ``dataroot_ref_rect`` and ``dataroot_ref_mask``. The same command goes
on where it was stopped or killed. See docs/rectify.md.
"""

from __future__ import annotations

from defsr.tools.option_jobs import Job, run_option_job
from defsr.utils.cli import run_cli


def _load() -> Job:
    from defsr.enhance.rectified import check_rectify_options, rectify_data_sets

    return check_rectify_options, rectify_data_sets


def main() -> None:
    """Entry point of ``defsr-rectify``."""
    run_cli(lambda: run_option_job('defsr-rectify', __doc__, _load))


if __name__ == '__main__':
    main()
