"""Validation of a reference-based model: numbers per image, a table, pictures."""

from __future__ import annotations

import csv
import time
from collections.abc import Mapping, Sequence
from os import path as osp
from typing import Any

import torch.nn.functional as F
from basicsr.models.base_model import BaseModel
from basicsr.utils import get_root_logger, tensor2img
from torch import Tensor
from tqdm import tqdm

from defsr.archs.interface import Reference, Restoration
from defsr.data.pair_list import MAX_STEM
from defsr.images.figures import (
    busiest_window,
    label_colours,
    match_colours,
    save_comparison,
    side_by_side,
)
from defsr.images.levels import to_levels
from defsr.images.png import write_png
from defsr.methods.rectified_maps import rectified_maps
from defsr.metrics.scores import metric_values
from defsr.ops.resize import upsample_bicubic
from defsr.ops.warping import displacement
from defsr.running.shards import Board, ShardLoader, gather_rows
from defsr.utils import distributed
from defsr.utils.checks import check_choice, check_int, check_keys
from defsr.utils.files import atomic_path, shortened

SWITCHES = ('pbar', 'save_maps', 'save_comparison', 'compare_bicubic')
VAL_KEYS = ('val_freq', 'save_img', 'suffix', 'metrics', 'tb_images', 'tile', *SWITCHES)


