"""A file appears whole or not at all."""

from __future__ import annotations

import errno
import os

import pytest

from defsr.utils.files import (
    atomic_path,
    building_folder,
    clear_remains,
    publish_folder,
    shortened,
)


def test_appears_when_the_block_ends(tmp_path):
    target = tmp_path / 'new' / 'a.txt'
    with atomic_path(target) as temporary:
        temporary.write_text('whole')
        assert not target.exists()
    assert target.read_text() == 'whole'
    assert [p.name for p in target.parent.iterdir()] == ['a.txt']


def test_an_error_leaves_the_older_file_and_nothing_else(tmp_path):
    target = tmp_path / 'a.txt'
    target.write_text('old')
    with pytest.raises(RuntimeError), atomic_path(target) as temporary:
        temporary.write_text('half')
        raise RuntimeError
    assert target.read_text() == 'old'
    assert [p.name for p in tmp_path.iterdir()] == ['a.txt']


def test_a_folder_replaces_the_old_one_at_once(tmp_path):
    final = tmp_path / 'set'
    for content in ('first', 'second'):
        building_folder(final).mkdir()
        (building_folder(final) / 'a.txt').write_text(content)
        publish_folder(final)
        assert (final / 'a.txt').read_text() == content
    assert [p.name for p in tmp_path.iterdir()] == ['set']


def test_what_a_killed_run_left_is_undone(tmp_path):
    final = tmp_path / 'set'
    building_folder(final).mkdir()
    (tmp_path / '.set.old').mkdir()
    (tmp_path / '.set.old/a.txt').write_text('kept')
    clear_remains(final)
    assert (final / 'a.txt').read_text() == 'kept'
    assert [p.name for p in tmp_path.iterdir()] == ['set']


@pytest.mark.parametrize('wrapped', [False, True], ids=['plain', 'wrapped'])
def test_a_disk_that_does_not_take_it_is_named_with_the_file(tmp_path, wrapped):
    path = tmp_path / 'x.txt'
    path.write_text('old')
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    message = f'{path} could not be written: No space left'
    with pytest.raises(OSError, match=message), atomic_path(path):
        if wrapped:
            raise RuntimeError('unexpected pos 61102 vs 61072') from full
        raise full
    assert path.read_text() == 'old'


def test_other_errors_pass_as_they_are(tmp_path):
    with pytest.raises(FileNotFoundError, match='elsewhere'), atomic_path(tmp_path / 'x'):
        (tmp_path / 'elsewhere').read_text()


def test_the_longest_name_can_be_written(tmp_path):
    for name in ('x' * 251 + '.png', '\u5b57' * 83 + '.png'):
        with atomic_path(tmp_path / name) as temporary:
            temporary.write_text('whole')
        assert (tmp_path / name).read_text() == 'whole'


def test_shortened_in_bytes():
    assert shortened('short', 20) == 'short'
    for name in ('x' * 300, '\u5b57' * 100, '\udcff' * 100):
        short = shortened(name, 50)
        assert len(short.encode('utf-8', 'surrogatepass')) <= 50
        assert short != shortened(name + 'y', 50)
