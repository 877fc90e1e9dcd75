"""The benchmark: every method on every image of every data set, once, however often it is run."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from basicsr.data import build_dataset
from basicsr.utils import tensor2img
from basicsr.utils.dist_util import get_dist_info
from torch import Tensor
from tqdm import tqdm

from defsr.benchmark.macs import count_macs
from defsr.benchmark.options import Benchmark, Candidate
from defsr.benchmark.perceptual_scores import PerceptualScores
from defsr.benchmark.rectified_once import RectifierOnce, Views
from defsr.benchmark.rows import FAULTS, METRICS, Results, collect, image_path, rows_of
from defsr.data.ref_triplet_dataset import all_of
from defsr.data.triplet_options import degradation_of
from defsr.diffusion.degradation import Degradation
from defsr.images.png import write_png
from defsr.methods.build import Restorer
from defsr.metrics.scores import metric_values
from defsr.ops.resize import upsample_bicubic
from defsr.utils import distributed
from defsr.utils.cli import tell
from defsr.utils.devices import has_gpu
from defsr.utils.memory import PeakMemory
from defsr.utils.stopping import StopRequest

GO_ON = 'Run the same command again to go on: what is measured is kept.'


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
    path = {**(candidate.opt.get('path') or {}), 'pretrain_network_g': candidate.weights or None}
    return Restorer.build(
        {**candidate.opt, 'path': path},
        torch.device('cuda' if has_gpu(benchmark.num_gpu) else 'cpu'),
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

        Several processes divide the images of each method. Those of ``timed`` are the first one's,
        while the others wait, so that nothing else runs beside them.

        Raises:
            SystemExit: with 128 + the signal, if a process was asked to stop.
            LostProcessError: if another process has ended.
        """
        timed = [name for name in self.datasets if name in self.benchmark.timed]
        several = distributed.is_distributed()
        data = {name: self._open(name) for name in self.datasets}
        todo = distributed.on_main(lambda: self._todo(data))
        if several:
            first = {label: [row for row in rows if row['dataset'] in timed]
                     for label, rows in todo.items()}  # fmt: skip
            self._measure_all(first if distributed.is_main() else {}, data)
            self._meet()
            rank, world_size = get_dist_info()
            todo = {label: [row for row in rows if row['dataset'] not in timed][rank::world_size]
                    for label, rows in todo.items()}  # fmt: skip
        self._measure_all(todo, data)
        self._meet()
        if self.benchmark.metrics:
            self._score()

    def _todo(self, data: Mapping[str, Any]) -> dict[str, list[dict]]:
        """Rows by method that are not measured, in the order of the data sets."""
        done = self.results.read()
        todo: dict[str, list[dict]] = {}
        for label in self.methods:
            candidate = self.benchmark.methods[label]
            try:
                todo[label] = [
                    row
                    for name in self.datasets
                    if data[name] is not None
                    for row in rows_of(candidate, self.benchmark, name, data[name])
                    if row['key'] not in done or self._lacks_image(row)
                ]
            except FAULTS as error:
                self._note(label, '', '', error)
        return todo

    def _measure_all(self, todo: Mapping[str, Sequence[dict]], data: Mapping[str, Any]) -> None:
        for label, rows in todo.items():
            if rows and not self.stop.signal:
                try:
                    self._measure(self.benchmark.methods[label], rows, data)
                except FAULTS as error:
                    self._note(label, '', '', error)

    def _meet(self) -> None:
        """Wait for the other processes, learn what has failed there, and end if one has to."""
        asked = []
        for signal, failures in distributed.gather((self.stop.signal, self.failures)):
            self.failures |= failures
            asked += [signal] if signal else []
        if asked:
            if distributed.is_main():
                tell(f'Stopped: {self.results.path}. {GO_ON}')
            raise SystemExit(128 + asked[0])

    def _score(self) -> None:
        """Add what ``metrics`` asks for to the rows of saved images."""
        rows = distributed.on_main(lambda: collect(self.benchmark, self.folder))
        rows = [r for r in rows if r['method'] in self.methods and r['dataset'] in self.datasets]
        scores = PerceptualScores(self.benchmark, self.folder, rows)
        rank, world_size = get_dist_info()
        own = scores.todo[rank::world_size]
        for row in tqdm(own, unit='image', desc='metrics', disable=rank > 0):
            if self.stop.signal:
                break
            try:
                self.results.add(row | scores.of(row))
            except (*FAULTS, ImportError) as error:
                self._note(row['method'], row['dataset'], row['image'], error)
        self._meet()

    def _open(self, name: str) -> Any:
        try:
            return build_dataset(dict(self.benchmark.datasets[name]))
        except FAULTS as error:
            self._note('', name, '', error)
            return None

    def _measure(self, candidate: Candidate, rows: Sequence[dict], data: Mapping) -> None:
        restorers: dict[str, Plain | Restorer] = {}
        bar = tqdm(rows, unit='image', disable=not distributed.is_main())
        for row in bar:
            name, number = row['dataset'], row['number']
            bar.set_description(f'{candidate.label}, {name}')
            degradation = degradation_of(self.benchmark.datasets[name])
            is_timed = name in (self.benchmark.timed or self.datasets)
            self.views.in_use = not is_timed
            if degradation.name not in restorers:
                made = restorer_of(candidate, self.benchmark, degradation)
                restorers[degradation.name] = self._sharing(made)
            try:
                item, counts = data[name][number], is_timed and number == 0
                scores, image = measure(restorers[degradation.name], item, count=counts)
                if self.benchmark.save_images:
                    write_png(image, image_path(self.folder, row))
                self.results.add({k: v for k, v in row.items() if k != 'number'} | scores)
            except FAULTS as error:
                self._note(candidate.label, name, row['image'], error)
            if self.stop.signal:
                break

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
        if image or distributed.is_main():  # what is more than an image fails in all processes
            tell(f'{where} failed: {reason}')


def measure(
    restorer: Plain | Restorer, item: Mapping[str, Any], *, count: bool = False
) -> tuple[dict[str, float], np.ndarray]:
    """PSNR and SSIM on Y of one item, seconds, bytes and megapixels of the result, parameters.

    And the result, (H,W,3) BGR uint8. With ``count`` it is restored once more for ``macs``.
    """
    lq, refs = item['lq'][None], [ref[None] for ref in all_of(item, 'ref')]
    with PeakMemory() as peak:
        start = time.perf_counter()
        sr = restorer(lq, refs)
        seconds = time.perf_counter() - start
    image = tensor2img(sr)
    scores = metric_values(image, tensor2img(item['gt']), METRICS)
    megapixels = sr.shape[-2] * sr.shape[-1] / 1e6
    parameters = restorer.num_parameters
    more = {'seconds': seconds, 'megapixels': megapixels, 'parameters': parameters}
    if count:
        more['macs'] = count_macs(lambda: restorer(lq, refs))
    return scores | more | {'memory': peak.bytes}, image
