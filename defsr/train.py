"""Train from an option file: ``python defsr/train.py -opt options/train_DEF_x4.yml``."""

import os
from contextlib import ExitStack

from defsr.utils.cli import run_cli


def train() -> None:
    """BasicSR's training loop; experiments go under the current directory."""
    from defsr import compat  # PyTorch, which run_cli has to see to
    from defsr.utils import distributed
    from defsr.utils.allocator import keep_freed_memory

    with ExitStack() as held:
        compat.patch_pipelines(held)
        keep_freed_memory()
        from basicsr.train import train_pipeline

        train_pipeline(os.getcwd())
    distributed.leave()


def main() -> None:
    """Entry point of ``defsr-train``."""
    run_cli(train)


if __name__ == '__main__':
    main()
