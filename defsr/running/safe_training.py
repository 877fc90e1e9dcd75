"""What BasicSR's models lack for a week of training: a mixin in front of any of them."""

from __future__ import annotations

import math
import warnings
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, TypeGuard

import torch
from basicsr.models.base_model import BaseModel
from basicsr.utils import get_root_logger
from basicsr.utils.dist_util import get_dist_info
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.tensorboard import SummaryWriter

from defsr.running.checkpoints import Checkpoints, ValidationRecord, save_tensors
from defsr.running.epochs import EpochClock
from defsr.running.loss_scale import LEAST, LossScale
from defsr.running.optimizers import build_optimizer
from defsr.running.resuming import Settings
from defsr.running.safe_networks import SafeNetworks
from defsr.running.safe_options import SafeOptions, model_options
from defsr.running.sharded_validation import ShardedValidation
from defsr.running.shards import StopValidationError
from defsr.running.states import check_state
from defsr.utils import distributed
from defsr.utils.seeding import seed_generators
from defsr.utils.stopping import StopRequest


class NonFiniteError(FloatingPointError):
    """A loss or a gradient is NaN or infinite; the weights are those before it."""


def make_safe(cls: type[BaseModel]) -> type[BaseModel]:
    """The same model class with ``SafeTraining`` in front."""
    return cls if issubclass(cls, SafeTraining) else type(cls.__name__, (SafeTraining, cls), {})


