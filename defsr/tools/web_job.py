"""What ``defsr-web`` does with photographs: one job from files to what the page shows."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from torch import Tensor
from torch.nn import functional as F

from defsr.images.levels import to_levels
from defsr.images.photo import read_photo
from defsr.images.photo_writer import check_writable, losses, write_photo
from defsr.methods.base import StageProgress, say_nothing
from defsr.methods.build import MIN_TILE
from defsr.ops.resize import upsample_bicubic
from defsr.tools.upscale import pick, told_lines
from defsr.upscaling import NETWORK, Upscaler
from defsr.utils.checks import check_above, check_int
from defsr.utils.cli import visible

MOST_SHOWN = 2**24  # pixels of an image that a browser is given; the file has all
KEPT_NETWORKS = 2  # with what was chosen last
DOING = {
    'choose': 'Choosing references',
    'enhance': 'Enhancing the photo',
    'rectify': 'Finding it in the references',
    'references': 'Reading textures',
    'match': 'Matching patches',
    'restore': 'Restoring',
}


class StoppedError(Exception):
    """Somebody has pressed Stop."""


@dataclass(frozen=True)
class Settings:
    """What a person chooses on the page; names and limits are those of ``defsr-upscale``.

    Attributes:
        rectify: False: references are taken as they are.

    Raises:
        ValueError: for a field of the page that is empty, and for too small a number.
    """

    quality: str = 'auto'
    rectify: bool = True
    best: int = 4
    tile: int = 128
    overlap: int = 16
    max_megapixels: float = 64.0
    max_ref_megapixels: float = 4.0

    def __post_init__(self) -> None:
        for name, least in {'best': 1, 'tile': MIN_TILE, 'overlap': 0}.items():
            check_int(name, getattr(self, name), least)
        for name in ('max_megapixels', 'max_ref_megapixels'):
            check_above(name, getattr(self, name), 0)


@dataclass(frozen=True)
class Shown:
    """What a job gives to look at.

    Attributes:
        file: the result, whole, as ``defsr-upscale`` writes it.
        before, after: bicubic and result, (H, W, 3) RGB uint8 of one size.
        maps: as of ``rectified_maps``; nothing if no reference was confirmed.
        lines: what became of the references and of what the photo holds beside pixels.
    """

    file: Path
    before: np.ndarray
    after: np.ndarray
    maps: Mapping[str, np.ndarray]
    lines: Sequence[str]

    @property
    def matches(self) -> list[tuple[np.ndarray, str]]:
        """Pictures of the confirmed matches with their titles."""
        names = [name for name in self.maps if name.startswith('matches_')]
        return [(self.maps[name], f'Reference {name.rpartition("_")[2]}') for name in names]


class Remaining:
    """Tells of long work what is done now and how long that still takes.

    Args:
        clock: seconds.

    Example:
        >>> seconds = iter([0.0, 10.0])
        >>> remaining = Remaining(lambda: next(seconds))
        >>> remaining('restore', 0, 4), remaining('restore', 1, 4)
        ('Restoring', 'Restoring, about 30 s left')
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._stage, self._start = '', 0.0

    def __call__(self, stage: str, done: int, total: int) -> str:
        """A line for ``done`` of ``total`` of a stage."""
        now, text = self._clock(), DOING.get(stage, stage)
        if stage != self._stage:
            self._stage, self._start = stage, now
        left = (now - self._start) * (total - done) / max(done, 1)
        if not left:
            return text
        return f'{text}, about {f"{left / 60:.0f} min" if left >= 120 else f"{left:.0f} s"} left'


def upscalers(
    weights: str | None = None, device: str = 'auto', options: Path | None = None
) -> Callable[[str, bool], Upscaler]:
    """Makes the ``Upscaler`` of (quality, rectify), and keeps the last ones. Errors as of it."""

    @lru_cache(KEPT_NETWORKS)
    def build(quality: str, rectify: bool) -> Upscaler:
        return Upscaler(weights, device, options or NETWORK, quality=quality, rectify=rectify)

    return build


def enlarge(
    upscaler: Upscaler,
    photo: str | Path,
    references: Sequence[str | Path],
    settings: Settings,
    folder: Path,
    progress: StageProgress = say_nothing,
) -> Shown:
    """A photo and its references -> what is shown.

    Args:
        upscaler: built with the quality and the rectifying of ``settings``.
        photo: its file.
        references: theirs.
        settings: the rest of what was chosen.
        folder: which there is, and where the result is written.
        progress: called as (stage, done, total).

    Raises:
        ValueError, OSError: for what ``defsr-upscale`` refuses, in its words.
    """
    if not references:
        raise ValueError('No reference is given, but at least one is needed.')
    start = time.perf_counter()
    path = Path(photo)
    file = folder / f'{path.stem}_x{upscaler.scale}.png'
    given = read_photo(path, settings.max_megapixels)
    height, width = (upscaler.scale * side for side in given.size)
    check_writable(file, (height, width))
    with told_lines('basicsr') as lines:
        paths = [Path(ref) for ref in references]
        refs = pick(settings, upscaler, given, paths, progress, lines.append)
        result, maps = upscaler.with_maps(
            given,
            refs,
            tile=settings.tile,
            overlap=settings.overlap,
            max_ref_megapixels=settings.max_ref_megapixels,
            max_megapixels=settings.max_megapixels,
            progress=progress,
        )
    write_photo(file, result)
    seconds = time.perf_counter() - start
    lines += [*losses(file, given), f'{height}x{width} (HxW), {seconds:.0f} s']
    bicubic = upsample_bicubic(given.rgb, upscaler.scale).clamp(0, 1)
    return Shown(file, shown(bicubic), shown(result.rgb), maps, [visible(x) for x in lines])


def shown(image: Tensor, most: int = MOST_SHOWN) -> np.ndarray:
    """(1,3,H,W) in [0, 1] -> (H',W',3) uint8, reduced to about ``most`` pixels if it has more."""
    height, width = image.shape[-2:]
    factor = (most / (height * width)) ** 0.5
    if factor < 1:
        size = [max(1, round(side * factor)) for side in (height, width)]
        image = F.interpolate(image, size=size, mode='bicubic', antialias=True).clamp(0, 1)
    return to_levels(image)
