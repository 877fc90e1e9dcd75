"""What a validation measured, where BasicSR's logger and its record of the best look for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from defsr.running.shards import Board


def record_means(
    model: Any,
    rows: Sequence[Mapping[str, float]],
    name: str,
    current_iter: int | str,
    tb_logger: Board,
) -> None:
    """Take the means over images as the results of a model, and log them.

    Args:
        model: one of BasicSR's, its ``val:metrics`` named as the keys of the rows.
        rows: metric -> value, of each image.
        name: of the data set.
        current_iter, tb_logger: as of ``nondist_validation``.
    """
    model._initialize_best_metric_results(name)
    model.metric_results = {key: sum(r[key] for r in rows) / len(rows) for key in rows[0]}
    for key, value in model.metric_results.items():
        model._update_best_metric_result(name, key, value, current_iter)
    model._log_validation_metric_values(current_iter, name, tb_logger)
