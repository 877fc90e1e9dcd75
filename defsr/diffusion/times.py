"""The timesteps that a sampler visits, and in which order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch

from defsr.diffusion.schedule import NoiseSchedule
from defsr.utils.checks import check_choice

Grid = Literal['ddnm', 'trailing', 'log_snr']
GRIDS = get_args(Grid)


def time_grid(
    schedule: NoiseSchedule,
    num_steps: int,
    grid: Grid = 'ddnm',
    start_alpha_bar: float = 0.0,
    end_alpha_bar: float = 1.0,
    where: str = 'diffusion',
) -> list[int]:
    """The timesteps of a chain, from the cleanest to the noisiest.

    Args:
        schedule: T noise levels.
        num_steps: length of the grid, >= 1.
        grid: ``ddnm``: ``i * (T // num_steps)``, as in DDNM's code, which ends below the noisiest
            level (950 of 999 for 20 steps). ``trailing``: equal steps that end at the noisiest
            level. ``log_snr``: equal steps of log(alpha_bar / (1 - alpha_bar)) between both ends.
        start_alpha_bar: noisier levels, those below it, are left out, 0 .. 1.
        end_alpha_bar: cleaner levels, those above it, are left out, 0 .. 1. T is the number of
            levels that remain, counted from the cleanest.
        where: the block of these options, for messages.

    Raises:
        ValueError: for another grid, and if fewer levels than ``num_steps`` remain.
    """
    check_choice(f'{where}:grid', grid, GRIDS)
    cleanest = int((schedule.alpha_bar > end_alpha_bar).sum())
    total = schedule.num_levels(start_alpha_bar) - cleanest
    if not 1 <= num_steps <= total:
        raise ValueError(
            f'{where}:num_steps is {num_steps}, but the schedule has {max(total, 0)} levels '
            f'with alpha_bar in {start_alpha_bar:g} .. {end_alpha_bar:g}. Lower num_steps or '
            'start_alpha_bar, or raise end_alpha_bar.'
        )
    if grid == 'ddnm':
        return [cleanest + i * (total // num_steps) for i in range(num_steps)]
    if grid == 'trailing':
        return [cleanest + round((i + 1) * total / num_steps) - 1 for i in range(num_steps)]
    return _evenly_in_log_snr(schedule, num_steps, cleanest, cleanest + total)


def _evenly_in_log_snr(
    schedule: NoiseSchedule, num_steps: int, cleanest: int, end: int
) -> list[int]:
    if num_steps == 1:
        return [end - 1]
    log_snr = schedule.alpha_bar[cleanest:end].logit()
    wanted = torch.linspace(log_snr[0], log_snr[-1], num_steps, dtype=torch.float64)
    times = schedule.timesteps_at(wanted.sigmoid()).round().long().tolist()
    for i in range(1, num_steps):  # the first levels lie far apart in log-SNR
        times[i] = max(times[i], times[i - 1] + 1)
    for i in reversed(range(num_steps)):
        times[i] = min(times[i], end - num_steps + i)
    return times


def sampling_moves(times: Sequence[int], travel: Sequence[int] = (1, 1)) -> list[tuple[int, int]]:
    """The moves in time, (from, to), of DDNM with time travel (DDNM Algorithm 2).

    Without travel the grid ``times`` is walked down, and on to -1, the clean image. With travel
    (length, repeats), each arrival at a grid index that is a multiple of ``length`` (the topmost
    stretch apart) is followed by ``repeats - 1`` excursions: ``length`` moves up, the same moves
    down again.
    """
    length, repeats = travel
    num_steps = len(times)
    path = []
    for index in reversed(range(num_steps)):
        path.append(index)
        if index % length == 0 and index < num_steps - length:
            up = range(index + 1, index + length + 1)
            down = range(index + length - 1, index - 1, -1)
            path.extend([*up, *down] * (repeats - 1))
    visited = [times[index] for index in path] + [-1]
    return list(zip(visited[:-1], visited[1:], strict=True))
