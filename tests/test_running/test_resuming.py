"""An option file against a training state: what differs is said, and either can be in force."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import pytest
import torch
from basicsr.models.lr_scheduler import CosineAnnealingRestartLR, MultiStepRestartLR

from defsr.running.resuming import Settings

STEP = {'milestones': [2, 5], 'gamma': 0.5}
COSINE = {'periods': [4, 8], 'restart_weights': [1, 0.5], 'eta_min': 1e-7}


class Run:
    """An optimizer and its schedule, as BasicSR's loop steps them."""

    def __init__(self, rule: Mapping, **adam: object) -> None:
        parameter = torch.nn.Parameter(torch.zeros(1))
        self.optimizer = torch.optim.Adam([parameter], **({'lr': 1e-3} | adam))
        kind = CosineAnnealingRestartLR if 'periods' in rule else MultiStepRestartLR
        self.scheduler = kind(self.optimizer, **rule)

    def rates(self, first: int, last: int) -> list[float]:
        found = []
        for current_iter in range(first, last + 1):
            if current_iter > 1:
                self.scheduler.step()
            found.append(self.optimizer.param_groups[0]['lr'])
        return found

    def settings(self) -> Settings:
        return Settings({'optim_g': self.optimizer}, [self.scheduler])

    def resume(self, other: Run) -> None:
        self.optimizer.load_state_dict(other.optimizer.state_dict())
        self.scheduler.load_state_dict(other.scheduler.state_dict())


@pytest.fixture(autouse=True)
def _no_steps_of_the_optimizer():
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', message='Detected call of `lr_scheduler')
        yield


def test_what_differs_is_named_as_in_the_option_file():
    saved, here = Run(STEP), Run(STEP | {'milestones': [7]}, lr=1e-4, betas=(0.9, 0.9))
    of_file = here.settings()
    here.resume(saved)
    assert of_file.differences(here.settings()) == {
        'train:optim_g:betas': ([0.9, 0.9], [0.9, 0.999]),
        'train:optim_g:lr': (1e-4, 1e-3),
        'train:scheduler:milestones': ([7], [2, 5]),
    }
    assert not here.settings().differences(saved.settings())


@pytest.mark.parametrize('saved_with', [STEP, {'milestones': [1, 2, 3], 'gamma': 0.1}])
@pytest.mark.parametrize('iteration', [1, 2, 3, 6])
def test_the_files_rates_are_those_of_a_run_that_had_them_from_the_start(saved_with, iteration):
    saved, here, always = Run(saved_with, lr=5e-3), Run(STEP), Run(STEP)
    saved.rates(1, iteration)
    of_file = here.settings()
    here.resume(saved)
    of_file.restore()
    always.rates(1, iteration)
    assert here.rates(iteration + 1, 9) == always.rates(iteration + 1, 9)


def test_the_same_of_another_schedule_of_cosines():
    saved, here, always = Run(COSINE | {'periods': [6, 9]}), Run(COSINE), Run(COSINE)
    saved.rates(1, 5)
    of_file = here.settings()
    here.resume(saved)
    of_file.restore()
    always.rates(1, 5)
    assert here.rates(6, 12) == always.rates(6, 12)
