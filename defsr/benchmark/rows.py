"""Rows of a benchmark: what identifies them, the file of what is measured, their images."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from os import path as osp
from pathlib import Path
from typing import Any

import cv2
from basicsr.data import build_dataset

from defsr.benchmark.options import Benchmark, Candidate
from defsr.config.files import load_options
from defsr.methods.build import method_class, wants_weights
from defsr.metrics.perceptual import PERCEPTUAL
from defsr.utils.fingerprints import digest_of, digest_of_file, plain
from defsr.utils.paths import find_pretrained
from defsr.utils.strangers import is_block, is_number, parse_json

METRICS = {
    'psnr': {'type': 'calculate_psnr', 'crop_border': 4, 'test_y_channel': True},
    'ssim': {'type': 'calculate_ssim', 'crop_border': 4, 'test_y_channel': True},
}
MEASURED = (*METRICS, 'seconds', 'megapixels', 'parameters')
PERHAPS = ('memory', 'macs', *PERCEPTUAL)  # of which some rows say nothing
FORMAT = 1  # to be raised when the same options give other numbers
FAULTS = (ValueError, OSError, RuntimeError, KeyError, TypeError, cv2.error)


class Results:
    """Measured rows in a file of JSON lines; a row is written at once and never lost.

    Several processes may add to it at the same time. A line that a kill cut off is passed over.

    Args:
        path: the file, which need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> dict[str, dict]:
        """Rows by their key; of several with one key the last."""
        rows = {}
        content = self.path.read_bytes() if self.path.exists() else b''
        for line in content.split(b'\n'):
            with suppress(ValueError):
                row = parse_json(line)
                if is_block(row, {'key': str}) and all(is_number(row.get(k)) for k in MEASURED):
                    rows[row['key']] = row
        return rows

    def add(self, row: Mapping[str, Any]) -> None:
        """Append a row, on the disk when this returns."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        line = f'\n{json.dumps(dict(row))}\n'  # the first ends a line that a kill cut off
        file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(file, line.encode())
            os.fsync(file)
        finally:
            os.close(file)


def image_path(folder: Path, row: Mapping[str, Any]) -> Path:
    """Where a row's image is saved: its name tells the weights and settings apart."""
    name = f'{row["image"]}_{row["key"][:12]}.png'
    return folder / 'images' / str(row['dataset']) / name


def fingerprint(candidate: Candidate, benchmark: Benchmark) -> dict[str, Any]:
    """All of a method that determines its images, as JSON holds it.

    Raises:
        FileNotFoundError: without the option file or weights.
    """
    head = {'format': FORMAT, 'scale': benchmark.scale, 'plain': candidate.plain}
    if candidate.plain:
        return head
    opt, where = candidate.opt, f'methods:{candidate.label}'
    if not opt:
        load_options(candidate.file, f'{where}:options')  # says that it is not there
    if not candidate.weights and wants_weights(opt):
        raise FileNotFoundError(f'{where}:weights is missing. Name the checkpoint of network_g.')
    method, path = method_class(opt), opt.get('path') or {}
    files: dict[str, str | None] = {'g': candidate.weights or None}
    for block in method.blocks_of(opt):
        own = opt[block].get('weights')
        named = path.get(f'pretrain_{block}') or (None if own in ('torchvision', 'none') else own)
        files[block.removeprefix('network_')] = named
    digests = {
        name: digest_of_file(find_pretrained(file, f'{where}:weights'))
        for name, file in files.items()
        if file
    }
    decisive = ('model_type', 'scale', 'network_g', *method.options, *method.blocks_of(opt))
    head['opt'] = plain({key: opt[key] for key in decisive if key in opt})
    keys = {key: value for key, value in path.items() if key.startswith('param_key_') and value}
    if keys:
        head['param_keys'] = plain(keys)
    return head | {'weights': digests, 'tile': benchmark.tile, 'overlap': benchmark.overlap}


def rows_of(candidate: Candidate, benchmark: Benchmark, name: str, data: Any) -> Iterator[dict]:
    """What identifies each measurement of a method on a data set.

    Yields:
        ``key`` (a digest of everything that determines the numbers), ``method``, ``dataset``,
        ``image`` and its ``number`` in the data set.
    """
    block = {k: v for k, v in benchmark.datasets[name].items() if k not in ('name', 'phase')}
    base = fingerprint(candidate, benchmark) | {'data': plain(block)}
    for number, entry in enumerate(data.entries):
        image = osp.splitext(osp.basename(entry.lq_path))[0]
        key = digest_of(base | {'image': image, 'refs': list(entry.refs)})
        row = {'key': key, 'method': candidate.label, 'dataset': name}
        yield row | {'image': image, 'number': number}


def collect(benchmark: Benchmark, folder: Path) -> list[dict]:
    """Every measured row of the option file as it stands now, in its order."""
    known = Results(folder / 'rows.jsonl').read()
    found = []
    for name in benchmark.datasets:
        try:
            data = build_dataset(dict(benchmark.datasets[name]))
        except FAULTS:
            continue
        for candidate in benchmark.methods.values():
            with suppress(*FAULTS):
                for row in rows_of(candidate, benchmark, name, data):
                    del row['number']
                    if row['key'] in known:  # its names are as they are called now
                        measured = known[row['key']]
                        keys = [k for k in (*MEASURED, *PERHAPS) if is_number(measured.get(k))]
                        found.append(row | {key: measured[key] for key in keys})
    return found
