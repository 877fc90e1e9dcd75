"""Copy the option files and pair lists that come with the package, to read and to change them.

    defsr-options             # into ./options and ./datasets
    defsr-options my/project

All commands find shipped files by name (-opt options/test_DEF_demo.yml) from any folder; a file of
the same name in the current directory comes first. Files that are there are left as they are.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from defsr.utils.cli import run_cli, tell
from defsr.utils.files import atomic_path
from defsr.utils.paths import SHIPPED

COPIED = ('options/**/*.yml', 'datasets/*.txt', 'datasets/small/*.txt')


def copy_options(folder: Path) -> tuple[int, int]:
    """Copy what ``folder`` lacks; return the numbers of files copied and of files there before."""
    names = sorted(path.relative_to(SHIPPED) for glob in COPIED for path in SHIPPED.glob(glob))
    missing = [name for name in names if not (folder / name).exists()]
    for name in missing:
        with atomic_path(folder / name) as temporary:
            shutil.copyfile(SHIPPED / name, temporary)
    return len(missing), len(names) - len(missing)


def copy() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(
        prog='defsr-options', description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        'folder', type=Path, nargs='?', default=Path(), help='where to (default: here)'
    )
    folder = parser.parse_args().folder
    copied, kept = copy_options(folder)
    tell(f'{folder.absolute()}: {copied} files copied, {kept} there already.')


def main() -> None:
    """Entry point of ``defsr-options``."""
    run_cli(copy)


if __name__ == '__main__':
    main()
