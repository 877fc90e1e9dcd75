"""Folders of ranked images: what several methods make of the same input, and NIQE's opinion."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import numpy as np
from basicsr.data import build_dataset
from basicsr.metrics import calculate_niqe
from basicsr.utils import tensor2img
from tqdm import tqdm

from defsr.benchmark.options import Benchmark
from defsr.benchmark.runner import restorer_of
from defsr.data.pair_folder import folder_in_making, write_unsynced
from defsr.data.rank_labels import LABELS, RankLabels, write_rank_labels
from defsr.data.ref_triplet_dataset import all_of
from defsr.data.triplet_options import degradation_of
from defsr.images.png import encode_png
from defsr.utils.checks import check_at_least, check_int, check_name

BORDER = 4  # pixels that NIQE leaves out, as published
SMALLEST = 2 * 96 + 2 * BORDER  # two of NIQE's blocks each way: of fewer there is no covariance


def make_ranked(
    benchmark: Benchmark,
    out: str | Path,
    *,
    size: int = 296,
    stride: int = 148,
    least: float = 0.1,
    force: bool = False,
) -> tuple[int, int]:
    """Write ``out/<method>/0.png`` ... and ``out/niqe.csv``, all of them or none.

    Args:
        benchmark: its methods restore the inputs of its data sets.
        out: folder to make.
        size: side of the patches that are cut out of the results, in pixels, >= 200.
        stride: from one patch to the next, >= 1.
        least: patches are left out if two of their scores differ by less.
        force: replace an earlier result in ``out``.

    Returns:
        How many patches were kept, and how many there were.

    Raises:
        ValueError: for settings out of range, less than two methods, and if nothing is kept.
        FileNotFoundError, ValueError: for weights and images that are missing or do not fit.
    """
    check_int('--size', size, SMALLEST)
    check_int('--stride', stride, 1)
    check_at_least('--least', least, 0)
    methods = [check_name('A name in methods', label) for label in benchmark.methods]
    if len(methods) < 2:
        raise ValueError('methods has one entry, but ranking takes two or more.')
    scores: dict[str, list[float]] = {}
    tried = 0
    with folder_in_making(out, force, {LABELS, *methods}) as building:
        for method in methods:
            (building / method).mkdir(parents=True)
        for versions in _restored(benchmark):
            for patches in _patches(versions, size, stride):
                tried += 1
                found = [niqe(patch) for patch in patches]
                if not _apart(found, least):
                    continue
                name = f'{len(scores)}.png'
                for method, patch in zip(methods, patches, strict=True):
                    write_unsynced(building / method / name, encode_png(patch))
                scores[name] = found
        if not scores:
            raise ValueError(
                f'Of {tried} patches none is of use: results are smaller than --size {size}, or '
                f'scores differ by less than --least {least}. Lower one of them.'
            )
        write_rank_labels(building / LABELS, RankLabels(methods, scores))
    return len(scores), tried


def niqe(patch: np.ndarray) -> float:
    """NIQE of (H,W,3) BGR uint8 without its border; NaN where there is nothing to judge."""
    try:
        with np.errstate(all='ignore'):
            return float(calculate_niqe(patch, BORDER))
    except np.linalg.LinAlgError:  # of plain areas
        return math.nan


def _restored(benchmark: Benchmark) -> Iterator[list[np.ndarray]]:
    """(H,W,3) BGR uint8 by each method, image after image."""
    for block in benchmark.datasets.values():
        degradation = degradation_of(block)
        restorers = [restorer_of(c, benchmark, degradation) for c in benchmark.methods.values()]
        for item in tqdm(build_dataset(dict(block)), unit='image'):
            refs = [ref[None] for ref in all_of(item, 'ref')]
            yield [tensor2img(restorer(item['lq'][None], refs)) for restorer in restorers]


def _patches(versions: list[np.ndarray], size: int, stride: int) -> Iterator[list[np.ndarray]]:
    height, width = versions[0].shape[:2]
    for top in range(0, height - size + 1, stride):
        for left in range(0, width - size + 1, stride):
            yield [v[top : top + size, left : left + size] for v in versions]


def _apart(scores: list[float], least: float) -> bool:
    return all(abs(a - b) >= least for a, b in combinations(scores, 2))  # so not for NaN
