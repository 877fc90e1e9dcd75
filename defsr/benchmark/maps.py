"""What a method has made of its references, as pictures that are made once and kept."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from defsr.benchmark.options import Benchmark
from defsr.benchmark.rows import image_path
from defsr.benchmark.runner import restorer_of
from defsr.data.ref_triplet_dataset import all_of
from defsr.data.triplet_options import degradation_of
from defsr.images.png import write_png
from defsr.methods.build import Restorer
from defsr.methods.rectified_maps import rectified_maps
from defsr.utils.files import atomic_path
from defsr.utils.strangers import is_block, read_json

KEPT = {'text': str, 'maps': list}


class Maps(NamedTuple):
    """The maps of an image.

    Attributes:
        text: what became of its references, for people.
        pictures: as of ``rectified_maps``, but BGR.
    """

    text: str
    pictures: Mapping[str, np.ndarray]


class MapMaker:
    """Maps of a benchmark's method, each kept below ``maps/`` with what made it in its name.

    Args:
        benchmark: the options.
        folder: of its results.
        method: label of one that rectifies.
    """

    def __init__(self, benchmark: Benchmark, folder: Path, method: str) -> None:
        self.benchmark, self.folder, self.method = benchmark, folder, method
        self._restorers: dict[str, Restorer] = {}

    def of(self, row: Mapping[str, Any], item: Mapping[str, Any]) -> Maps:
        """Maps of what was measured, from their files or anew.

        Args:
            row: a measured row of the method.
            item: what the data set gave for it.

        Raises:
            ValueError, OSError, RuntimeError: as the method does.
        """
        name = image_path(self.folder, row).stem
        stem = self.folder / 'maps' / str(row['dataset']) / name
        return _kept(stem) or self._made(row['dataset'], item, stem)

    def _made(self, dataset: str, item: Mapping[str, Any], stem: Path) -> Maps:
        degradation = degradation_of(self.benchmark.datasets[dataset])
        if degradation.name not in self._restorers:
            made = restorer_of(self.benchmark.methods[self.method], self.benchmark, degradation)
            assert isinstance(made, Restorer), 'read_benchmark refuses what does not rectify'
            self._restorers[degradation.name] = made
        refs = [ref[None] for ref in all_of(item, 'ref')]
        found = self._restorers[degradation.name].restore(item['lq'][None], refs)
        pictures = {name: x[..., ::-1] for name, x in rectified_maps(found, refs).items()}
        text = 'no reference was confirmed, the result is the enhanced input.'
        if pictures and found.rho is not None:
            views = {view.number: view.confirmed.number for view in found.views}
            number, rho = sum(views.values()), float(found.rho.mean())
            text = f'{number} matches confirmed, rho {rho:.2f} over the whole picture.'
        for name, picture in pictures.items():
            write_png(picture, _file(stem, name))
        with atomic_path(_file(stem, 'maps', 'json')) as temporary:  # the last: all is there
            temporary.write_text(json.dumps({'text': text, 'maps': [*pictures]}), encoding='utf-8')
        return Maps(text, pictures)


def _file(stem: Path, name: str, ending: str = 'png') -> Path:
    return stem.with_name(f'{stem.name}_{name}.{ending}')


def _kept(stem: Path) -> Maps | None:
    """What an earlier report has made; None unless all of it is there."""
    try:
        kept = read_json(_file(stem, 'maps', 'json'))
    except (OSError, ValueError):
        return None
    if not isinstance(kept, dict) or not is_block(kept, KEPT):
        return None
    pictures = {}
    for name in kept['maps']:
        picture = cv2.imread(str(_file(stem, name))) if str(name).isidentifier() else None
        if picture is None:
            return None
        pictures[name] = picture
    return Maps(kept['text'], pictures)
