"""Put the demo's images in place: ``python -m defsr.tools.demo_data``.

scikit-image, which BasicSR needs anyway, ships a rectified stereo pair of a motorcycle: the left
image becomes the ground truth, the right one the reference.
"""

from __future__ import annotations

import shutil
from importlib.metadata import version
from pathlib import Path

from defsr.utils.cli import run_cli, tell
from defsr.utils.files import atomic_path

FOLDER = Path('datasets/demo')
PAIR = {'gt': 'motorcycle_left.png', 'ref': 'motorcycle_right.png'}


def copy_demo_images(folder: Path = FOLDER) -> Path:
    """Copy the stereo pair to ``folder/{gt,ref}/motorcycle.png``, unless it is there.

    Raises:
        FileNotFoundError: if the installed scikit-image does not ship the pair.
    """
    import skimage

    source = Path(skimage.__file__).parent / 'data'
    for role, name in PAIR.items():
        target = folder / role / 'motorcycle.png'
        if target.exists():
            continue
        if not (source / name).is_file():
            raise FileNotFoundError(
                f'scikit-image {version("scikit-image")} has no {name} in {source}. '
                'Install scikit-image 0.18 or later.'
            )
        with atomic_path(target) as temporary:
            shutil.copyfile(source / name, temporary)
    return folder


def main() -> None:
    """Entry point."""
    run_cli(lambda: tell(f'Demo images: {copy_demo_images()}'))


if __name__ == '__main__':
    main()
