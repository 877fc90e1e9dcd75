"""Training of RankSRGAN's Ranker on pairs of images of which one is better."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from itertools import combinations
from typing import Any

import torch
from basicsr.models.sr_model import SRModel
from basicsr.utils.registry import MODEL_REGISTRY
from torch import Tensor
from torch.nn.functional import margin_ranking_loss

from defsr.config.blocks import FILLED_KEYS, RUN_KEYS
from defsr.models.means import record_means
from defsr.running.shards import Board, ShardLoader, gather_rows
from defsr.utils.checks import check_above, check_keys

TRAIN_KEYS = (
    'optim_g', 'scheduler', 'total_iter', 'warmup_iter', 'num_iter_per_pass', 'margin',
)  # fmt: skip
VAL_KEYS = ('val_freq', 'save_img', 'suffix', 'pbar', 'metrics')
LIMIT = 5.0  # of a score in training: what is beyond has no gradient
ACCURACY = 'accuracy'


@MODEL_REGISTRY.register()
class RankerModel(SRModel):
    """``network_g`` gives scores that are to have the order of the labels (RankSRGAN, Eq. 2).

    The margin ranking loss on the two versions of an image that ``RankedImageDataset`` draws,
    logged as ``l_rank``. Validation measures ``accuracy``, the share of all pairs of an image's
    versions that are in the right order.

    Options of its own: ``train:margin``, by how much scores must differ. Default: 0.5.
    """

    def __init__(self, opt: dict) -> None:
        self.check(opt)
        if opt.get('val'):
            opt = opt | {'val': {**opt['val'], 'metrics': {ACCURACY: {}}}}
        super().__init__(opt)

    @classmethod
    def check(cls, opt: Mapping[str, Any]) -> None:
        """Refuse options that are not legal (ValueError)."""
        check_keys('', {key: opt[key] for key in opt if key not in FILLED_KEYS}, RUN_KEYS)
        check_keys('train', opt.get('train') or {}, TRAIN_KEYS)
        check_keys('val', opt.get('val') or {}, VAL_KEYS)
        check_above('train:margin', (opt.get('train') or {}).get('margin', 0.5), 0)

    @classmethod
    def reads_of_data(cls, opt: Mapping[str, Any], is_train: bool) -> tuple[str, ...]:
        """What the items of its data sets must have."""
        return ('ranks',)

    @classmethod
    def metric_names(cls, opt: Mapping[str, Any]) -> list[str]:
        """What a validation measures, by its names in the log."""
        return [ACCURACY] if opt.get('val') else []

    def init_training_settings(self) -> None:
        """Optimizer and schedule; there is no loss to choose and no moving average."""
        self.net_g.train()
        self.ema_decay = 0
        self.margin = self.opt['train'].get('margin', 0.5)
        self.setup_optimizers()
        self.setup_schedulers()

    def feed_data(self, data: dict) -> None:
        """Take a batch of ``RankedImageDataset``."""
        self.images, self.scores = (data[key].to(self.device) for key in ('images', 'scores'))

    def optimize_parameters(self, current_iter: int) -> None:
        """One step; the two versions go through the network one after the other, as published."""
        one, other = (
            self.net_g(self.images[:, i]).clamp(-LIMIT, LIMIT).squeeze(1) for i in range(2)
        )
        loss = margin_ranking_loss(one, other, order(*self.scores.T), margin=self.margin)
        self.optimizer_g.zero_grad()
        loss.backward()
        self.optimizer_g.step()
        self.log_dict = self.reduce_loss_dict(OrderedDict(l_rank=loss))

    def nondist_validation(
        self, dataloader: ShardLoader, current_iter: int | str, tb_logger: Board, save_img: bool
    ) -> None:
        """The share of pairs in the right order, mean over images."""
        dataset = dataloader.dataset
        rows = []
        self.net_g.eval()
        for data in dataloader:
            self.feed_data(data)
            with torch.no_grad():
                told = self.net_g(self.images[0]).flatten()
            pairs = combinations(range(len(told)), 2)
            right = [order(told[i], told[j]) == order(*self.scores[0, [i, j]]) for i, j in pairs]
            rows.append({ACCURACY: torch.stack(right).float().mean().item()})
        if self.is_train:
            self.net_g.train()
        rows = gather_rows(rows, dataset)
        record_means(self, rows, dataset.opt['name'], current_iter, tb_logger)


def order(one: Tensor, other: Tensor) -> Tensor:
    """1 where ``one`` is at least as large as ``other``, else -1."""
    return torch.where(one >= other, 1.0, -1.0)
