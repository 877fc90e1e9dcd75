"""The command ``defsr-enhance``, alone and under torchrun."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from repository import REPOSITORY
from workspaces import enhance_options, run_well, save_options, write_prior

from defsr.data.image_source import ImageSource
from defsr.tools import enhance
from defsr.utils import distributed

TWO = ('-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2')
SCRIPT = str(REPOSITORY / 'defsr/tools/enhance.py')


@pytest.fixture
def file(workspace, monkeypatch) -> str:
    """An option file for the workspace's three pairs."""
    monkeypatch.chdir(workspace)
    opt = enhance_options(write_prior(workspace / 'prior.pth'), train={'out': 'de'})
    return save_options(workspace / 'o.yml', opt)


def images(folder: str) -> dict[str, bytes]:
    source = ImageSource('x', folder, 'lmdb' if folder.endswith('.lmdb') else 'disk')
    return {name: source.read_bytes(name) for name in source.names()}


def call(monkeypatch, *arguments: str) -> int:
    """The command in this process; its exit code."""
    monkeypatch.setattr(sys, 'argv', ['defsr-enhance', *arguments])
    monkeypatch.setattr('defsr.utils.stopping.StopRequest.listen', lambda self: None)
    try:
        enhance.main()
    except SystemExit as stop:
        return stop.code
    return 0


def test_one_process_and_torchrun_make_the_same(file, monkeypatch, capsys, one_thread):
    """To the last bit with one thread, which is what torchrun gives each process."""
    assert call(monkeypatch, '-opt', file) == 0
    said = capsys.readouterr().err
    assert 'pairs de: 3 images are in de.' in said and 'image/s' in said
    more = ('--launcher', 'pytorch', '--force_yml', 'datasets:train:out=two.lmdb')
    said = run_well(Path.cwd(), *TWO, SCRIPT, '-opt', file, *more, cold=True)
    assert said.count('3 images are in two.lmdb') == 1, 'one process tells'
    assert images('two.lmdb') == images('de') and len(images('de')) == 3


def test_options_can_be_changed(file, monkeypatch, capsys):
    assert call(monkeypatch, '-opt', file, '--force_yml', 'datasets:train:out=x.lmdb') == 0
    assert len(images('x.lmdb')) == 3
    assert call(monkeypatch, '-opt', file, '--force_yml', 'images_per_batch=0') == 2
    assert 'error: images_per_batch is 0' in capsys.readouterr().err
    assert call(monkeypatch, '-opt', 'no.yml') == 2
    assert 'error: -opt is no.yml, which does not exist' in capsys.readouterr().err


def test_a_launcher_without_its_environment(file, monkeypatch, capsys):
    for name in ('RANK', 'WORLD_SIZE'):
        monkeypatch.delenv(name, raising=False)
    assert call(monkeypatch, '-opt', file, '--launcher', 'pytorch') == 2
    assert 'error: --launcher pytorch needs RANK, WORLD_SIZE' in capsys.readouterr().err


@pytest.mark.parametrize(('number', 'code'), [(None, 2), (15, 143)])
def test_a_process_that_is_lost(file, monkeypatch, capsys, number, code):
    """It says how to go on, unless this one was asked to stop as well."""

    def lose(opt, stop):
        stop.signal = number
        raise distributed.LostProcessError('gone')

    monkeypatch.setattr('defsr.enhance.job.fill_caches', lose)
    assert call(monkeypatch, '-opt', file) == code
    told = capsys.readouterr().err
    assert ('Run the same command again to go on' in told) == (number is None)


@pytest.mark.parametrize('name', ['enhance', 'rectify'])
def test_it_is_a_console_script(name):
    setup = (REPOSITORY / 'setup.py').read_text()
    assert f"'defsr-{name} = defsr.tools.{name}:main'" in setup
