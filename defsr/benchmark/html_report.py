"""A benchmark's tables and images as one page, which needs no network: ``report.html``."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

import cv2
import numpy as np
from basicsr.utils import tensor2img
from tqdm import tqdm

from defsr.benchmark.html_parts import content_policy, json_in_html, shown, table_html
from defsr.benchmark.maps import MapMaker, Maps
from defsr.benchmark.report import Report
from defsr.benchmark.rows import FAULTS, METRICS
from defsr.benchmark.saved_images import SavedImages, window_errors
from defsr.data.ref_triplet_dataset import all_of
from defsr.images.png import encode_png
from defsr.metrics.scores import metric_values
from defsr.utils.cli import tell, visible
from defsr.utils.files import atomic_path

ASSETS = Path(__file__).parent / 'assets'
SCRIPTS = ('panzoom.min.js', 'sortable.min.js', 'report.js')
MOST_BYTES = 9_500_000  # of images, as text: with tables and scripts the page has less than 10 MB
QUALITIES = (92, 85, 75, 60)  # of JPEG, without loss of colour detail; the first that fits
WHOLE = 2  # longest side of a whole reference, of one or two images beside each other: in windows

Picture = dict[str, Any]


class HtmlReport:
    """The page of a benchmark with ``report``.

    Args:
        report: its tables.
        folder: of its results.
    """

    def __init__(self, report: Report, folder: Path) -> None:
        self.report, self.benchmark, self.folder = report, report.benchmark, folder
        self.options = report.benchmark.report
        shown = self.options['show'] or report.methods
        self.methods = [label for label in shown if label in report.methods]
        self.saved = SavedImages(self.benchmark, folder, report.rows)
        label = self.options['maps']
        self.maker = MapMaker(self.benchmark, folder, label) if label else None

    def choose(self) -> list[tuple[str, str]]:
        """(data set, image) where the PSNR of the methods shown differs most.

        The first of each data set, then the second of each, until there are enough: an order that
        depends on the rows alone.
        """
        ranks: list[tuple[int, int, str, str]] = []
        for place, dataset in enumerate(self.benchmark.datasets):
            spread: dict[str, list[float]] = {}
            for method in self.methods:
                for image, row in self.report.cells.get((method, dataset), {}).items():
                    spread.setdefault(image, []).append(row['psnr'])
            order = sorted(spread, key=lambda i: (min(spread[i]) - max(spread[i]), i))
            ranks += [(rank, place, dataset, image) for rank, image in enumerate(order)]
        return [(dataset, image) for *_, dataset, image in sorted(ranks)[: self.options['number']]]

    def write(self, path: Path) -> None:
        """Write the page, whole or not at all.

        Raises:
            ValueError, OSError: for images and weights that cannot be read.
        """
        with atomic_path(path) as temporary:
            temporary.write_text(self.page(), encoding='utf-8')

    def page(self) -> str:
        """Its HTML. Without images to show only the tables."""
        bar = tqdm(self.choose(), unit='image', desc='report.html')
        found = [self._example(*chosen) for chosen in bar]
        images, quality = encoded([one for one in found if one is not None])
        methods = [visible(label) for label in self.methods]
        data = {'methods': methods, 'images': images, 'side': self.options['side']}
        texts = {name: (ASSETS / name).read_text(encoding='utf-8') for name in SCRIPTS}
        scripts = [text.strip() + '\n' for text in texts.values()]
        style = (ASSETS / 'report.css').read_text(encoding='utf-8')
        names = ', '.join(f'<b>{shown(label)}</b>' for label in self.methods)
        note = (
            f'{len(images)} images where the PSNR of {names} differs most, the most telling of '
            f'each data set first. Of large images a window of {self.options["side"]} pixels, '
            f'where it differs most, as JPEG of quality {quality}; scores are of the images '
            'before that.'
        )
        if len(images) < len(found):
            note += f' {len(found) - len(images)} more would have made the page too large.'
        page = Template((ASSETS / 'report.html').read_text(encoding='utf-8'))
        return page.substitute(
            policy=content_policy(scripts, style),
            title=shown(self.benchmark.name),
            command=shown(self.report.command),
            head=shown(self.report.head()),
            tables='\n'.join(table_html(section) for section in self.report.sections()),
            failed=''.join(f'<li>{shown(line)}</li>' for line in self.report.failed()),
            note=note,
            hidden='' if images else ' hidden',
            style=style,
            data=json_in_html(data),
            scripts='\n'.join(f'<script>{text}</script>' for text in scripts),
        )

    def _example(self, dataset: str, image: str) -> dict[str, Any] | None:
        """All that is shown of an image, pictures as arrays; None if none of its files is left."""
        item = self.saved.item(dataset, image)
        gt = tensor2img(item['gt'])
        found = [self.saved.image(method, dataset, image) for method in self.methods]
        there = [x for x in found if x is not None and x.shape == gt.shape]
        if not there:
            return None
        scale, side = self.benchmark.scale, self.options['side']
        window = telling_window(gt, there, side, scale)
        panes: list[Picture] = [
            {'name': 'LR', 'picture': _cut(tensor2img(item['lq']), window, scale), 'exact': True},
            {'name': 'GT', 'picture': gt[window]},
        ]
        for method, sr in zip(self.methods, found, strict=True):
            pane: Picture = {'name': visible(method), 'picture': None, 'method': True}
            if sr is not None and sr.shape == gt.shape:
                row = self.saved.rows[method, dataset, image]
                pane |= {'picture': sr[window], 'whole': _scores(row)}
                if sr[window].shape != sr.shape:
                    pane['window'] = _scores(metric_values(sr[window], gt[window], METRICS))
            panes.append(pane)
        maps = self._maps(dataset, image, item)
        for key, name in (('rectified', 'reference, rectified'), ('rho', 'rho')):
            if maps and key in maps.pictures:
                picture = _cut(maps.pictures[key], window, scale if key == 'rho' else 1)
                panes.append({'name': name, 'picture': picture, 'exact': key == 'rho'})
        height, width = gt[window].shape[:2]
        return {
            'dataset': dataset,
            'name': visible(image),
            'place': [window[0].start, window[1].start, height, width, *gt.shape[:2]],
            'panes': panes,
            'maps': visible(f'{self.options["maps"]}: {maps.text}') if maps else '',
            'wide': list(self._references(item, maps)),
        }

    def _references(self, item: Mapping[str, Any], maps: Maps | None) -> Iterator[Picture]:
        """References as they are, and their confirmed matches."""
        longest = WHOLE * self.options['side']
        refs = all_of(item, 'ref')
        for number, ref in enumerate(refs, start=1):
            name = 'reference' if len(refs) == 1 else f'reference {number} of {len(refs)}'
            yield {'name': name, 'picture': reduced(tensor2img(ref), longest)}
        for name, picture in (maps.pictures if maps else {}).items():
            if name.startswith('matches'):
                name = f'confirmed matches of {name.replace("matches_", "reference ")}'
                yield {'name': name, 'picture': reduced(picture, 2 * longest)}

    def _maps(self, dataset: str, image: str, item: Mapping[str, Any]) -> Maps | None:
        """Those of the method that ``report:maps`` names; None if there is nothing to tell."""
        row = self.saved.rows.get((self.options['maps'], dataset, image))
        if self.maker is None or row is None:
            return None
        try:
            return self.maker.of(row, item)
        except FAULTS as error:
            reason = ' '.join(str(error).split()) or type(error).__name__
            tell(f'{self.options["maps"]}, {dataset}, {image}: no maps: {reason}')
            return Maps(f'no maps: {reason}', {})


def telling_window(
    gt: np.ndarray, images: Sequence[np.ndarray], side: int, scale: int
) -> tuple[slice, slice]:
    """Rows and columns of the window where images differ most in their error.

    Args:
        gt, images: (H,W,3) uint8.
        side: of the window in pixels; of a smaller image all.
        scale: the window begins and ends at multiples of it, so that its LR is whole pixels.
    """
    errors, step = window_errors(gt, images, side)
    spread = errors.max(dim=0).values / errors.min(dim=0).values
    place = divmod(int(spread.argmax()), spread.shape[1])
    rows, columns = (
        _multiples(step * where, min(side, size), size, scale)
        for where, size in zip(place, gt.shape, strict=False)
    )
    return rows, columns


def _multiples(start: int, side: int, size: int, scale: int) -> slice:
    """From about ``start`` on about ``side`` pixels of ``size``."""
    side = side // scale * scale
    start = min(start, size - side) // scale * scale
    return slice(start, start + side)


def reduced(image: np.ndarray, longest: int) -> np.ndarray:
    """(H,W,3) uint8, with a side of at most ``longest`` pixels."""
    factor = longest / max(image.shape[:2])
    size = [max(1, round(factor * x)) for x in (image.shape[1], image.shape[0])]
    return image if factor >= 1 else cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def encoded(examples: Sequence[Mapping[str, Any]]) -> tuple[list[dict[str, Any]], int]:
    """Pictures as data URIs of at most ``MOST_BYTES``, and the quality of JPEG.

    If even the lowest quality takes more, the last examples are left out.
    """
    for quality in QUALITIES:
        found = [_encoded(example, quality) for example in examples]
        sizes = np.cumsum([len(json.dumps(one)) for one in found])
        if not found or sizes[-1] <= MOST_BYTES:
            break
    return found[: int((sizes <= MOST_BYTES).sum())], quality


def _encoded(example: Mapping[str, Any], quality: int) -> dict[str, Any]:
    done = dict(example)
    for key in ('panes', 'wide'):
        done[key] = []
        for pane in example[key]:
            picture = pane['picture']
            size = None if picture is None else [picture.shape[1], picture.shape[0]]
            uri = None if picture is None else _uri(picture, quality, bool(pane.get('exact')))
            done[key].append({k: v for k, v in pane.items() if k != 'picture'})
            done[key][-1] |= {'size': size, 'src': uri}
    return done


def _uri(picture: np.ndarray, quality: int, exact: bool) -> str:
    """(H,W,3) BGR uint8 as a PNG if it is to be exact, else as a JPEG."""
    if exact:
        kind, content = 'png', encode_png(picture)
    else:
        sampling = (cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444)
        settings = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_OPTIMIZE, 1, *sampling]
        kind, content = 'jpeg', cv2.imencode('.jpg', picture, settings)[1].tobytes()
    return f'data:image/{kind};base64,{base64.b64encode(content).decode()}'


def _cut(image: np.ndarray, window: tuple[slice, slice], factor: int) -> np.ndarray:
    """A window of what is smaller than GT by a factor."""
    rows, columns = (slice(x.start // factor, x.stop // factor) for x in window)
    return image[rows, columns]


def _scores(row: Mapping[str, Any]) -> str:
    return f'{row["psnr"]:.2f} / {row["ssim"]:.3f}'
