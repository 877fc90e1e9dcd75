"""Validation that all processes share, that is recorded, and that keeps the best weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from basicsr.models.base_model import BaseModel
from basicsr.utils import get_root_logger
from basicsr.utils.dist_util import get_dist_info
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from defsr.metrics.scores import needs_gt
from defsr.running.checkpoints import ValidationRecord
from defsr.running.safe_options import SafeOptions
from defsr.running.shards import Board, Shard, ShardLoader, gather_means
from defsr.utils import distributed
from defsr.utils.checks import check_finite
from defsr.utils.stopping import StopRequest


class ShardedValidation(BaseModel):
    """The validation part of ``SafeTraining``, for any model with ``nondist_validation``.

    Attributes:
        stop: asked after each image.
        current_iter: iterations that are done.
        record: every validation of the run.
    """

    safe: SafeOptions
    stop: StopRequest
    current_iter: int
    record: ValidationRecord
    metric_results: dict[str, float]
    output: Tensor
    _means: dict[str, float]
    _shard: Shard | None = None

    def validation(
        self,
        dataloader: DataLoader,
        current_iter: int | str,
        tb_logger: Board,
        save_img: bool = False,
    ) -> None:
        """Each process takes its share of the images; numbers are those of the whole set.

        In training a validation that is recorded already is not repeated (BasicSR runs the last
        one twice), and its results go to ``training_states/validation.json``.

        Raises:
            StopValidationError: if a process was asked to stop.
        """
        if self.is_train:
            current_iter = self.current_iter
            dataset: Any = dataloader.dataset
            if self.record.has(current_iter, dataset.opt['name']):
                return
        rank, world_size = get_dist_info()
        shard = ShardLoader(dataloader, rank, world_size, self.stop)
        with self._bare_networks(), self._metrics_of(shard.dataset):
            self._validate(shard, current_iter, tb_logger, save_img)

    def _validate(
        self, shard: ShardLoader, current_iter: int | str, tb_logger: Board, save_img: bool
    ) -> None:
        self._shard, self._means = shard.dataset, {}
        try:
            self.nondist_validation(shard, current_iter, tb_logger, save_img)
        except np.linalg.LinAlgError as error:
            raise ValueError(
                f'A metric of {shard.dataset.opt["name"]} cannot be computed ({error}): NIQE wants '
                'results of at least 96x192 pixels that are not flat. Remove it from val:metrics.'
            ) from error
        finally:
            self._shard = None
        if not self.is_train:
            return
        name = shard.dataset.opt['name']
        self.record.add(self.current_iter, name, self._means)
        if distributed.is_main():
            self._keep_best(name, self.current_iter)
            if tb_logger:
                tb_logger.flush()  # what is recorded is not logged again
            self.record.save()

    def test(self) -> None:
        """As the model's; FloatingPointError for a result that is NaN or infinite somewhere."""
        super().test()
        if isinstance(getattr(self, 'output', None), Tensor):
            check_finite(self.output, 'The result', 'path:pretrain_network_g')

    @contextmanager
    def _metrics_of(self, dataset: Any) -> Iterator[None]:
        """Without ground truths only metrics that need none; the others are named."""
        val = self.opt['val']
        given = val.get('metrics')
        if hasattr(self, 'metric_results'):
            del self.metric_results  # of the data set before, whose names BasicSR would keep
        if given and dataset.opt.get('dataroot_gt') is None:
            # An empty block is of a metric of the model's own.
            left_out = [name for name, metric in given.items() if metric and needs_gt(metric)]
            val['metrics'] = {k: v for k, v in given.items() if k not in left_out} or None
            if left_out:
                get_root_logger().warning(
                    f'{dataset.opt["name"]} has no ground truth: {", ".join(left_out)} '
                    f'{"is" if len(left_out) == 1 else "are"} left out.'
                )
        try:
            yield
        finally:
            val['metrics'] = given

    def _update_best_metric_result(
        self, dataset_name: str, metric: str, val: float, current_iter: int | str
    ) -> None:
        """Not before the shards have been put together."""
        if self._shard is None:
            super()._update_best_metric_result(dataset_name, metric, val, current_iter)

    def _log_validation_metric_values(
        self, current_iter: int | str, dataset_name: str, tb_logger: Board
    ) -> None:
        """Put the shards' means together, then log them as BasicSR does."""
        assert self._shard is not None  # a validation goes through `validation`
        self._means = self.metric_results = gather_means(self.metric_results, self._shard)
        self._note_best(dataset_name, self._means, current_iter)
        super()._log_validation_metric_values(current_iter, dataset_name, tb_logger)

    def _note_best(self, dataset: str, means: Mapping[str, float], current_iter: int | str) -> None:
        self._initialize_best_metric_results(dataset)
        for metric, value in means.items():
            if metric in self.best_metric_results[dataset]:
                super()._update_best_metric_result(dataset, metric, value, current_iter)

    def _keep_best(self, dataset: str, current_iter: int) -> None:
        """Write ``net_*_best.pth`` if ``logger:keep_best`` asks for it and this is the best."""
        if not self.safe.keep_best:
            return
        of_dataset, _, metric = self.safe.keep_best.rpartition('/')
        if of_dataset not in ('', dataset):
            return
        if not of_dataset and dataset != next(iter(self.best_metric_results)):
            return
        if metric in self._means and (
            self.best_metric_results[dataset][metric]['iter'] == current_iter
        ):
            self.save(epoch=-1, current_iter='best')

    @contextmanager
    def _bare_networks(self) -> Iterator[None]:
        """Without DistributedDataParallel, whose forward may wait for the other processes."""
        wrapped = {k: v for k, v in vars(self).items() if isinstance(v, DistributedDataParallel)}
        try:
            self.__dict__.update({key: net.module for key, net in wrapped.items()})
            yield
        finally:
            self.__dict__.update(wrapped)
