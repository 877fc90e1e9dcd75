"""What a benchmark found: Markdown, CSV, JSON and a figure."""

from __future__ import annotations

import csv
import datetime
import io
import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from defsr.benchmark.chart import draw_chart
from defsr.benchmark.macs import NOT_COUNTED
from defsr.benchmark.options import Benchmark
from defsr.benchmark.perceptual_scores import at_hand
from defsr.benchmark.rows import MEASURED, METRICS, PERHAPS
from defsr.benchmark.tables import Section, escaped
from defsr.data.pair_list import scene_of
from defsr.metrics.bootstrap import FEWEST, Difference, paired_bootstrap
from defsr.metrics.perceptual import PERCEPTUAL
from defsr.utils.cli import visible
from defsr.utils.files import atomic_path

Rows = Sequence[Mapping[str, Any]]
Failures = Mapping[tuple[str, str, str], str]


class Report:
    """Tables of the rows that a benchmark has measured.

    Args:
        benchmark: the option file.
        rows: measured rows, see ``defsr.benchmark.rows.collect``.
        failures: (method, data set, image) -> reason, of this run.
        command: that made it, for the head.
    """

    def __init__(
        self, benchmark: Benchmark, rows: Rows, failures: Failures, command: str = ''
    ) -> None:
        self.benchmark, self.failures, self.command = benchmark, dict(failures), command
        self.rows = list(rows)
        self.missing_metrics = at_hand(benchmark)[1]  # reads large files of weights
        self.cells: dict[tuple[str, str], dict[str, Mapping]] = {}
        for row in self.rows:
            self.cells.setdefault((row['method'], row['dataset']), {})[row['image']] = row
        tried = [*self.cells, *((label, name) for label, name, _ in self.failures)]
        self.methods = [label for label in benchmark.methods if any(label == m for m, _ in tried)]
        self.datasets = [name for name in benchmark.datasets if any(name == n for _, n in tried)]

    def mean(self, method: str, dataset: str, key: str) -> float | None:
        """Mean over the images of a data set; None unless each of those measured says it."""
        rows = self.cells.get((method, dataset), {}).values()
        if not rows or not all(key in row for row in rows):
            return None
        return sum(row[key] for row in rows) / len(rows)

    def number(self, dataset: str) -> int:
        """Images of a data set that any method has restored."""
        return max((len(v) for (_, name), v in self.cells.items() if name == dataset), default=0)

    def is_whole(self, method: str, dataset: str) -> bool:
        """Whether a method has restored as many images of a data set as any has."""
        return len(self.cells.get((method, dataset), {})) == self.number(dataset)

    def parameters(self, method: str) -> int | None:
        """Of the trained network; None if nothing is measured."""
        return next((row['parameters'] for row in self.rows if row['method'] == method), None)

    def per_megapixel(self, method: str, key: str = 'seconds') -> float | None:
        """Seconds, bytes (``memory``) or ``macs`` per megapixel of a method's results in ``timed``.

        Of the rows that say it: ``macs`` are counted on the first image of each set.
        """
        timed = self.benchmark.timed or tuple(self.benchmark.datasets)
        rows = [
            r for r in self.rows if r['method'] == method and r['dataset'] in timed and key in r
        ]
        megapixels = sum(row['megapixels'] for row in rows)
        return sum(row[key] for row in rows) / megapixels if megapixels else None

    def reason(self, method: str) -> str:
        """Why a method has failed, or ''."""
        reasons = [text for (label, _, _), text in self.failures.items() if label == method]
        return reasons[0] if reasons else ''

    def difference(self, method: str, datasets: Sequence[str], base: str) -> Difference | None:
        """PSNR-Y minus that of ``base`` over what both have restored; None if that is nothing.

        Of a data set of ``scenes`` the means of scenes are what counts, and is resampled.
        """
        found: dict[tuple[str, str], list[float]] = {}
        for dataset in datasets:
            one, other = (self.cells.get((label, dataset), {}) for label in (method, base))
            by_scene = dataset in self.benchmark.scenes
            for image in [image for image in one if image in other]:
                unit = scene_of(image) if by_scene else image
                gain = one[image]['psnr'] - other[image]['psnr']
                found.setdefault((dataset, unit), []).append(gain)
        if not found:
            return None
        means = [sum(gains) / len(gains) for gains in found.values()]
        return paired_bootstrap(means, **self.benchmark.bootstrap)

    # -- tables --------------------------------------------------------------------------------

    def head(self) -> str:
        """Day, machine, and what the numbers are, in one paragraph."""
        threads = torch.get_num_threads()
        gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else 'no GPU'
        machine = (
            f'{os.cpu_count()} cores ({platform.machine()}), {gpu}, {threads} '
            f'thread{"s" * (threads > 1)}, PyTorch {torch.__version__.split("+")[0]}'
        )
        timed = ', '.join(self.benchmark.timed)
        timed = f', of {timed}' if timed else ''
        parts = [
            f'{datetime.date.today()}, {machine}. PSNR / SSIM on Y, crop_border 4, SR '
            'rounded to 8 bit. Parameters of what was trained for the row; seconds (on the wall) '
            f'and peak memory per megapixel of the result{timed}.',
            'GMAC: 10^9 multiplications, each with its addition, of convolutions, matrix products '
            f'and attention in all networks and the matching, without {NOT_COUNTED}.',
            *self.missing_metrics,
        ]
        all_of = len(self.benchmark.methods), len(self.benchmark.datasets)
        if all_of != (len(self.methods), len(self.datasets)):
            parts.append(
                f'Of the {all_of[0]} methods and {all_of[1]} data sets of the option file those '
                f'stand here of which something is measured: {len(self.methods)} and '
                f'{len(self.datasets)}.'
            )
        if self.missing_metrics:
            parts.append(f'The {PERCEPTUAL["trunk"].title} stands in.')
        return ' '.join(parts)

    def sections(self) -> list[Section]:
        """Scores, differences and published numbers."""
        parts = [self._table(title, names) for title, names in self.tables().items()]
        parts += [self._perceptual(key) for key in PERCEPTUAL if any(key in r for r in self.rows)]
        parts += [self._differences(b) for b in self.benchmark.compare_to if b in self.methods]
        return parts + ([self._published()] if self.benchmark.published else [])

    def tables(self) -> Mapping[str, Sequence[str]]:
        """Titles and data sets of the tables of scores."""
        return self._measured(self.benchmark.tables or {'': tuple(self.benchmark.datasets)})

    def _measured(self, columns: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
        """Without data sets of which nothing is measured, and what is empty then."""
        found = {key: [n for n in names if n in self.datasets] for key, names in columns.items()}
        return {key: names for key, names in found.items() if names}

    def failed(self) -> list[str]:
        """A line for each failure of this run."""
        return [
            f'{", ".join(filter(None, where))} failed: {reason}'
            for where, reason in self.failures.items()
        ]

    def _table(self, title: str, datasets: Sequence[str]) -> Section:
        lines = []
        for label in self.methods:
            cells = [self._score(label, dataset) for dataset in datasets]
            number = self.parameters(label)
            seconds, memory, macs = (
                self.per_megapixel(label, key) for key in ('seconds', 'memory', 'macs')
            )
            lines.append([
                label, self.benchmark.methods[label].loss, *cells,
                '-' if number is None else f'{number / 1e6:.2f} M' if number else '0',
                '-' if seconds is None else f'{seconds:.2g}',
                '-' if memory is None else f'{memory / 2**30:.2g}',
                '-' if macs is None else f'{macs / 1e9:,.{0 if macs > 1e11 else 2}f}',
            ])  # fmt: skip
        names = [f'{name} ({self.number(name)})' for name in datasets]
        head = ['method', 'loss', *names, 'parameters', 's/MP', 'GiB/MP', 'GMAC/MP']
        return Section(f'{title}:' if title else '', head, lines)

    def _perceptual(self, key: str) -> Section:
        """Means of a metric of ``PERCEPTUAL``."""
        names = [name for name in self.benchmark.datasets if self.number(name)]
        lines = []
        for label in self.methods:
            cells = [self.mean(label, name, key) for name in names]
            lines.append([label, *('-' if cell is None else f'{cell:.4f}' for cell in cells)])
        return Section(f'{PERCEPTUAL[key].title}, lower is better:', ['method', *names], lines)

    def _score(self, method: str, dataset: str) -> str:
        psnr, ssim = (self.mean(method, dataset, key) for key in ('psnr', 'ssim'))
        if psnr is None:
            return 'failed' if self._failed(method, dataset) else '-'
        some = len(self.cells[method, dataset])
        partial = '' if self.is_whole(method, dataset) else f' ({some} only)'
        return f'{psnr:.2f} / {ssim:.3f}{partial}'

    def _failed(self, method: str, dataset: str) -> bool:
        return any(
            label in (method, '') and name in (dataset, '') for label, name, _ in self.failures
        )

    def _differences(self, base: str) -> Section:
        each = {name: (name,) for name in self.benchmark.datasets}
        columns = self._measured(self.benchmark.groups or each)
        lines = []
        for label in self.methods:
            if label == base:
                continue
            cells = [self._difference_cell(label, names, base) for names in columns.values()]
            lines.append([label, *cells])
        heads = [f'{n}: {", ".join(names)}' for n, names in columns.items()]
        samples = self.benchmark.bootstrap['samples']
        scenes = ', '.join(self.benchmark.scenes)
        units = f'images (over scenes in {scenes})' if scenes else 'images'
        text = (
            f'PSNR-Y minus that of {base} in dB, with the 95 % interval of a paired '
            f'bootstrap over {units}, {samples:,d} resamples. No claim is made where the interval '
            f'holds 0, nor of fewer than {FEWEST}.'
        )
        return Section(text, ['method', *heads], lines)

    def _difference_cell(self, method: str, datasets: Sequence[str], base: str) -> str:
        found = self.difference(method, datasets, base)
        if found is None:
            return '-'
        if found.number < FEWEST:
            unit = 'scene' if {*datasets} <= {*self.benchmark.scenes} else 'image'
            return f'{found.mean:+.2f} ({found.number} {unit}{"s" * (found.number > 1)}, no claim)'
        claim = '' if found.is_claim else ', no claim'
        return f'{found.mean:+.2f} ({found.low:+.2f} .. {found.high:+.2f}{claim})'

    def _published(self) -> Section:
        rows = self.benchmark.published
        names = list(dict.fromkeys(name for row in rows for name in row['scores']))
        differs = ['what differs'] if any(row.get('differs') for row in rows) else []
        lines = [
            [row['label'], row.get('loss') or '-', *(
                self._published_score(row, name) for name in names
            ), *[row.get('differs') or '' for _ in differs]]
            for row in rows
        ]  # fmt: skip
        head = ['method', 'loss', *names, *differs]
        beside = any(self.mean(row['label'], n, 'psnr') is not None for row in rows for n in names)
        here = '; in brackets what is measured here, on the images of the tables above' * beside
        return Section(f'As published, on whole data sets{here}:', head, lines)

    def _published_score(self, row: Mapping[str, Any], name: str) -> str:
        if name not in row['scores']:
            return '-'
        text = '{:.2f} / {:.3f}'.format(*row['scores'][name])
        if self.mean(row['label'], name, 'psnr') is None:
            return text
        return f'{text} ({self._score(row["label"], name)})'

    # -- forms ---------------------------------------------------------------------------------

    def markdown(self) -> str:
        """The whole report; what has failed stands below the scores."""
        command = visible(self.command).replace('`', "'")
        command = f'`{command}`, ' if command else ''
        parts = [f'# {escaped(self.benchmark.name)}', command + escaped(self.head())]
        tables = [section.markdown() for section in self.sections()]
        failed = '\n'.join(f'- {escaped(line)}' for line in self.failed())
        tables.insert(len(self.tables()), failed)
        return '\n\n'.join(filter(None, [*parts, *tables])) + '\n'

    def as_csv(self) -> str:
        """A line per measured image."""
        keys = ('method', 'dataset', 'image', *MEASURED, *PERHAPS)
        text = io.StringIO()
        writer = csv.DictWriter(text, keys, extrasaction='ignore')
        writer.writeheader()
        writer.writerows(self.rows)
        return text.getvalue()

    def as_json(self) -> str:
        """Means, differences, failures and every row."""
        means = {}
        for label, method in self.benchmark.methods.items():
            cells = {}
            for dataset in self.benchmark.datasets:
                cells[dataset] = {key: self.mean(label, dataset, key) for key in METRICS}
                more = {key: self.mean(label, dataset, key) for key in PERCEPTUAL}
                cells[dataset] |= {key: mean for key, mean in more.items() if mean is not None}
            means[label] = {
                'loss': method.loss,
                'parameters': self.parameters(label),
                'seconds_per_megapixel': self.per_megapixel(label),
                'bytes_per_megapixel': self.per_megapixel(label, 'memory'),
                'macs_per_megapixel': self.per_megapixel(label, 'macs'),
                'scores': cells,
                'failed': self.reason(label) or None,
            }
        content = {'name': self.benchmark.name, 'methods': means, 'rows': self.rows}
        return json.dumps(content, indent=1) + '\n'

    def write(self, folder: Path) -> None:
        """All four files, each whole or not at all."""
        folder.mkdir(parents=True, exist_ok=True)
        forms = {'results.md': self.markdown, 'results.csv': self.as_csv}
        for name, form in (forms | {'results.json': self.as_json}).items():
            with atomic_path(folder / name) as temporary:
                Path(temporary).write_text(form(), encoding='utf-8')
        draw_chart(self, folder / 'results.png')
