"""Loops as machine code, and where it is kept."""

from __future__ import annotations

import numpy as np
import pytest

numba = pytest.importorskip('numba')


def double(values):
    for i in range(len(values)):
        values[i] *= 2


@pytest.mark.parametrize('can_keep', [True, False], ids=['kept', 'nowhere to keep it'])
def test_a_loop_runs_wherever_its_code_can_be_kept(monkeypatch, can_keep):
    from defsr.utils.compiled import compiled

    njit = numba.njit

    def made(*args, cache=False, **options):
        if cache and not can_keep:
            raise RuntimeError('cannot cache function: no locator available')
        return njit(*args, **options)

    monkeypatch.setattr(numba, 'njit', made)
    values = np.arange(3.0)
    compiled(double)(values)
    assert values.tolist() == [0, 2, 4]
