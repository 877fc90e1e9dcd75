"""Weights and training states that accidents and strangers have changed."""

from __future__ import annotations

import io
import os
import random
from collections import OrderedDict
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from basicsr.models.lr_scheduler import MultiStepRestartLR
from basicsr.utils import get_root_logger
from fuzzing import dice, fuzz, times
from mutations import VALUES, changed, damaged
from torch import nn

from defsr.running.states import check_state, read_state
from defsr.utils.weights import load_weights

CPU = torch.device('cpu')


class Attack:
    """Unpickling it would make a folder where none may be."""

    def __reduce__(self):
        return os.mkdir, ('../pwned',)

    def __deepcopy__(self, memo: object) -> Attack:
        return self  # a copy is made as unpickling does: here, and nothing would be left of it


@pytest.fixture(autouse=True)
def _quiet(monkeypatch):
    monkeypatch.setattr(get_root_logger(), 'handlers', [])
    monkeypatch.setattr(get_root_logger(), 'propagate', False)


def strange() -> list[Any]:
    """Values beside plain ones."""
    x = torch.ones(4, 3)
    lists: list = [[0] * 9]
    for _ in range(9):
        lists = [lists] * 9
    circle: list = []
    circle.append(circle)
    odd = OrderedDict(a=x)
    odd.get = odd.values = 3  # type: ignore[attr-defined]
    return [
        *VALUES, x, x.long(), x.bool(), x.cfloat(), x.to(torch.int8), x.to('meta'),
        x * float('nan'), x * float('inf'), x.to_sparse(), x[:0], x[0, 0],
        torch.ones(2**10).expand(2**20, 2**10),
        torch.quantize_per_tensor(x, 0.1, 0, torch.qint8), x.to(torch.float8_e4m3fn), x.half(),
        torch.nested.nested_tensor([x]), lists, circle, odd, Attack(), {1: {}}, {(1, 2): x},
        (x,), {x.dtype}, b'x', nn.Parameter(x), torch.Size([3]),
    ]  # fmt: skip


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def packed(content: Any, chance: random.Random, legacy: bool) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=not legacy)
    data = buffer.getvalue()
    return damaged(data, chance) if chance.random() < 0.25 else data


def changed_file(content: Any, chance: random.Random) -> bytes:
    """Some values cannot be written together, or in the older form."""
    while True:
        try:
            return packed(changed(content, chance, strange()), chance, chance.random() < 0.2)
        except Exception:
            continue


def load(data: bytes, strict: bool) -> None:
    Path('w.pth').write_bytes(data)
    network, wanted = net(), {'scale': 4, 'network_g': {'type': 'X'}}
    load_weights(
        network, 'w.pth', option='path:x', network='network_g', strict=strict, trained_with=wanted
    )
    assert all(bool(torch.isfinite(x).all()) for x in network.state_dict().values())


def parts() -> tuple[nn.Module, torch.optim.Optimizer, MultiStepRestartLR]:
    network = net()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    optimizer.param_groups[0]['param_names'] = [name for name, _ in network.named_parameters()]
    return network, optimizer, MultiStepRestartLR(optimizer, milestones=[2, 4], gamma=0.5)


def step(network: nn.Module, optimizer: torch.optim.Optimizer, scheduler: Any) -> None:
    network(torch.ones(2, 3)).square().sum().backward()
    optimizer.step()
    scheduler.step()


def resume(data: bytes) -> None:
    Path('8.state').write_bytes(data)
    network, optimizer, scheduler = parts()
    state = read_state(Path('8.state'), CPU)
    check_state(state, [optimizer], [scheduler])
    optimizer.load_state_dict(state['optimizers'][0])
    scheduler.load_state_dict(state['schedulers'][0])
    for _ in range(3):
        step(network, optimizer, scheduler)


def state_of(chance: random.Random) -> dict[str, Any]:
    things = parts()
    step(*things)
    known = {'images_done': 3, 'manual_seed': 0, 'num_nonfinite': 0, 'ema_decay': 0.9}
    _, optimizer, scheduler = things
    return {
        'epoch': 1,
        'iter': 8,
        'optimizers': [optimizer.state_dict()],
        'schedulers': [scheduler.state_dict()],
        'defsr': known,
    }


@pytest.mark.filterwarnings('ignore')
def test_checkpoints(tmp_path):
    chance = dice('checkpoints')
    weights = {
        'params': dict(net().state_dict()),
        'params_ema': dict(net().state_dict()),
        'trained_with': {'scale': 4, 'network_g': {'type': 'X'}},
    }
    state = state_of(chance)
    buffer = io.BytesIO()
    torch.save(weights, buffer)
    cases = [partial(load, buffer.getvalue(), strict) for strict in (True, False)]
    buffer = io.BytesIO()
    torch.save(state, buffer)
    cases.append(partial(resume, buffer.getvalue()))
    for i in range(times(120, 2000)):
        if i % 2:
            cases.append(partial(load, changed_file(deepcopy(weights), chance), bool(i % 3)))
        else:
            cases.append(partial(resume, changed_file(deepcopy(state), chance)))
    tally = fuzz('checkpoints', tmp_path, cases)
    assert tally.counts['results'] >= 3
    assert tally.counts['clear lines'] > len(cases) / 4
