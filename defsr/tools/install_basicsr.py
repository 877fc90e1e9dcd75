"""Install BasicSR into this Python with pip: ``python -m defsr.tools.install_basicsr``.

Needed from Python 3.13 on, where pip alone cannot build it; quicker before, since PyTorch is not
fetched a second time for the build. Arguments are passed on to pip, as ``--quiet``.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

BASICSR = 'basicsr==1.4.2'
# basicsr 1.4.2's setup.py reads its version with exec() and then locals(), which has been another
# dict since Python 3.13 (PEP 667). Python imports a module of this name when it starts, so that
# exec() can mean what it meant while pip runs the build.
SITECUSTOMIZE = """
import builtins, sys

def exec_into_caller(code, *args, exec=builtins.exec, **kwargs):
    if not args and not kwargs:
        frame = sys._getframe(1)
        args = frame.f_globals, frame.f_locals
    exec(code, *args, **kwargs)

builtins.exec = exec_into_caller
"""


def install(arguments: list[str]) -> int:
    """Run pip with ``arguments`` and return its exit status."""
    pip = [sys.executable, '-m', 'pip', 'install']
    status = subprocess.call([*pip, 'setuptools', 'wheel', *arguments])
    if status:
        return status
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, 'sitecustomize.py').write_text(SITECUSTOMIZE, encoding='utf-8')
        paths = [folder, *filter(None, [os.environ.get('PYTHONPATH')])]
        environment = os.environ | {'PYTHONPATH': os.pathsep.join(paths)}
        build = ['--no-build-isolation', '--use-pep517', BASICSR]
        status = subprocess.call([*pip, *build, *arguments], env=environment)
    missing = None if status else _missing_library()
    if missing:
        sys.stderr.write(f'No windows on this machine ({missing}): OpenCV is taken without them.\n')
        headless = ['--force-reinstall', '--no-deps', 'opencv-python-headless']
        status = subprocess.call([*pip, *headless, *arguments])
    return status


def _missing_library() -> str | None:
    """What OpenCV wants of the system and does not find, as servers and containers lack it."""
    command = [sys.executable, '-c', 'import cv2']
    errors = subprocess.run(command, capture_output=True, text=True, check=False).stderr
    return errors.strip().splitlines()[-1] if '.so' in errors else None


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    sys.exit(install(parser.parse_known_args()[1]))


if __name__ == '__main__':
    main()