class ImageValidation(BaseModel):
    """Validation of a model that restores images: a mixin in front of it.

    The model has ``feed_data``, ``test`` and ``result_path``, and these after ``test``.
    """

    label: str
    lq: Tensor
    gt: Tensor | None
    refs: list[Reference]
    output: Tensor
    restoration: Restoration

    @classmethod
    def check_val(cls, val: Mapping[str, Any]) -> None:
        """Refuse what is not legal in ``val``; ValueError names the option."""
        check_keys('val', val, VAL_KEYS)
        for key in SWITCHES:
            check_choice(f'val:{key}', val.get(key, False), (True, False))
        check_int('val:tb_images', val.get('tb_images', 4), 0)
        if val.get('tile') is not None:
            check_int('val:tile', val['tile'], 1)

    def nondist_validation(
        self, dataloader: ShardLoader, current_iter: int | str, tb_logger: Board, save_img: bool
    ) -> None:
        """Run over a data set; log, and write what ``val`` asks for.

        Beside BasicSR's log line and images: a CSV with every image's metrics, a table with the
        bicubic baseline (``compare_bicubic``), labelled comparisons (``save_comparison``), the
        match and confidence maps (``save_maps``) and LR / I_DE / SR / GT in TensorBoard
        (``tb_images``).
        Of several processes each runs its shard of the images; the first one reports.
        """
        val_opt = self.opt['val']
        dataset_name = dataloader.dataset.opt['name']
        metrics = val_opt.get('metrics') or {}
        rows = []
        with_bar = val_opt.get('pbar', False) and distributed.is_main()
        progress = tqdm(dataloader, unit='image', disable=not with_bar)
        for number, data in enumerate(progress):
            name = shortened(osp.splitext(osp.basename(data['lq_path'][0]))[0], MAX_STEM)
            progress.set_description(f'{dataset_name} {name}')
            self.feed_data(data)
            start = time.perf_counter()
            self.test()
            row: dict[str, Any] = {'image': name, 'seconds': time.perf_counter() - start}
            row.update(self._measure(metrics, bool(val_opt.get('compare_bicubic'))))
            rows.append(row)
            path = self.result_path(dataset_name, name, current_iter)
            if save_img:
                write_png(tensor2img(self.output), path)
            if val_opt.get('save_maps'):
                self._save_maps(osp.splitext(path)[0])
            if val_opt.get('save_comparison'):
                comparison = f'{osp.splitext(path)[0]}_comparison.png'
                self._save_comparison(comparison, row, metrics)
                get_root_logger().info(f'Comparison: {comparison}')
            if tb_logger and number < val_opt.get('tb_images', 4):
                images = (self.lq, self.restoration.de, self.output, self.gt)
                strip = side_by_side([x for x in images if x is not None])
                tb_logger.add_image(f'{dataset_name}/{name}', strip, current_iter)
        rows = gather_rows(rows, dataloader.dataset)
        self._report(dataset_name, current_iter, tb_logger, rows, metrics)

    def _measure(self, metrics: Mapping[str, Mapping], with_bicubic: bool) -> dict:
        """Metrics of the result, and of the bicubic baseline; without GT those that need none."""
        gt = None if self.gt is None else tensor2img(self.gt)
        row = metric_values(tensor2img(self.output), gt, metrics)
        if with_bicubic:
            start = time.perf_counter()
            bicubic = upsample_bicubic(self.lq, self.opt['scale'])
            row['bicubic_seconds'] = time.perf_counter() - start
            values = metric_values(tensor2img(bicubic), gt, metrics)
            row.update({f'bicubic_{key}': value for key, value in values.items()})
        return row

    def _report(
        self,
        dataset_name: str,
        current_iter: int | str,
        tb_logger: Board,
        rows: Sequence[Mapping],
        metrics: Mapping[str, Mapping],
    ) -> None:
        """BasicSR's log line and best values, the CSV, the table."""
        log_dir = self.opt['path']['log']
        path = osp.join(log_dir, 'metrics', f'{dataset_name}_{current_iter}.csv')
        if distributed.is_main():
            _write_csv(path, rows)
        measured = [row for row in rows if all(name in row for name in metrics)]
        if metrics and measured:
            self._initialize_best_metric_results(dataset_name)
            self.metric_results = {name: _mean(measured, name) for name in metrics}
            for name, value in self.metric_results.items():
                self._update_best_metric_result(dataset_name, name, value, current_iter)
            self._log_validation_metric_values(current_iter, dataset_name, tb_logger)
        logger = get_root_logger()
        if measured and f'bicubic_{next(iter(metrics), "")}' in measured[0]:
            table = _table(measured, metrics, self.label)
            logger.info(f'{dataset_name}, mean of {len(measured)}:\n{table}')
        logger.info(f'Metrics per image: {path}')
        if self.opt['val'].get('save_img'):
            logger.info(f'Images: {osp.dirname(self.result_path(dataset_name, "x", current_iter))}')

    def _save_maps(self, stem: str) -> None:
        """PNGs of I_DE's size over 4: the match index as flow colours, the confidence as grey.

        With several references also which of them each match lies in, a colour each; of what the
        method does not know, none. Of rectified references, at I_DE's size: the reference in the
        input's frame, rho as grey, and the confirmed matches of each as lines.
        """
        result = self.restoration
        if result.index is not None and result.key_size is not None:
            colours = match_colours(displacement(result.index[:1], result.key_size))
            write_png(to_levels(colours)[..., ::-1], f'{stem}_index.png')
        if result.confidence is not None:
            confidence = result.confidence[:1].expand(3, -1, -1)
            write_png(to_levels(confidence)[..., ::-1], f'{stem}_confidence.png')
        if result.winner is not None and len(self.refs) > 1:
            write_png(to_levels(label_colours(result.winner[:1]))[..., ::-1], f'{stem}_winner.png')
        maps = rectified_maps(result, [ref.image for ref in self.refs])
        for kind, picture in maps.items():
            write_png(picture[..., ::-1], f'{stem}_{kind}.png')

    def _save_comparison(self, path: str, row: Mapping, metrics: Mapping) -> None:
        bicubic = upsample_bicubic(self.lq, self.opt['scale']).clamp(0, 1)
        sr, rectified = self.output.clamp(0, 1), self.restoration.rectified
        known: dict[str, Tensor | None] = {
            'LR (input)': F.interpolate(self.lq, scale_factor=float(self.opt['scale'])),
            'bicubic': bicubic,
            'I_DE': self.restoration.de,
            'reference': self.refs[0].image if self.refs and rectified is None else None,
            'reference, rectified': rectified,
            f'SR ({self.label})' if self.label != 'SR' else 'SR': sr,
            'GT': self.gt,
        }
        panels = {name: image for name, image in known.items() if image is not None}
        side = min(96, *sr.shape[-2:])
        target = bicubic if self.gt is None else self.gt
        window = (*busiest_window(target, sr, bicubic, side), side)
        windows = {name: window for name in panels if name != 'reference'}
        found = self.restoration
        as_it_is = len(self.refs) == 1 and rectified is None
        if as_it_is and found.index is not None and found.key_size is not None:
            shift = displacement(found.index[:1], found.key_size)[0]
            windows['reference'] = self._matched_window(window, shift)
        parts = [
            f'{key} {row[f"bicubic_{key}"]:.3f} -> {row[key]:.3f}'
            for key in metrics
            if f'bicubic_{key}' in row
        ]
        title = row['image'] + (f', bicubic -> {self.label}: {", ".join(parts)}' if parts else '')
        save_comparison(path, panels, windows, title)

    def _matched_window(self, window: tuple[int, int, int], shift: Tensor) -> tuple[int, int, int]:
        """Where most of a window of the result finds its matches in the reference."""
        top, left, side = window
        scale = self.opt['scale']
        rows = slice(top // scale, (top + side) // scale)
        columns = slice(left // scale, (left + side) // scale)
        inside = shift[:, rows, columns]
        shift_y, shift_x = (int(x) for x in inside.flatten(1).median(dim=1).values * scale)
        height, width = self.refs[0].image.shape[-2:]
        side = min(side, height, width)
        return (
            min(max(0, top + shift_y), height - side),
            min(max(0, left + shift_x), width - side),
            side,
        )


def _table(rows: Sequence[Mapping], metrics: Mapping[str, Mapping], method: str) -> str:
    """Method by metric, as plain text."""
    lines = [f'{"method":<10}' + ''.join(f'{name:>12}' for name in metrics) + f'{"seconds":>12}']
    for label, prefix in (('bicubic', 'bicubic_'), (method, '')):
        values = ''.join(f'{_mean(rows, prefix + name):>12.4f}' for name in metrics)
        lines.append(f'{label:<10}{values}{_mean(rows, prefix + "seconds"):>12.2f}')
    return '\n'.join(lines)


def _mean(rows: Sequence[Mapping], key: str) -> float:
    return sum(row[key] for row in rows) / len(rows)


def _write_csv(path: str, rows: Sequence[Mapping]) -> None:
    names = list(dict.fromkeys(key for row in rows for key in row))
    with atomic_path(path) as temporary, open(temporary, 'w', encoding='utf-8', newline='') as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        for row in rows:
            writer.writerow({k: f'{v:.6g}' if isinstance(v, float) else v for k, v in row.items()})
