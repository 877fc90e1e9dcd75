"""Versions of one image by several methods, with the score of each, to train a Ranker."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from basicsr.utils.registry import DATASET_REGISTRY
from torch import Tensor
from torch.utils.data import Dataset

from defsr.data.image_source import ImageSource
from defsr.data.rank_labels import LABELS, read_rank_labels
from defsr.data.triplet_options import BASICSR_KEYS, backend_of, place_of
from defsr.utils.checks import check_keys
from defsr.utils.paths import expanded

KEYS = BASICSR_KEYS | {'dataroot_ranked'}


@DATASET_REGISTRY.register()
class RankedImageDataset(Dataset):
    """In training two versions of an image, drawn at random; in validation all of them.

    An item has ``images`` (2 or more, 3, H, W), RGB float32 in [0, 1], their ``scores`` (2 or
    more), lower is better, and ``lq_path`` and ``gt_path``, both the first one's path. A score is
    one of a whole image: nothing is cut or turned.

    Args:
        opt: the data set's block: ``dataroot_ranked``, a folder that
            ``defsr.tools.make_ranked`` made (``niqe.csv`` and a folder of images for each method),
            ``io_backend: {type: disk}``, and BasicSR's keys.

    Raises:
        ValueError: for unknown options, and a damaged table.
        FileNotFoundError: for folders and images that do not exist.
    """

    gives = ('ranks',)

    def __init__(self, opt: Mapping[str, Any]) -> None:
        where = place_of(opt)
        self.check(where, opt)
        self.opt = opt
        option, root = f'{where}:dataroot_ranked', expanded(opt['dataroot_ranked'])
        if not (root / LABELS).is_file():
            raise FileNotFoundError(
                f'{option} is {root}, which has no {LABELS}. Make it with '
                '`python -m defsr.tools.make_ranked`.'
            )
        labels = read_rank_labels(Path(root, LABELS))
        self.scores = labels.scores
        self.names = [*labels.scores]
        self.sources = [ImageSource(option, Path(root, method)) for method in labels.methods]
        for source in self.sources:
            missing = [*{*self.names}.difference(source.names())]
            if missing:
                raise FileNotFoundError(f'{option}: {source.path(min(missing))} does not exist.')

    @classmethod
    def check(cls, where: str, block: Mapping[str, Any]) -> None:
        """Refuse a block that the constructor would; reads no folder."""
        check_keys(where, block, KEYS)
        root = block.get('dataroot_ranked')
        if not isinstance(root, str) or not root:
            raise ValueError(f'{where}:dataroot_ranked is {root!r}, but must be a folder.')
        if backend_of(where, block) != 'disk':
            raise ValueError(f'{where}:io_backend:type is lmdb, but must be disk.')

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> dict[str, Tensor | str]:
        name, chosen = self.names[index], [*range(len(self.sources))]
        if self.opt['phase'] == 'train':
            chosen = random.sample(chosen, 2)
        path = self.sources[chosen[0]].path(name)
        return {
            'images': torch.stack([self.sources[i].read(name) for i in chosen]),
            'scores': torch.tensor([self.scores[name][i] for i in chosen]),
            'lq_path': path,
            'gt_path': path,
        }