class SafeTraining(SafeNetworks, ShardedValidation):
    """Atomic checkpoints, exact resume, sharded validation and guarded steps for BasicSR's models.

    Every random number of iteration i comes from (seed, rank, i), so no generator's state has to
    be kept. ``SafeOptions`` has its options.

    Attributes:
        safe: its options.
        clock: where in the data an iteration is.
        stop: asked after each iteration and each validation image.
        val_loaders, tb_logger: for a validation that is made up for on resuming.
        loss_scale: of a model that trains in fp16.
    """

    loss_scale: LossScale | None = None

    def __init__(self, opt: dict) -> None:
        opt = deepcopy(opt)
        self.clock = EpochClock(iters_per_epoch=1, batch_size=1)
        self.stop = StopRequest()
        self.val_loaders: Sequence[DataLoader] = ()
        self.tb_logger: SummaryWriter | None = None
        self.num_nonfinite = 0
        self._batch_files: Sequence[str] = ()
        self._is_stopping = False
        self._losses: list[Tensor] = []
        self._nonfinite: list[str] = []
        self.written: list[Path] = []
        self._means: dict[str, float] = {}
        self.current_iter = 0
        if opt['is_train']:
            path = opt['path']
            self.checkpoints = Checkpoints(path['models'], path['training_states'])
            self.record = ValidationRecord(Path(path['training_states']) / 'validation.json')
        super().__init__(model_options(opt))
        if self.is_train:
            metrics = (self.opt.get('val') or {}).get('metrics') or {}
            self.safe = SafeOptions.from_opt(opt, metrics)

    # -- an iteration --------------------------------------------------------------------------

    def update_learning_rate(self, current_iter: int, warmup_iter: int = -1) -> None:
        """Begin iteration ``current_iter``, unless the run has to stop before it.

        Learning rates are set, and its random numbers.
        """
        if self._is_stopping:
            self._save_and_leave(self.current_iter)
        with warnings.catch_warnings():
            if self.loss_scale is not None:  # whose first steps may be left out
                warnings.filterwarnings('ignore', r'Detected call of `lr_scheduler\.step')
            super().update_learning_rate(current_iter, warmup_iter)
        rank, _ = get_dist_info()
        seed_generators('iteration', self.opt['manual_seed'], rank, current_iter)

    def feed_data(self, data: Mapping) -> None:
        """As the model's; the files are remembered for messages."""
        self._batch_files = data.get('gt_path') or data.get('lq_path') or ()
        super().feed_data(data)

    def get_optimizer(
        self, optim_type: str, params: Iterable[Any], lr: float, **options: Any
    ) -> torch.optim.Optimizer:
        """As BasicSR's, which has Adam alone."""
        return build_optimizer(optim_type, params, lr, **options)

    def setup_optimizers(self) -> None:
        """As the model's; no step is taken on a loss or a gradient that is not finite."""
        super().setup_optimizers()
        names = {
            id(parameter): f'{label}.{name}'
            for label, net in vars(self).items()
            if label.startswith('net_') and isinstance(net, nn.Module)
            for name, parameter in self.get_bare_model(net).named_parameters()
        }
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:  # the state keeps them, to be compared
                group['param_names'] = [names.get(id(p), '?') for p in group['params']]
            optimizer.register_step_pre_hook(self._check_step)
        for name, criterion in vars(self).items():
            if name.startswith('cri_') and isinstance(criterion, nn.Module):
                criterion.register_forward_hook(self._note_losses)

    def optimize_parameters(self, current_iter: int) -> None:
        """One iteration of the model; then all processes know whether the run goes on.

        A wish to stop is answered when the loop has logged and saved this iteration.
        """
        self.current_iter = current_iter
        self._losses.clear()
        super().optimize_parameters(current_iter)
        if self.loss_scale is not None and self.loss_scale.scale < LEAST:
            self._nonfinite.append(
                f'the gradient is beyond float16 at a loss scale of {self.loss_scale.scale:g}'
            )
        nonfinite, self._is_stopping = distributed.any_of(
            [bool(self._nonfinite), self.stop.signal is not None]
        )
        if nonfinite:
            self._meet_nonfinite(current_iter)

    def _note_losses(self, criterion: nn.Module, args: object, output: object) -> None:
        outputs = output if isinstance(output, tuple) else (output,)
        self._losses += [x.detach().float().mean() for x in outputs if isinstance(x, Tensor)]

    def _check_step(self, optimizer: torch.optim.Optimizer, args: object, kwargs: object) -> None:
        """Clip the gradients; with a NaN or an infinity in them or in a loss there is no step.

        The gradients are the same in all processes, the losses are not.
        """
        parameters = [p for group in optimizer.param_groups for p in group['params']]
        gradients = [p.grad for p in parameters if p.grad is not None]
        if not gradients:
            return
        norm = nn.utils.get_total_norm(gradients)
        if self.loss_scale is not None and self.loss_scale.is_stepping and not norm.isfinite():
            return  # an overflow, which a fused optimizer is told of by the scaler
        *losses, norm_value = torch.stack([*self._losses, norm]).tolist()
        if not math.isfinite(norm_value):
            name = next(key for key, value in vars(self).items() if value is optimizer)
            self._nonfinite.append(f'the gradient of {name} is {norm_value}')
        if any(distributed.any_of([not all(map(math.isfinite, (*losses, norm_value)))])):
            optimizer.zero_grad(set_to_none=True)
        elif self.safe.grad_clip_norm is not None:
            nn.utils.clip_grads_with_norm_(parameters, self.safe.grad_clip_norm, norm)

    def reduce_loss_dict(self, loss_dict: Mapping[str, Tensor]) -> OrderedDict[str, float]:
        """As BasicSR's; notes what is not finite in this process."""
        with torch.no_grad():
            means = torch.stack([value.detach().float().mean() for value in loss_dict.values()])
        for name, value in zip(loss_dict, means.tolist(), strict=True):
            if not math.isfinite(value):
                self._nonfinite.append(f'{name} is {value}')
        log_dict = super().reduce_loss_dict(loss_dict)
        if self.num_nonfinite:
            log_dict['num_nonfinite'] = float(self.num_nonfinite)
        if self.loss_scale is not None and self.loss_scale.num_overflows:
            log_dict['num_overflows'] = float(self.loss_scale.num_overflows)
        return log_dict

    def _meet_nonfinite(self, current_iter: int) -> None:
        """Stop in all processes, or count: what, when, with which files."""
        faults = '; '.join(self._nonfinite)
        reports = distributed.gather((faults, list(self._batch_files)) if faults else None)
        self._nonfinite.clear()
        self.num_nonfinite += 1
        told = ' | '.join(
            f'{text} (batch: {", ".join(files)})' for text, files in filter(None, reports)
        )
        skips, most = self.safe.nonfinite == 'skip', self.safe.max_nonfinite
        if skips and self.num_nonfinite <= most:
            get_root_logger().warning(
                f'Iteration {current_iter}: {told}. No step is taken on that; '
                f'{self.num_nonfinite} of at most {most} (train:max_nonfinite).'
            )
            return
        saved = [i for i in self.checkpoints.iterations() if i < current_iter]
        where = f'{self.checkpoints.state_path(saved[0])}' if saved else 'none yet'
        skip = '' if skips else ', or set train:nonfinite: skip'
        if self.loss_scale is not None:
            skip += ', or train:precision: bf16, which has the range of fp32'
        raise NonFiniteError(
            f'Iteration {current_iter}: {told}. Training stops; the last checkpoint: {where}. '
            f'Lower the learning rate, set train:grad_clip_norm{skip}; --auto_resume goes on.'
        )

    # -- checkpoints ---------------------------------------------------------------------------

    def save(self, epoch: int, current_iter: int | str) -> None:
        """Write a checkpoint: whole, or not at all; then delete what ``keep_last`` lets go.

        The curves up to here come first: a run that goes on from it does not log them again.
        """
        if self.tb_logger:
            self.tb_logger.flush()
        self.written = []
        super().save(epoch, current_iter)
        if not distributed.is_main() or not _is_numbered(current_iter):
            return
        self.checkpoints.publish(current_iter, self.written)
        self._delete_old(current_iter)

    def _delete_old(self, current_iter: int) -> None:
        if self.safe.keep_last and distributed.is_main():
            self.checkpoints.keep_newest(self.safe.keep_last, current_iter)

    def save_training_state(self, epoch: int, current_iter: int | str) -> None:
        """BasicSR's state and the place in the epoch, written atomically."""
        if not distributed.is_main() or not _is_numbered(current_iter):
            return
        path = self.checkpoints.state_path(current_iter)
        state: dict[str, Any] = {
            'epoch': epoch,
            'iter': current_iter,
            'optimizers': [optimizer.state_dict() for optimizer in self.optimizers],
            'schedulers': [scheduler.state_dict() for scheduler in self.schedulers],
            'defsr': {
                'images_done': self.clock.images_done(epoch, current_iter),
                'manual_seed': self.opt['manual_seed'],
                'num_nonfinite': self.num_nonfinite,
                'ema_decay': self._ema_decay(),
            },
        }
        if self.loss_scale is not None:
            state['defsr']['loss_scale'] = self.loss_scale.state()
        save_tensors(state, path)
        self.written.append(path)

    def resume_training(self, resume_state: dict) -> None:
        """As BasicSR's; best values too, and the validation that the end of the run cut off.

        Where the option file says another learning rate, schedule or optimizer than the state, the
        log says which is in force: the state's, or the file's with ``train:resume_with: file``.

        Raises:
            ValueError: for a state that does not fit, see ``check_state``.
        """
        check_state(resume_state, self.optimizers, self.schedulers)
        of_file = self._settings()
        super().resume_training(resume_state)
        known = resume_state.get('defsr', {})
        self._settle(of_file, known)
        if self.loss_scale is not None and 'loss_scale' in known:
            self.loss_scale.load(known['loss_scale'])
        self.current_iter = resume_state['iter']
        self._delete_old(self.current_iter)
        self.num_nonfinite = known.get('num_nonfinite', 0)
        self.record.load(last_iter=self.current_iter)
        for current_iter, results in sorted(self.record.results.items()):
            for dataset, means in results.items():
                self._note_best(dataset, means, current_iter)
        val_opt = self.opt.get('val')
        if val_opt is not None and self.current_iter % val_opt['val_freq'] == 0:
            for loader in self.val_loaders:
                self.validation(loader, self.current_iter, self.tb_logger, val_opt['save_img'])

    def _settings(self) -> Settings:
        names = {id(value): key.replace('optimizer', 'optim') for key, value in vars(self).items()}
        return Settings({names[id(o)]: o for o in self.optimizers}, self.schedulers)

    def _ema_decay(self) -> float:
        return float(getattr(self, 'ema_decay', 0))

    def _settle(self, of_file: Settings, known: Mapping[str, Any]) -> None:
        """Say what the file and the state have differently, and put one of them into force."""
        found = of_file.differences(self._settings())
        force = "The state's are in force; train:resume_with: file takes the file's."
        if self.safe.resume_with == 'file':
            force = "The file's are in force."
            if found:
                of_file.restore()
        if found:
            told = (f'{key} is {here} here, {there} there' for key, (here, there) in found.items())
            get_root_logger().warning(
                f'The training state was written with other options: {"; ".join(told)}. {force}'
            )
        decay, saved_decay = self._ema_decay(), known.get('ema_decay')
        if saved_decay not in (None, decay):
            get_root_logger().warning(
                f'train:ema_decay is {decay}, which is in force; the training state was written '
                f'with {saved_decay}.'
            )

    def validation(
        self,
        dataloader: DataLoader,
        current_iter: int | str,
        tb_logger: SummaryWriter | None,
        save_img: bool = False,
    ) -> None:
        """As ``ShardedValidation``'s; a signal ends it, and the run."""
        try:
            super().validation(dataloader, current_iter, tb_logger, save_img)
        except StopValidationError:
            self._save_and_leave(self.current_iter)

    def _save_and_leave(self, current_iter: int) -> None:
        """Answer a signal: everything is on the disk when the processes end."""
        logger = get_root_logger()
        if distributed.is_main() and current_iter not in self.checkpoints.iterations()[:1]:
            self.save(self.clock.epoch_of(current_iter), current_iter)
        self.save(epoch=-1, current_iter=-1)
        logger.info(
            f'Stopped after iteration {current_iter}, which is saved as '
            f'{self.checkpoints.state_path(current_iter)} and net_*_latest.pth. '
            'Go on with --auto_resume.'
        )
        number = max(distributed.gather(int(self.stop.signal or 0)))
        raise SystemExit(128 + number)


def _is_numbered(current_iter: int | str) -> TypeGuard[int]:
    """A checkpoint to resume from, not ``latest`` (-1) or ``best``."""
    return isinstance(current_iter, int) and current_iter >= 0
