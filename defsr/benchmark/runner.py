"""The benchmark: every method on every image of every data set, once, however often it is run."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from os import path as osp
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from basicsr.data import build_dataset
from basicsr.utils import tensor2img
from torch import Tensor
from tqdm import tqdm

from defsr.benchmark.options import Benchmark, Candidate
from defsr.benchmark.rectified_once import RectifierOnce, Views
from defsr.config.files import load_options
from defsr.data.ref_triplet_dataset import all_of
from defsr.data.triplet_options import degradation_of
from defsr.diffusion.degradation import Degradation
from defsr.images.png import write_png
from defsr.methods.build import Restorer, method_class, wants_weights
from defsr.metrics.scores import metric_values
from defsr.ops.resize import upsample_bicubic
from defsr.utils.cli import tell
from defsr.utils.fingerprints import digest_of, digest_of_file, plain
from defsr.utils.memory import PeakMemory
from defsr.utils.paths import find_pretrained
from defsr.utils.stopping import StopRequest
from defsr.utils.strangers import is_block, is_number, parse_json

FORMAT = 1  # to be raised when the same options give other numbers
METRICS = {
    'psnr': {'type': 'calculate_psnr', 'crop_border': 4, 'test_y_channel': True},
    'ssim': {'type': 'calculate_ssim', 'crop_border': 4, 'test_y_channel': True},
}
MEASURED = (*METRICS, 'seconds', 'megapixels', 'parameters')
PERHAPS = ('memory',)  # of which the rows of an older version say nothing
GO_ON = 'Run the same command again to go on: what is measured is kept.'
FAULTS = (ValueError, OSError, RuntimeError, KeyError, TypeError, cv2.error)


@dataclass(frozen=True)
class Plain:
    """Enlargement without training: bicubic, or the smallest image that degrades to lq."""

    kind: str
    degradation: Degradation
    num_parameters: int = 0

    def __call__(self, lq: Tensor, refs: Sequence[Tensor]) -> Tensor:
        """As ``Restorer``."""
        if self.kind == 'bicubic':
            return upsample_bicubic(lq, self.degradation.scale)
        return self.degradation.operator.A_pinv(lq)


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


def restorer_of(
    candidate: Candidate, benchmark: Benchmark, degradation: Degradation
) -> Plain | Restorer:
    """A method's networks with their weights.

    Raises:
        ValueError: for networks and weights that do not fit.
        FileNotFoundError: without weights.
    """
    if candidate.plain:
        return Plain(candidate.plain, degradation)
    use_cuda = benchmark.num_gpu != 0 and torch.cuda.is_available()
    path = {**(candidate.opt.get('path') or {}), 'pretrain_network_g': candidate.weights or None}
    return Restorer.build(
        {**candidate.opt, 'path': path},
        torch.device('cuda' if use_cuda else 'cpu'),
        degradation,
        tile=benchmark.tile,
        overlap=benchmark.overlap,
        option=f'methods:{candidate.label}:weights',
        network=f'network_g of {Path(candidate.file).name}',
    )


class Runner:
    """Measures what has not been measured.

    Args:
        benchmark: the option file.
        folder: of the results.
        methods, datasets: labels and names to measure; None: all.
        stop: asked for after each image.

    Attributes:
        failures: (method, data set, image or '') -> reason, of this run.
    """

    def __init__(
        self,
        benchmark: Benchmark,
        folder: Path,
        methods: Sequence[str] | None = None,
        datasets: Sequence[str] | None = None,
        stop: StopRequest | None = None,
    ) -> None:
        self.benchmark, self.folder = benchmark, folder
        self.results = Results(folder / 'rows.jsonl')
        self.methods = list(methods or benchmark.methods)
        self.datasets = list(datasets or benchmark.datasets)
        self.stop = stop or StopRequest()
        self.failures: dict[tuple[str, str, str], str] = {}
        self.views = Views()

    def run(self) -> None:
        """Measure, image by image; what fails is remembered and the rest goes on.

        Raises:
            SystemExit: with 128 + the signal, if asked to stop.
        """
        data = {name: self._open(name) for name in self.datasets}
        done = self.results.read()
        for label in self.methods:
            candidate = self.benchmark.methods[label]
            try:
                todo = {
                    name: [row for row in rows_of(candidate, self.benchmark, name, data[name])
                           if row['key'] not in done or self._lacks_image(row)]
                    for name in self.datasets if data[name] is not None
                }  # fmt: skip
                if any(todo.values()):
                    self._measure(candidate, todo, data)
            except FAULTS as error:
                self._note(label, '', '', error)

    def _open(self, name: str) -> Any:
        try:
            return build_dataset(dict(self.benchmark.datasets[name]))
        except FAULTS as error:
            self._note('', name, '', error)
            return None

    def _measure(self, candidate: Candidate, todo: Mapping[str, list[dict]], data: Mapping) -> None:
        restorers: dict[str, Plain | Restorer] = {}
        total = sum(map(len, todo.values()))
        with tqdm(total=total, unit='image', desc=candidate.label) as bar:
            for name, rows in todo.items():
                degradation = degradation_of(self.benchmark.datasets[name])
                self.views.in_use = name not in (self.benchmark.timed or self.datasets)
                for row in rows:
                    if degradation.name not in restorers:
                        made = restorer_of(candidate, self.benchmark, degradation)
                        restorers[degradation.name] = self._sharing(made)
                    bar.set_description(f'{candidate.label}, {name}')
                    try:
                        item = data[name][row.pop('number')]
                        scores, image = measure(restorers[degradation.name], item)
                        if self.benchmark.save_images:
                            write_png(image, image_path(self.folder, row))
                        self.results.add(row | scores)
                    except FAULTS as error:
                        self._note(candidate.label, name, row['image'], error)
                    bar.update()
                    if self.stop.signal:
                        tell(f'Stopped: {self.results.path}. {GO_ON}')
                        raise SystemExit(128 + self.stop.signal)

    def _sharing(self, restorer: Plain | Restorer) -> Plain | Restorer:
        """One whose references are rectified once for all methods, while ``views`` are in use."""
        if isinstance(restorer, Restorer) and restorer.method.rectifier is not None:
            rectifier = RectifierOnce(restorer.method.rectifier, self.views)
            restorer.method.rectifier = rectifier
        return restorer

    def _lacks_image(self, row: Mapping[str, Any]) -> bool:
        return self.benchmark.save_images and not image_path(self.folder, row).exists()

    def _note(self, label: str, dataset: str, image: str, error: BaseException) -> None:
        reason = ' '.join(str(error).split()) or type(error).__name__
        self.failures[label, dataset, image] = reason
        where = ', '.join(filter(None, (label, dataset, image)))
        tell(f'{where} failed: {reason}')


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


def measure(
    restorer: Plain | Restorer, item: Mapping[str, Any]
) -> tuple[dict[str, float], np.ndarray]:
    """PSNR and SSIM on Y of one item, seconds, bytes and megapixels of the result, parameters.

    And the result, (H,W,3) BGR uint8.
    """
    refs = [ref[None] for ref in all_of(item, 'ref')]
    with PeakMemory() as peak:
        start = time.perf_counter()
        sr = restorer(item['lq'][None], refs)
        seconds = time.perf_counter() - start
    image = tensor2img(sr)
    scores = metric_values(image, tensor2img(item['gt']), METRICS)
    megapixels = sr.shape[-2] * sr.shape[-1] / 1e6
    parameters = restorer.num_parameters
    more = {'seconds': seconds, 'megapixels': megapixels, 'parameters': parameters}
    return scores | more | {'memory': peak.bytes}, image


def image_path(folder: Path, row: Mapping[str, Any]) -> Path:
    """Where a row's image is saved: its name tells the weights and settings apart."""
    name = f'{row["image"]}_{row["key"][:12]}.png'
    return folder / 'images' / str(row['dataset']) / name


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
