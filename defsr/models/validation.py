"""Validation of a reference-based model: numbers per image, a table, pictures."""

from __future__ import annotations

import csv
import time
from collections.abc import Mapping, Sequence
from os import path as osp
from typing import TYPE_CHECKING

import torch
from basicsr.utils import get_root_logger, imwrite, tensor2img
from torch import Tensor
from tqdm import tqdm

from defsr.images.figures import (
    busiest_window,
    label_colours,
    match_colours,
    save_comparison,
    side_by_side,
    to_uint8,
)
from defsr.metrics.scores import metric_values
from defsr.ops.resize import upsample_bicubic
from defsr.ops.warping import displacement
from defsr.running.shards import gather_rows
from defsr.utils import distributed
from defsr.utils.files import atomic_path

if TYPE_CHECKING:
    from defsr.models.ref_sr_model import DEFModel


def validate(model: DEFModel, dataloader, current_iter, tb_logger, save_img: bool) -> None:
    """Run ``model`` over a data set; log, and write what ``opt['val']`` asks for.

    Beside BasicSR's log line and images: a CSV with every image's metrics, a table with the
    bicubic baseline (``compare_bicubic``), labelled comparisons (``save_comparison``), the match
    and confidence maps (``save_maps``) and LR / I_DE / SR / GT in TensorBoard (``tb_images``).
    Of several processes each runs its shard of the images; the first one reports.
    """
    val_opt = model.opt['val']
    dataset_name = dataloader.dataset.opt['name']
    metrics = val_opt.get('metrics') or {}
    rows = []
    with_bar = val_opt.get('pbar', False) and distributed.is_main()
    progress = tqdm(dataloader, unit='image', disable=not with_bar)
    for number, data in enumerate(progress):
        name = osp.splitext(osp.basename(data['lq_path'][0]))[0]
        progress.set_description(f'{dataset_name} {name}')
        model.feed_data(data)
        start = time.perf_counter()
        model.test()
        row = {'image': name, 'seconds': time.perf_counter() - start}
        row.update(_measure(model, metrics, bool(val_opt.get('compare_bicubic'))))
        rows.append(row)
        path = model.result_path(dataset_name, name, current_iter)
        if save_img:
            imwrite(tensor2img(model.output), path)
        if val_opt.get('save_maps'):
            _save_maps(model, osp.splitext(path)[0])
        if val_opt.get('save_comparison'):
            comparison = f'{osp.splitext(path)[0]}_comparison.png'
            _save_comparison(model, comparison, row, metrics)
            get_root_logger().info(f'Comparison: {comparison}')
        if tb_logger and number < val_opt.get('tb_images', 4):
            images = [
                x for x in (model.lq, model.restoration.de, model.output, model.gt) if x is not None
            ]
            strip = side_by_side([images[1], images[0], *images[2:]])
            tb_logger.add_image(f'{dataset_name}/{name}', strip, current_iter)
    rows = gather_rows(rows, dataloader.dataset)
    _report(model, dataset_name, current_iter, tb_logger, rows, metrics)


def _measure(model: DEFModel, metrics: Mapping[str, Mapping], with_bicubic: bool) -> dict:
    """Metrics of the result, and of the bicubic baseline; nothing without GT."""
    if model.gt is None:
        return {}
    gt = tensor2img(model.gt)
    row = metric_values(tensor2img(model.output), gt, metrics)
    if with_bicubic:
        start = time.perf_counter()
        bicubic = upsample_bicubic(model.lq, model.opt['scale'])
        row['bicubic_seconds'] = time.perf_counter() - start
        values = metric_values(tensor2img(bicubic), gt, metrics)
        row.update({f'bicubic_{key}': value for key, value in values.items()})
    return row


def _report(
    model: DEFModel,
    dataset_name: str,
    current_iter: int | str,
    tb_logger,
    rows: Sequence[Mapping],
    metrics: Mapping[str, Mapping],
) -> None:
    """BasicSR's log line and best values, the CSV, the table."""
    log_dir = model.opt['path']['log']
    path = osp.join(log_dir, 'metrics', f'{dataset_name}_{current_iter}.csv')
    if distributed.is_main():
        _write_csv(path, rows)
    measured = [row for row in rows if all(name in row for name in metrics)]
    if metrics and measured:
        model._initialize_best_metric_results(dataset_name)
        model.metric_results = {name: _mean(measured, name) for name in metrics}
        for name, value in model.metric_results.items():
            model._update_best_metric_result(dataset_name, name, value, current_iter)
        model._log_validation_metric_values(current_iter, dataset_name, tb_logger)
    logger = get_root_logger()
    if measured and f'bicubic_{next(iter(metrics), "")}' in measured[0]:
        logger.info(f'{dataset_name}, mean of {len(measured)}:\n{_table(measured, metrics)}')
    logger.info(f'Metrics per image: {path}')
    if model.opt['val'].get('save_img'):
        logger.info(f'Images: {osp.dirname(model.result_path(dataset_name, "x", current_iter))}')


