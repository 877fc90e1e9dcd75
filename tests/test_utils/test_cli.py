"""A user's mistake ends in one line and exit status 2; a bug keeps its stack."""

from __future__ import annotations

import sys

import pytest

from defsr.utils.cli import run_cli, tell


def fail(error: Exception):
    def main() -> None:
        raise error

    return main


@pytest.mark.parametrize('error', [ValueError('gt is 3x4,\n  expected 8x8'), OSError('disk full')])
def test_a_mistake_is_one_line(error, capsys, monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['tool'])
    with pytest.raises(SystemExit) as stop:
        run_cli(fail(error))
    assert stop.value.code == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first == f'error: {" ".join(str(error).split())}'
    assert '--traceback' in second


def test_the_stack_on_demand(monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['tool', '--traceback', '-x'])
    with pytest.raises(ValueError, match='wrong'):
        run_cli(fail(ValueError('wrong')))
    assert sys.argv == ['tool', '-x']


def test_a_bug_is_not_hidden(monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['tool'])
    with pytest.raises(ZeroDivisionError):
        run_cli(fail(ZeroDivisionError()))


def test_tell(capsys):
    tell('one line')
    assert capsys.readouterr().err == 'one line\n'
