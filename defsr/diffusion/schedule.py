"""Noise schedules: the cumulative alpha per timestep, and how two schedules correspond."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from defsr.ops.exact import exact
from defsr.utils.checks import check_at_least, check_between, check_choice, check_int, check_keys

ADM_SCHEDULE = {'beta_start': 1e-4, 'beta_end': 2e-2, 'num_train_steps': 1000}  # of ADM's training


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """The noise levels of a diffusion process, computed once in float64.

    At timestep t the state is ``sqrt(alpha_bar[t]) * x0 + sqrt(1 - alpha_bar[t]) * noise``.
    A classmethod per family of schedules makes the table: ``linear``, ``cosine``.

    Args:
        alpha_bar: (T,) float64, strictly decreasing, between 0 and 1 exclusive. At t = -1,
            outside the table, alpha_bar is 1: the clean image.

    Raises:
        ValueError: for any other table.
    """

    alpha_bar: Tensor

    def __post_init__(self) -> None:
        table = self.alpha_bar
        if table.ndim != 1 or len(table) == 0 or table.dtype != torch.float64:
            raise ValueError(
                f'alpha_bar is {table.dtype} of shape {tuple(table.shape)}, but must be a '
                'float64 vector with one entry per timestep.'
            )
        inside = bool((table > 0).all() and (table < 1).all())
        if not inside or not bool((table.diff() < 0).all()):
            raise ValueError(
                'alpha_bar must fall strictly and stay between 0 and 1 (exclusive). '
                'Change beta_start, beta_end or num_train_steps of the schedule.'
            )

    @classmethod
    def linear(
        cls, beta_start: float, beta_end: float, num_train_steps: int = 1000
    ) -> NoiseSchedule:
        """Betas in equal steps, as in DDPM: ``alpha_bar[t] = prod(1 - beta[0..t])``.

        Args:
            beta_start: first beta, 0 < beta_start < 1.
            beta_end: last beta, beta_start <= beta_end < 1.
            num_train_steps: T, an integer >= 1. Default: 1000.

        Raises:
            ValueError: for betas or a T out of range.
        """
        num_train_steps = check_int('schedule:num_train_steps', num_train_steps, 1, or_float=True)
        check_between('schedule:beta_start', beta_start, 0, 1)
        check_between('schedule:beta_end', beta_end, beta_start, 1)
        beta = torch.linspace(beta_start, beta_end, num_train_steps, dtype=torch.float64)
        return cls((1 - beta).cumprod(0))

    @classmethod
    def cosine(
        cls, num_train_steps: int = 1000, offset: float = 0.008, max_beta: float = 0.999
    ) -> NoiseSchedule:
        """The schedule of "Improved DDPM" (Nichol and Dhariwal 2021, Eq. 17).

        ``alpha_bar[t] = f((t+1)/T) / f(0)``, ``f(u) = cos^2(pi/2 * (u + offset)/(1 + offset))``,
        with betas of at most ``max_beta``.

        Args:
            num_train_steps: T, an integer >= 1. Default: 1000.
            offset: keeps the first betas away from 0, > 0. Default: 0.008.
            max_beta: in (0, 1). Default: 0.999.

        Raises:
            ValueError: for values out of range.
        """
        num_train_steps = check_int('schedule:num_train_steps', num_train_steps, 1, or_float=True)
        check_at_least('schedule:offset', offset, 0)
        check_between('schedule:max_beta', max_beta, 0, 1)
        u = torch.linspace(0, 1, num_train_steps + 1, dtype=torch.float64)
        f = torch.cos((u + offset) / (1 + offset) * math.pi / 2) ** 2
        beta = (1 - f[1:] / f[:-1]).clamp(max=max_beta)
        return cls((1 - beta).cumprod(0))

    @property
    def num_train_steps(self) -> int:
        """T, the number of timesteps in the table."""
        return len(self.alpha_bar)

    def num_levels(self, lowest: float) -> int:
        """How many timesteps, from 0 on, have an alpha_bar of at least ``lowest``."""
        return int((self.alpha_bar >= lowest).sum())

    def alpha_bar_at(self, t: Tensor | float) -> Tensor:
        """alpha_bar at timesteps, the inverse of ``timesteps_at``.

        Args:
            t: any shape; -1, or in [0, T-1]. Between table entries, log-SNR is interpolated.

        Returns:
            float64 of t's shape and device, or on the CPU where that has no float64; exactly 1 at
            t = -1, exactly the table at integers.

        Raises:
            ValueError: if a timestep is elsewhere.
        """
        t = exact(t)
        clean = t == -1
        last = self.num_train_steps - 1
        if not bool((clean | ((t >= 0) & (t <= last))).all()):
            raise ValueError(f't must be -1 or in [0, {last}], got {t.flatten()[:4].tolist()}.')
        table = self.alpha_bar.to(t.device)
        low = t.clamp(0, last).floor().long()
        high = (low + 1).clamp(max=last)
        share = t.clamp(0, last) - low
        log_snr = torch.lerp(table[low].logit(), table[high].logit(), share)
        value = torch.where(share == 0, table[low], log_snr.sigmoid())
        return torch.where(clean, torch.ones_like(value), value)

    def timesteps_at(self, alpha_bar: Tensor | float) -> Tensor:
        """The fractional timesteps of *this* schedule that have given noise levels.

        A denoiser trained on one schedule is asked in its own timesteps while sampling follows
        another schedule. Piecewise linear in log-SNR, ``log(alpha_bar / (1 - alpha_bar))``.

        Args:
            alpha_bar: any shape, values in [0, 1].

        Returns:
            float64 of the same shape, and where ``alpha_bar_at`` has it, in [0, T-1]; levels beyond
            the table's ends are clamped. The table's own entries give 0, 1, ..., T-1.

        Raises:
            ValueError: for values outside [0, 1].
        """
        alpha_bar = exact(alpha_bar)
        if not bool(((alpha_bar >= 0) & (alpha_bar <= 1)).all()):
            raise ValueError('alpha_bar must be in [0, 1]: it is a cumulative product of alphas.')
        table = self.alpha_bar.to(alpha_bar.device)
        if len(table) == 1:
            return torch.zeros_like(alpha_bar)
        wanted = alpha_bar.clamp(table[-1], table[0])
        # searchsorted wants rising values; -table rises because the table falls.
        high = torch.searchsorted(-table, -wanted.contiguous()).clamp(1, len(table) - 1)
        above, below = table[high - 1].logit(), table[high].logit()
        return high - 1 + (above - wanted.logit()) / (above - below)


def build_schedule(
    block: str, opt: Mapping[str, Any], defaults: Mapping[str, float]
) -> NoiseSchedule:
    """A schedule from an option block.

    Args:
        block: its path, for messages.
        opt: ``type: linear`` (default) with beta_start, beta_end, num_train_steps, or
            ``type: cosine`` with num_train_steps.
        defaults: of a linear schedule.

    Raises:
        ValueError: for unknown keys and values out of range.
    """
    if not isinstance(opt, Mapping):
        raise ValueError(f'{block} is {opt!r}; expected {dict(defaults)}.')
    given = dict(opt)
    kind = check_choice(f'{block}:type', given.pop('type', 'linear'), ('linear', 'cosine'))
    if kind == 'cosine':
        check_keys(block, given, ('num_train_steps',))
        return NoiseSchedule.cosine(**given)
    check_keys(block, given, defaults)
    return NoiseSchedule.linear(**{**defaults, **given})


def complete_schedule(opt: Mapping[str, Any], defaults: Mapping[str, float]) -> dict[str, Any]:
    """The same block with everything said that ``build_schedule`` would fill in."""
    if opt.get('type') == 'cosine':
        defaults = {'num_train_steps': defaults['num_train_steps']}
    return {'type': 'linear'} | dict(defaults) | dict(opt)
