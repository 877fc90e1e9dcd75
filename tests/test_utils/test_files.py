"""A file appears whole or not at all."""

from __future__ import annotations

import pytest

from defsr.utils.files import atomic_path


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
