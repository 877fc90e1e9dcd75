"""The reference of all that is public, HTML made of the docstrings by pdoc: ``make docs``.

python docs/reference.py site
"""

from __future__ import annotations

import sys
import warnings
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules, walk_packages

import pdoc

import defsr
from defsr.utils.cli import run_cli, tell


def main() -> None:
    """Every module, and what packages hand on, into the folder that is named."""
    folder = Path(sys.argv[1])
    names = [defsr.__name__]
    names += [module.name for module in walk_packages(defsr.__path__, prefix='defsr.')]
    for name in names:
        package = import_module(name)
        if hasattr(package, '__all__'):
            for public in package.__all__:  # the first look-up is what imports the lazy ones
                setattr(package, public, getattr(package, public))
            inside = [module.name for module in iter_modules(getattr(package, '__path__', ()))]
            package.__all__ = [*package.__all__, *inside]  # pdoc shows no other
    # Of types whose names only checkers import pdoc shows the text.
    warnings.filterwarnings('ignore', 'Error parsing type annotation')
    pdoc.render.configure(docformat='google', footer_text=f'defsr {defsr.__version__}')
    pdoc.pdoc('defsr', output_directory=folder)
    tell(f'{len(names)} modules: {folder}/index.html')


if __name__ == '__main__':
    run_cli(main)
