from __future__ import annotations

import pytest
import torch

from defsr.diffusion import NoiseSchedule
from defsr.diffusion.times import GRIDS, sampling_moves, time_grid

SCHEDULES = [NoiseSchedule.linear(1e-6, 1e-2), NoiseSchedule.linear(1e-4, 2e-2)]
SCHEDULES.append(NoiseSchedule.cosine())


@pytest.mark.parametrize('schedule', SCHEDULES, ids=['def', 'adm', 'cosine'])
@pytest.mark.parametrize('grid', GRIDS)
@pytest.mark.parametrize('num_steps', [1, 2, 7, 20, 999, 1000])
def test_grids_rise_inside_the_schedule(schedule, grid, num_steps):
    times = time_grid(schedule, num_steps, grid)
    assert len(times) == num_steps and all(isinstance(t, int) for t in times)
    assert all(a < b for a, b in zip(times[:-1], times[1:], strict=True))
    assert times[0] >= 0 and times[-1] <= 999
    if num_steps == 1000:
        assert times == list(range(1000))


def test_where_grids_end():
    schedule = SCHEDULES[0]
    assert time_grid(schedule, 20)[-1] == 950, 'as the published code'
    assert time_grid(schedule, 20, 'trailing')[-1] == 999
    assert time_grid(schedule, 20, 'log_snr')[-1] == 999
    assert time_grid(schedule, 4, 'trailing') == [249, 499, 749, 999]


def test_steps_of_equal_log_snr():
    schedule = SCHEDULES[2]
    times = time_grid(schedule, 12, 'log_snr')
    steps = schedule.alpha_bar[torch.tensor(times)].logit().diff()
    assert steps.min() / steps.max() > 0.75, 'timesteps are whole numbers'


@pytest.mark.parametrize('grid', GRIDS)
def test_levels_above_a_start_only(grid):
    schedule = SCHEDULES[0]
    times = time_grid(schedule, 30, grid, start_alpha_bar=0.4)
    levels = schedule.alpha_bar[torch.tensor(times)]
    assert levels.min() >= 0.4 and levels.min() < 0.45


@pytest.mark.parametrize('grid', GRIDS)
@pytest.mark.parametrize('num_steps', [1, 2, 30])
def test_levels_below_an_end_only(grid, num_steps):
    schedule = SCHEDULES[0]
    times = time_grid(schedule, num_steps, grid, start_alpha_bar=0.4, end_alpha_bar=0.999)
    levels = schedule.alpha_bar[torch.tensor(times)]
    assert levels.min() >= 0.4 and levels.max() <= 0.999
    assert all(a < b for a, b in zip(times[:-1], times[1:], strict=True))
    if num_steps > 1 and grid != 'trailing':
        assert times[0] == int((schedule.alpha_bar > 0.999).sum())


def test_no_level_between_the_ends():
    with pytest.raises(ValueError, match=r'has 0 levels with alpha_bar in 0.5 \.\. 0.4'):
        time_grid(SCHEDULES[0], 1, 'ddnm', start_alpha_bar=0.5, end_alpha_bar=0.4)


def test_moves_walk_down_to_the_clean_image():
    assert sampling_moves([0, 50, 100]) == [(100, 50), (50, 0), (0, -1)]
