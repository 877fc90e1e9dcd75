"""The options of sampling: documented, checked and completed here, read by everybody else."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from typing import Any, Literal, get_args

from defsr.diffusion.predictions import PREDICTIONS, Prediction
from defsr.diffusion.schedule import ADM_SCHEDULE, NoiseSchedule, build_schedule, complete_schedule
from defsr.diffusion.steps import RULES
from defsr.diffusion.times import GRIDS, Grid, time_grid
from defsr.utils.checks import (
    check_at_least,
    check_between,
    check_block,
    check_choice,
    check_int,
    check_keys,
)

Strategy = Literal['full', 'blend', 'replace', 'mask_shift']
STRATEGIES = get_args(Strategy)
SAMPLING_SCHEDULE = {'beta_start': 1e-6, 'beta_end': 1e-2, 'num_train_steps': 1000}  # DEF's
QUANTIZATION = 1 / (255 * math.sqrt(12))  # std of rounding to 8 bit, on the [0, 1] scale


@dataclass(frozen=True)
class SamplingOptions:
    """How DDNM samples: the block ``network_e:diffusion`` of an option file.

    Args:
        num_steps: reverse steps, 1..num_train_steps of ``schedule``, 1000 in DEF. On the grid
            ``ddnm`` take a divisor of that: otherwise the chain starts well below the schedule's
            noisiest level. Default: 100.
        eta: share of fresh noise *per step*, 0 (deterministic but for the first noise) .. 1, in
            the convention of DDNM's code, not DDIM's. The larger, the less varied the samples,
            for any num_steps: for a Gaussian prior of variance 0.25, 1000 steps give 0.25 at 0,
            0.19 at 0.85, 0.12 at 1. Default: 0.85, as DDNM's code.
        sigma_y: noise standard deviation of the input, >= 0, in its own units: of lq on the [0, 1]
            scale in an option file, of y in [-1, 1] for ``ddnm_sample``; above 0, DDNM+.
            ``quantization``: that of rounding lq to 8 bit, 1 / (255 sqrt(12)). Default: 0.
        travel: (length, repeats) of time travel (DDNM Algorithm 2), both >= 1. Default: (1, 1),
            none.
        start: ``noise``, or ``lq``: from A_pinv y with noise of level ``start_alpha_bar``. The
            steps are spent below that level, and nothing above it is ever seen. Default:
            ``noise``.
        start_alpha_bar: for ``start: lq``, 0..1. Default: 0.5.
        end_alpha_bar: cleaner levels are not visited, 0..1: the last ones cost steps and change
            little. Default: 1.
        temperature: factor of all noise, 0..1, while the denoiser is told the full level. 1
            samples; 0 is deterministic and, with eta = 1, plug-and-play restoration (denoise ever
            more gently and project; IRCNN, DPIR), whose result is smoother than a sample and
            nearer to the posterior mean. Default: 1.
        extrapolation: for ``start: lq``, how far each rectified x0 is carried on along its way from
            the one before it, from A_pinv y at first, >= 0: x0 + extrapolation (x0 - before). Data
            consistency stays. With temperature 0 few steps then reach more than many do without it
            (over-relaxation). Default: 0.
        grid: which timesteps are visited, see ``time_grid``. Default: ``ddnm``.
        rule: how the next state is made of the rectified x0: ``ddnm`` (the published code),
            ``ddim`` (eta in DDIM's sense) or ``ddpm`` (the posterior, DDNM's paper; eta is not
            used). Default: ``ddnm``.
        schedule: the noise levels to sample with: beta_start, beta_end, num_train_steps of a
            linear one, or ``type: cosine`` and num_train_steps. Default: linear, 1e-6, 1e-2,
            1000, as in DEF.
        denoiser_schedule: the same of the denoiser's training. Default: what the denoiser says of
            it (``DiffusersUNet``), else linear, 1e-4, 2e-2, 1000.
        prediction: what the denoiser was trained to answer, ``eps``, ``v`` or ``x0``. Default:
            what the denoiser says, else ``eps``.
        strategy: for images larger than ``tile``. Default: ``full``.
            ``full``: the whole image at once (a convolutional denoiser takes any size).
            ``blend``: in each step all windows as batches, their predictions blended, then one
            projection of the whole image. No window ever sees an end of its own.
            ``replace``: window after window, a later one replaces an earlier one (DEF section 3).
            ``mask_shift``: window after window; what an earlier one made of the overlap is held
            in each step of the later one (DDNM's mask-shift).
        tile: side of a window in HR pixels, a multiple of the scale and of the denoiser's stride.
            Default: 256.
        overlap: of neighbouring windows in HR pixels, at least, 0..tile - scale. Default: 128,
            half of ``tile`` as in DEF.
        windows_per_batch: for ``blend``, windows in one call of the denoiser, >= 1. Default: 8.
        seed: of the noise, >= 0. Default: 0.
        where: the block's path, for messages.

    Raises:
        ValueError: for a value out of range; the message names the option.
    """

    num_steps: int = 100
    eta: float = 0.85
    sigma_y: float | Literal['quantization'] = 0.0
    travel: Sequence[int] = (1, 1)
    start: Literal['noise', 'lq'] = 'noise'
    start_alpha_bar: float = 0.5
    end_alpha_bar: float = 1.0
    temperature: float = 1.0
    extrapolation: float = 0.0
    grid: Grid = 'ddnm'
    rule: Literal['ddnm', 'ddim', 'ddpm'] = 'ddnm'
    schedule: Mapping[str, Any] = field(default_factory=dict)
    denoiser_schedule: Mapping[str, Any] | None = None
    prediction: Prediction | None = None
    strategy: Strategy = 'full'
    tile: int = 256
    overlap: int = 128
    windows_per_batch: int = 8
    seed: int = 0
    where: str = 'network_e:diffusion'

    @classmethod
    def from_block(cls, where: str, block: Mapping[str, Any]) -> SamplingOptions:
        """Read a block of an option file. ValueError for an unknown key, too."""
        known = {each.name for each in fields(cls)} - {'where'}
        check_keys(where, check_block(where, block), known)
        return cls(**block, where=where)

    def __post_init__(self) -> None:
        if isinstance(self.travel, list):
            object.__setattr__(self, 'travel', tuple(self.travel))
        where = self.where
        check_int(f'{where}:num_steps', self.num_steps, 1)
        for name in ('eta', 'start_alpha_bar', 'end_alpha_bar', 'temperature'):
            check_between(f'{where}:{name}', getattr(self, name), 0, 1)
        check_choice(f'{where}:start', self.start, ('noise', 'lq'))
        if check_at_least(f'{where}:extrapolation', self.extrapolation, 0) and self.start != 'lq':
            raise ValueError(
                f'{where}:extrapolation is {self.extrapolation}, but a start from noise has '
                'nothing to go on from. Set `start: lq`, or remove it.'
            )
        check_choice(f'{where}:grid', self.grid, GRIDS)
        check_choice(f'{where}:rule', self.rule, RULES)
        if check_at_least(f'{where}:sigma_y', self.sigma, 0) and not RULES[self.rule].noisy:
            raise ValueError(
                f'{where}:rule is {self.rule}, but a noisy input (sigma_y = {self.sigma:g}) is '
                'handled by DDNM+, which has its own. Set `rule: ddnm`.'
            )
        if not isinstance(self.travel, Sequence) or len(self.travel) != 2:
            raise ValueError(
                f'{where}:travel is {self.travel!r}, but must be two integers, [length, repeats]. '
                '[1, 1] means no time travel.'
            )
        for name, value in zip(('length', 'repeats'), self.travel, strict=True):
            check_int(f'{where}:travel {name}', value, 1)
        if self.prediction is not None:
            check_choice(f'{where}:prediction', self.prediction, PREDICTIONS)
        check_choice(f'{where}:strategy', self.strategy, STRATEGIES)
        for name, minimum in (('tile', 1), ('overlap', 0), ('windows_per_batch', 1), ('seed', 0)):
            check_int(f'{where}:{name}', getattr(self, name), minimum)
        self.times, self.trained_with  # noqa: B018  (they check the schedules)

    @property
    def sigma(self) -> float:
        """``sigma_y`` as a number."""
        return QUANTIZATION if self.sigma_y == 'quantization' else self.sigma_y

    @cached_property
    def levels(self) -> NoiseSchedule:
        """``schedule`` as a table."""
        return build_schedule(f'{self.where}:schedule', self.schedule, SAMPLING_SCHEDULE)

    @cached_property
    def times(self) -> list[int]:
        """The timesteps to visit, from the cleanest to the noisiest."""
        lowest = self.start_alpha_bar if self.start == 'lq' else 0
        return time_grid(
            self.levels, self.num_steps, self.grid, lowest, self.end_alpha_bar, self.where
        )

    @cached_property
    def trained_with(self) -> NoiseSchedule:
        """``denoiser_schedule`` as a table."""
        block = self.denoiser_schedule
        where = f'{self.where}:denoiser_schedule'
        return build_schedule(where, {} if block is None else block, ADM_SCHEDULE)

    def check_windows(self, scale: int, stride: int = 1) -> None:
        """Refuse windows that do not fit the scale and the denoiser's stride."""
        if self.strategy == 'full':
            return
        multiple = math.lcm(scale, stride)
        if self.tile % multiple:
            nearest = max(multiple, self.tile - self.tile % multiple)
            raise ValueError(
                f'{self.where}:tile is {self.tile}, but must be a multiple of {multiple} '
                f"(scale and the denoiser's stride). Nearest: {nearest}."
            )
        check_between(f'{self.where}:overlap', self.overlap, 0, self.tile - scale)

    def completed(self) -> dict[str, Any]:
        """The block with all that it leaves to defaults."""
        block = asdict(self) | {
            'schedule': complete_schedule(self.schedule, SAMPLING_SCHEDULE),
            'denoiser_schedule': complete_schedule(self.denoiser_schedule or {}, ADM_SCHEDULE),
            'prediction': self.prediction or 'eps',
        }
        # Caches of before there was an extrapolation are valid without one.
        unsaid = {'where'} if self.extrapolation else {'where', 'extrapolation'}
        return {name: value for name, value in block.items() if name not in unsaid}
