"""Test from an option file: ``python defsr/test.py -opt options/test_DEF.yml``."""

import os
from contextlib import ExitStack

from defsr.utils.cli import run_cli


def test() -> None:
    """BasicSR's test loop; results go under the current directory."""
    from defsr import compat  # PyTorch, which run_cli has to see to
    from defsr.utils import distributed

    with ExitStack() as held:
        compat.patch_pipelines(held)
        from basicsr.test import test_pipeline

        test_pipeline(os.getcwd())
    distributed.leave()


def main() -> None:
    """Entry point of ``defsr-test``."""
    run_cli(test)


if __name__ == '__main__':
    main()
