"""Training of C2-Matching's correspondence extractor, as teacher and as student."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any

import torch
from basicsr.losses import build_loss
from basicsr.models.sr_model import SRModel
from basicsr.utils.registry import MODEL_REGISTRY
from torch import Tensor

from defsr.archs.levels import LEVEL_FACTORS
from defsr.config.blocks import FILLED_KEYS, RUN_KEYS, required
from defsr.losses.correspondence_loss import Pairs
from defsr.methods.networks import arrange, arrange_image, build_frozen
from defsr.models.means import record_means
from defsr.ops.matching_inside import match_patches_inside
from defsr.ops.resize import upsample_bicubic
from defsr.running.shards import Board, ShardLoader, gather_rows
from defsr.utils.checks import check_choice, check_keys

TRAIN_KEYS = (
    'optim_g', 'scheduler', 'total_iter', 'warmup_iter', 'num_iter_per_pass', 'contrastive_opt',
    'distill_opt',
)  # fmt: skip
VAL_KEYS = ('val_freq', 'save_img', 'suffix', 'pbar')
CELL = max(LEVEL_FACTORS.values())  # pixels to a position
MARGIN = 10  # pixels at the border of the reference where nothing is asked
HIT = 1.0  # positions, along either axis


@MODEL_REGISTRY.register()
class ContrastiveModel(SRModel):
    """``network_g``, a ``ContrastiveExtractor``, on planted correspondences.

    First a teacher that reads ground truth (``query: gt``), then a student that reads the
    interpolated LR image (``query: lq``) and learns the teacher's correlations, too:
    ``network_t`` with ``path:pretrain_network_t``, and ``train:distill_opt``. A position with its
    match less than 10 pixels from the reference's border, or beyond it, does not count.

    Validation measures ``hit_rate``: of the positions that count, the share of those whose patch
    is found within one position of its true place, in percent.
    """

    frozen_blocks = ('network_t',)  # never saved, so that resuming does not look for it

    def __init__(self, opt: dict) -> None:
        self.check(opt)
        self.query: str = opt['query']
        if opt.get('val'):
            opt = opt | {'val': {**opt['val'], 'metrics': {n: {} for n in self.metric_names(opt)}}}
        super().__init__(opt)
        arrange(self.get_bare_model(self.net_g), self.device)

    @classmethod
    def check(cls, opt: Mapping[str, Any]) -> None:
        """Refuse options that are not legal; ValueError names the option."""
        given = {key: value for key, value in opt.items() if key not in FILLED_KEYS}
        check_keys('', given, (*RUN_KEYS, 'network_t', 'query'))
        train, val = opt.get('train') or {}, opt.get('val') or {}
        check_keys('train', train, TRAIN_KEYS)
        check_keys('val', val, VAL_KEYS)
        check_choice('query', required(opt, '', 'query'), ('gt', 'lq'))
        for name in ('network_g', 'network_t'):
            block = opt.get(name)
            if block is not None and block['type'] != 'ContrastiveExtractor':
                raise ValueError(
                    f'{name}:type is {block["type"]}, but must be ContrastiveExtractor.'
                )
        if train:
            required(train, 'train', 'contrastive_opt')
            if bool(train.get('distill_opt')) != bool(opt.get('network_t')):
                raise ValueError(
                    'train:distill_opt and network_t, the teacher, go together. Give both, or '
                    'neither.'
                )
        if opt.get('network_t') is not None:
            required(opt.get('path') or {}, 'path', 'pretrain_network_t')

    @classmethod
    def reads_of_data(cls, opt: Mapping[str, Any], is_train: bool) -> tuple[str, ...]:
        """What the items of its data sets must have."""
        return 'gt', 'lq', 'homography'

    @classmethod
    def metric_names(cls, opt: Mapping[str, Any]) -> list[str]:
        """What a validation measures, by its names in the log."""
        return ['hit_rate']

    def init_training_settings(self) -> None:
        """The losses, the teacher if there is one, the optimizer."""
        self.net_g.train()
        self.ema_decay = 0
        train_opt = self.opt['train']
        self.cri_contrastive = build_loss(train_opt['contrastive_opt'])
        self.cri_distill = None
        if train_opt.get('distill_opt'):
            self.cri_distill = build_loss(train_opt['distill_opt'])
            self.net_t = build_frozen('network_t', self.opt, self.device)
        self.setup_optimizers()
        self.setup_schedulers()

    def feed_data(self, data: dict) -> None:
        """Take a batch of ``PlantedPairDataset``."""
        self.gt, self.lq, self.ref = (self._take(data[key]) for key in ('gt', 'lq', 'ref'))
        cells = [side // CELL for side in self.gt.shape[-2:]]
        self.places = true_places(data['homography'], *cells).to(self.ref)
        self.valid = is_inside(self.places, self.ref.shape[-2:])
        self.image_name = data['gt_path'][0]

    def _take(self, image: Tensor) -> Tensor:
        return arrange_image(image, self.device)

    def optimize_parameters(self, current_iter: int) -> None:
        """One step; the losses are means over the images of the batch that have places at all."""
        found = self._pairs(self.net_g(self._image(), self.ref))
        if not found:
            raise ValueError(
                'No position of a batch has its true place inside the reference. Set '
                'datasets:train:gt_size larger, or perturb smaller.'
            )
        losses = OrderedDict(l_contrastive=_mean([self.cri_contrastive(each) for each in found]))
        if self.cri_distill is not None:
            with torch.no_grad():
                taught = self._pairs(self.net_t(self.gt, self.ref))
            each = [self.cri_distill(*both) for both in zip(found, taught, strict=True)]
            losses['l_distill'] = _mean(each)
        self.optimizer_g.zero_grad()
        reduce(torch.add, losses.values()).backward()
        self.optimizer_g.step()
        self.log_dict = self.reduce_loss_dict(losses)

    def _image(self) -> Tensor:
        """What the query is made of, at the size of ``gt``."""
        return self.gt if self.query == 'gt' else upsample_bicubic(self.lq, CELL).clamp(0, 1)

    def _pairs(self, features: tuple[Tensor, Tensor]) -> list[Pairs]:
        batch = zip(*features, self.places, self.valid, strict=True)
        return [Pairs.of(*each) for each in batch if bool(each[-1].any())]

    @torch.no_grad()
    def hit_rate(self) -> float:
        """Of what was fed, in percent."""
        self.net_g.eval()
        query, key = self.net_g(self._image(), self.ref)
        if self.is_train:
            self.net_g.train()
        index, _ = match_patches_inside(query, key)
        found = torch.stack((index // key.shape[-1], index % key.shape[-1]), dim=1)
        miss = (found - self.places[..., 1:-1, 1:-1]).abs().amax(dim=1)
        return 100 * float((miss <= HIT)[self.valid[:, 1:-1, 1:-1]].float().mean())

    def nondist_validation(
        self, dataloader: ShardLoader, current_iter: int | str, tb_logger: Board, save_img: bool
    ) -> None:
        """The hit rate, mean over the images."""
        rows = []
        for data in dataloader:
            self.feed_data(data)
            rows.append({'hit_rate': self.hit_rate()})
        rows = gather_rows(rows, dataloader.dataset)
        record_means(self, rows, dataloader.dataset.opt['name'], current_iter, tb_logger)


def true_places(homography: Tensor, rows: int, columns: int) -> Tensor:
    """Where the cells of an image lie in its reference: (N,3,3) -> (N,2,rows,columns) positions.

    By the centres of cells of 4x4 pixels, rows then columns; fractions are kept.
    """
    middle = (CELL - 1) / 2
    y, x = (CELL * torch.arange(n, dtype=torch.float64) + middle for n in (rows, columns))
    grid = torch.stack(torch.meshgrid(y, x, indexing='ij')[::-1] + (torch.ones(rows, columns),))
    mapped = (homography.double().cpu() @ grid.double().flatten(1)).unflatten(2, (rows, columns))
    return ((mapped[:, :2] / mapped[:, 2:]).flip(1) - middle) / CELL


def is_inside(places: Tensor, size: Sequence[int]) -> Tensor:
    """(N,2,h,w) positions -> (N,h,w) bool: more than MARGIN from the border of (H, W) pixels."""
    pixels = CELL * places + (CELL - 1) / 2
    far = places.new_tensor([side - 1 - MARGIN for side in size]).view(1, 2, 1, 1)
    return ((pixels > MARGIN) & (pixels < far)).all(dim=1)


def _mean(values: Sequence[Tensor]) -> Tensor:
    return torch.stack([*values]).mean()
