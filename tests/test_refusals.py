"""Every mistake of the table in ``refusals.py`` ends in its line and exit status 2."""

from __future__ import annotations

import logging
import sys

import pytest
from basicsr.utils import get_root_logger
from refusals import CASES, END, GROUPS, PAGE, START, UPSCALE, Workspace, as_test, page
from repository import REPOSITORY
from workspaces import run

from defsr.utils.cli import run_cli


@pytest.fixture
def workspace(tmp_path, monkeypatch) -> Workspace:
    """The small folder, as the current one; what is logged does not get to stderr."""
    monkeypatch.setattr(get_root_logger(), 'handlers', [logging.NullHandler()])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'argv', ['tool'])
    return Workspace(tmp_path)


def not_bars(text: str) -> list[str]:
    """The lines of stderr without progress bars."""
    return [line for line in text.splitlines() if line.strip() and 'image/s' not in line]


@pytest.mark.parametrize('run', list(dict.fromkeys(case.run for case in CASES.values())))
def test_the_workspace_is_in_order(workspace, run):
    """Or a case might be refused for another reason."""
    if 'is_train' in getattr(run, 'keywords', {}):
        as_test(workspace)
    run(workspace)


@pytest.mark.parametrize('test_id', CASES)
def test_it_is_refused_in_one_line(workspace, test_id, capsys):
    case = CASES[test_id]
    case.spoil(workspace)
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        run_cli(lambda: case.run(workspace))
    assert stop.value.code == 2
    told = not_bars(capsys.readouterr().err)
    line = told.pop()
    assert line.startswith('error: ') and line.endswith(' (--traceback shows where)')
    assert case.matches(line), line
    assert all(other.startswith('libpng') for other in told)  # which nothing can silence


def test_every_kind_has_a_name_of_its_own():
    assert len(CASES) == sum(map(len, GROUPS.values())) >= 40


def test_the_page_lists_every_kind():
    """``python tests/refusals.py`` writes it."""
    table = PAGE.read_text(encoding='utf-8').split(START)[1].split(END)[0]
    assert table.strip() == page().strip()


SCRIPTS = {
    'option file that runs code': ('defsr/test.py', '-opt', 'unsafe.yml'),
    'cut photo': ('-m', 'defsr.tools.upscale', *UPSCALE[1:]),
    'cut image': ('-m', 'defsr.tools.create_lmdb', '--gt', 'gt', '--out', 'packed'),
}


@pytest.mark.parametrize('name', SCRIPTS)
def test_the_commands_themselves(workspace, name):
    script, *arguments = SCRIPTS[name]
    if script != '-m':
        script = str(REPOSITORY / script)
    (workspace.folder / 'unsafe.yml').write_text('a: !!python/object/apply:os.system [ls]')
    workspace.set('num_gpu', -1)
    workspace.save()
    workspace.tear('gt/0.png', 0.7)
    done = run(workspace.folder, script, *arguments, cold=True)
    lines = not_bars(done.stderr)
    assert done.returncode == 2
    assert len(lines) == 1 and lines[0].startswith('error: '), done.stderr
