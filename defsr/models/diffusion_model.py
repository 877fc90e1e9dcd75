"""Training of an unconditional denoiser, the prior of DDNM."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from basicsr.models.sr_model import SRModel
from basicsr.utils.registry import MODEL_REGISTRY
from torch import Tensor

from defsr.archs.denoiser_runtime import DenoiserRuntime
from defsr.archs.lazy_compile import compile_errors
from defsr.config.blocks import FILLED_KEYS, RUN_KEYS, required
from defsr.diffusion.predictions import PREDICTIONS, min_snr_weight, target_of, x0_from
from defsr.diffusion.ranges import alpha_bar_of, from_signed, to_signed
from defsr.diffusion.schedule import ADM_SCHEDULE, build_schedule
from defsr.diffusion.steps import diffuse
from defsr.models.means import record_means
from defsr.models.mixed_precision import loss_scale, train_compile, train_precision
from defsr.running.loss_scale import step_on
from defsr.running.shards import Board, ShardLoader, gather_rows
from defsr.utils.checks import check_above, check_between, check_choice, check_keys, check_list
from defsr.utils.seeding import derive_seed

TRAIN_KEYS = (
    'optim_g', 'scheduler', 'total_iter', 'warmup_iter', 'num_iter_per_pass', 'ema_decay',
    'pixel_opt', 'prediction', 'schedule', 'min_alpha_bar', 'min_snr_gamma', 'levels',
    'precision', 'channels_last', 'compile',
)  # fmt: skip
LEVELS = ('timesteps', 'log_snr')
VAL_KEYS = ('val_freq', 'save_img', 'suffix', 'pbar', 'sigmas', 'metrics')


@MODEL_REGISTRY.register()
class DiffusionModel(SRModel):
    """A denoiser ``network_g(x_t, t)`` trained on clean images (DDPM Eq. 14 and its kin).

    Options of its own, in ``train``: ``prediction`` (eps, v or x0), ``schedule`` (as
    ``network_e:diffusion:denoiser_schedule``), ``min_alpha_bar`` (noisier levels are left out),
    ``levels`` (how often each is drawn: ``timesteps``, each alike, or ``log_snr``, evenly in
    log(alpha_bar / (1 - alpha_bar)), which visits the clean levels far more often),
    ``min_snr_gamma`` (weight of the levels, absent: all alike). In ``val``: ``sigmas``, noise on
    the scale of 255 at which the PSNR of the denoised image is measured, as ``psnr_<sigma>``.

    ``train:channels_last`` (default: false) changes the layout in memory alone. With
    ``train:precision: bf16`` or, on a GPU, ``fp16`` (default: ``fp32``) the network runs under
    autocast; weights, loss and optimizer stay float32. ``train:compile`` trains it by
    ``torch.compile``; a validation is as without.
    """

    def __init__(self, opt: dict) -> None:
        self.__dict__.update(self.check(opt))
        self.memory_format = self.runtime.memory_format
        if opt.get('val'):
            opt = opt | {'val': {**opt['val'], 'metrics': {n: {} for n in self.metric_names(opt)}}}
        super().__init__(opt)

    @classmethod
    def check(cls, opt: Mapping[str, Any]) -> dict[str, Any]:
        """Refuse options that are not legal (ValueError); what they mean, by attribute."""
        check_keys('', {key: opt[key] for key in opt if key not in FILLED_KEYS}, RUN_KEYS)
        train, val = opt.get('train') or {}, opt.get('val') or {}
        check_keys('train', train, TRAIN_KEYS)
        check_keys('val', val, VAL_KEYS)
        if train:
            required(train, 'train', 'pixel_opt')
        schedule = build_schedule('train:schedule', train.get('schedule', {}), ADM_SCHEDULE)
        lowest = check_between('train:min_alpha_bar', train.get('min_alpha_bar', 0), 0, 1)
        num_levels = schedule.num_levels(lowest)
        if not num_levels:
            raise ValueError(f'train:min_alpha_bar is {lowest}, above every level. Lower it.')
        gamma = train.get('min_snr_gamma')
        if gamma is not None:
            check_above('train:min_snr_gamma', gamma, 0)
        prediction, levels = train.get('prediction', 'eps'), train.get('levels', 'timesteps')
        sigmas = check_list('val:sigmas', val.get('sigmas', []))
        for sigma in sigmas:
            check_above('An entry of val:sigmas', sigma, 0)
        return {
            'prediction': check_choice('train:prediction', prediction, PREDICTIONS),
            'levels': check_choice('train:levels', levels, LEVELS),
            'schedule': schedule,
            'num_levels': num_levels,
            'gamma': gamma,
            'sigmas': sigmas,
            'runtime': _runtime(opt, train_compile(opt)),
            'plain_runtime': _runtime(opt, False),
        }

    @classmethod
    def reads_of_data(cls, opt: Mapping[str, Any], is_train: bool) -> tuple[str, ...]:
        """What the items of its data sets must have."""
        return ('gt',)

    @classmethod
    def metric_names(cls, opt: Mapping[str, Any]) -> list[str]:
        """What a validation measures, by its names in the log."""
        return [f'psnr_{sigma:g}' for sigma in (opt.get('val') or {}).get('sigmas', ())]

    def init_training_settings(self) -> None:
        """BasicSR's; the moving average in the memory format of what it averages."""
        super().init_training_settings()
        self.loss_scale = loss_scale(self.opt, self.device)
        if self.ema_decay > 0:
            self.runtime.arrange(self.net_g_ema)

    def feed_data(self, data: dict) -> None:
        """Take a batch of clean images ``gt`` (N,3,H,W) in [0, 1]."""
        self.gt = data['gt'].to(self.device)
        self.image_name = data['gt_path'][0]

    def optimize_parameters(self, current_iter: int) -> None:
        """One step on a random level for each image."""
        x0 = to_signed(self.gt)
        t = self._draw_timesteps(len(x0))
        eps = torch.randn(x0.shape).to(x0)
        alpha_bar = self.schedule.alpha_bar_at(t).view(-1, 1, 1, 1).to(x0)
        x_t = diffuse(x0, eps, alpha_bar)
        answer = self.runtime(self.net_g, x_t, t.to(x0))[:, :3]
        target = target_of(self.prediction, x0, eps, alpha_bar)
        weight = None
        if self.gamma is not None:
            weight = min_snr_weight(self.prediction, alpha_bar, self.gamma).expand_as(target)
        loss = self.cri_pix(answer, target, weight)
        with compile_errors('train:compile'):
            step_on(loss, self.optimizer_g, self.loss_scale)
        self.log_dict = self.reduce_loss_dict(OrderedDict(l_pix=loss))
        if self.ema_decay > 0:
            self.model_ema(decay=self.ema_decay)

    def _draw_timesteps(self, number: int) -> Tensor:
        """(number,) timesteps of the levels to train, float64; fractional with ``log_snr``."""
        if self.levels == 'timesteps':
            return torch.randint(self.num_levels, (number,)).double()
        ends = self.schedule.alpha_bar[[0, self.num_levels - 1]].logit()
        share = torch.rand(number, dtype=torch.float64)
        return self.schedule.timesteps_at(torch.lerp(ends[0], ends[1], share).sigmoid())

    @torch.no_grad()
    def denoise(self, gt: Tensor, sigma: float, generator: torch.Generator) -> Tensor:
        """Add noise of ``sigma`` (scale of 255) to ``gt`` in [0, 1] and take it away again."""
        t = self.schedule.timesteps_at(alpha_bar_of(sigma / 255))
        alpha_bar = self.schedule.alpha_bar_at(t).to(gt)
        noise = torch.randn(gt.shape, generator=generator).to(gt)
        x_t = diffuse(to_signed(gt), noise, alpha_bar)
        net_g = self.net_g_ema if hasattr(self, 'net_g_ema') else self.net_g
        net_g.eval()
        answer = self.plain_runtime(net_g, x_t, t.to(gt).expand(len(gt)))[:, :3]
        if net_g is self.net_g and self.is_train:
            net_g.train()
        return from_signed(x0_from(self.prediction, answer, x_t, alpha_bar)).clamp(0, 1)

    def nondist_validation(
        self, dataloader: ShardLoader, current_iter: int | str, tb_logger: Board, save_img: bool
    ) -> None:
        """Denoising PSNR per noise level, mean over images; the noise is the same each time."""
        dataset = dataloader.dataset
        name = dataset.opt['name']
        rows = []
        for data in dataloader:
            self.feed_data(data)
            row = {}
            for sigma in self.sigmas:
                seed = derive_seed('denoise', self.image_name.rsplit('/', 1)[-1], str(sigma))
                generator = torch.Generator().manual_seed(seed)
                error = self.denoise(self.gt, sigma, generator) - self.gt
                row[f'psnr_{sigma:g}'] = -10 * error.square().mean().log10().item()
            rows.append(row)
        rows = gather_rows(rows, dataset)
        record_means(self, rows, name, current_iter, tb_logger)


def _runtime(opt: Mapping[str, Any], use_compile: bool) -> DenoiserRuntime:
    """How the network is called, by ``train:{precision, channels_last}``."""
    channels_last = (opt.get('train') or {}).get('channels_last', False)
    return DenoiserRuntime(train_precision(opt), channels_last, use_compile, where='train')