def _table(rows: Sequence[Mapping], metrics: Mapping[str, Mapping]) -> str:
    """Method by metric, as plain text."""
    lines = [f'{"method":<10}' + ''.join(f'{name:>12}' for name in metrics) + f'{"seconds":>12}']
    for label, prefix in (('bicubic', 'bicubic_'), ('DEF', '')):
        values = ''.join(f'{_mean(rows, prefix + name):>12.4f}' for name in metrics)
        lines.append(f'{label:<10}{values}{_mean(rows, prefix + "seconds"):>12.2f}')
    return '\n'.join(lines)


def _mean(rows: Sequence[Mapping], key: str) -> float:
    return sum(row[key] for row in rows) / len(rows)


def _write_csv(path: str, rows: Sequence[Mapping]) -> None:
    names = list(dict.fromkeys(key for row in rows for key in row))
    with atomic_path(path) as temporary, open(temporary, 'w', newline='') as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        for row in rows:
            writer.writerow({k: f'{v:.6g}' if isinstance(v, float) else v for k, v in row.items()})


def _save_maps(model: DEFModel, stem: str) -> None:
    """PNGs of I_DE's size over 4: the match index as flow colours, the confidence as grey.

    With several references also which of them each match lies in, a colour each.
    """
    result = model.restoration
    colours = match_colours(displacement(result.index[:1], result.key_size))
    imwrite(to_uint8(colours)[..., ::-1], f'{stem}_index.png')
    confidence = result.confidence[:1].expand(3, -1, -1)
    imwrite(to_uint8(confidence)[..., ::-1], f'{stem}_confidence.png')
    if len(model.refs) > 1:
        imwrite(to_uint8(label_colours(result.winner[:1]))[..., ::-1], f'{stem}_winner.png')


def _save_comparison(model: DEFModel, path: str, row: Mapping, metrics: Mapping) -> None:
    bicubic = upsample_bicubic(model.lq, model.opt['scale']).clamp(0, 1)
    sr = model.output.clamp(0, 1)
    panels: dict[str, Tensor] = {
        'LR (input)': torch.nn.functional.interpolate(model.lq, scale_factor=4.0),
        'bicubic': bicubic,
        'I_DE': model.restoration.de,
        'reference': model.refs[0],
        'SR (DEF)': sr,
    }
    if model.gt is not None:
        panels['GT'] = model.gt
    side = min(96, *sr.shape[-2:])
    target = bicubic if model.gt is None else model.gt
    window = (*busiest_window(target, sr, bicubic, side), side)
    windows = {name: window for name in panels if name != 'reference'}
    if len(model.refs) == 1:
        windows['reference'] = _matched_window(model, window)
    parts = [
        f'{key} {row[f"bicubic_{key}"]:.3f} -> {row[key]:.3f}'
        for key in metrics
        if f'bicubic_{key}' in row
    ]
    title = row['image'] + (f', bicubic -> DEF: {", ".join(parts)}' if parts else '')
    save_comparison(path, panels, windows, title)


def _matched_window(model: DEFModel, window: tuple[int, int, int]) -> tuple[int, int, int]:
    """Where most of a window of the result finds its matches in the reference."""
    top, left, side = window
    scale = model.opt['scale']
    result = model.restoration
    cells = (
        slice(top // scale, (top + side) // scale),
        slice(left // scale, (left + side) // scale),
    )
    shift = displacement(result.index[:1], result.key_size)[0][(slice(None), *cells)]
    shift_y, shift_x = (int(x) for x in shift.flatten(1).median(dim=1).values * scale)
    height, width = model.refs[0].shape[-2:]
    side = min(side, height, width)
    return (
        min(max(0, top + shift_y), height - side),
        min(max(0, left + shift_x), width - side),
        side,
    )
