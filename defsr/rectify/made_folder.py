"""A folder of rectified training pairs from one of photographs: ``defsr-make-rectified``."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from tqdm import tqdm

from defsr.data.image_source import ImageSource, image_key
from defsr.data.pair_folder import folder_in_making, map_names, write_unsynced
from defsr.data.pair_synthesis import pair_generators
from defsr.diffusion.degradation import Degradation
from defsr.images.levels import to_levels
from defsr.images.png import encode_png
from defsr.rectify.made_view import make_view
from defsr.utils.checks import check_at_least

ROLES = ('gt', 'ref_rect', 'ref_mask')


def make_rectified(
    photos: str | Path,
    out: str | Path,
    degradation: Degradation,
    *,
    per_image: int = 1,
    seed: int = 0,
    workers: int = 1,
    force: bool = False,
) -> int:
    """Write ``out/gt``, ``out/ref_rect`` and ``out/ref_mask``, all of them or none.

    A view depends on the seed, the photograph's file name, its number and the names of the others.

    Args:
        photos: folder of two photographs or more.
        out: folder to make.
        degradation: of the inputs.
        per_image: views of each photograph, >= 1.
        seed: of everything random, >= 0.
        workers: processes, >= 1.
        force: replace an earlier result in ``out``.

    Returns:
        How many there are.

    Raises:
        FileExistsError: if ``out`` is not empty and ``force`` is off.
        ValueError: for numbers out of range, fewer than two photographs, and if ``out`` holds
            anything that this tool does not write.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from PIL import Image
        >>> with TemporaryDirectory() as folder:
        ...     photos, out = Path(folder, 'photos'), Path(folder, 'pairs')
        ...     photos.mkdir()
        ...     for name in ('one.png', 'two.png'):
        ...         Image.effect_noise((128, 96), 40).convert('RGB').save(photos / name)
        ...     number = make_rectified(photos, out, Degradation('matlab', 4))
        ...     number, sorted(path.relative_to(out).as_posix() for path in out.glob('*/one*'))
        (2, ['gt/one_0.png', 'ref_mask/one_0.png', 'ref_rect/one_0.png'])
    """
    check_at_least('per_image', per_image, 1)
    check_at_least('seed', seed, 0)
    check_at_least('workers', workers, 1)
    source = ImageSource('--photos', photos)
    names = source.names()
    if len(names) < 2:
        raise ValueError(f'--photos {photos} has {len(names)} photograph. Give two or more.')
    with folder_in_making(out, force, ROLES) as building:
        for role in ROLES:
            (building / role).mkdir(parents=True)
        work = partial(_make_views, source.root, names, degradation, per_image, seed, building)
        return sum(tqdm(map_names(work, names, workers), total=len(names), unit='photo'))


def _make_views(
    root: str,
    names: Sequence[str],
    degradation: Degradation,
    per_image: int,
    seed: int,
    folder: Path,
    name: str,
) -> int:
    """Write every view of one photograph, in whatever process."""
    if torch.multiprocessing.parent_process() is not None:
        torch.set_num_threads(1)
    source = ImageSource('--photos', root)
    photo = source.read(name)[None]
    others = [other for other in names if other != name]
    for k in range(per_image):
        rng, _ = pair_generators(seed, name, k)
        other = source.read(others[int(rng.integers(len(others)))])[None]
        with torch.no_grad():
            view = make_view(photo, other, degradation, rng)
        mask = view.valid[0, 0, ..., None].numpy().repeat(3, axis=-1) * 255
        images = (to_levels(view.gt), to_levels(view.image), mask.astype('uint8'))
        for role, levels in zip(ROLES, images, strict=True):
            path = folder / role / f'{image_key(name)}_{k}.png'
            write_unsynced(path, encode_png(levels[..., ::-1]))
    return per_image
