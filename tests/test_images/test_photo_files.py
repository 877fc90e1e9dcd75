"""Which files of a folder are photos, and where their results go."""

from __future__ import annotations

from pathlib import Path

import pytest

from defsr.images.photo_files import Task, expand, photos_below, tasks


@pytest.fixture
def folder(tmp_path) -> Path:
    names = ('a.png', 'b.JPG', 'in/a.png', 'in/deep/c.tif', 'notes.txt', '.hidden.png',
             '.git/x.png', 'out/a.png')  # fmt: skip
    for name in names:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b'')
    return tmp_path


def test_photos_of_all_sub_folders_but_the_output(folder):
    found = photos_below(folder, without=folder / 'out')
    assert [str(path.relative_to(folder)) for path in found] == [
        'a.png', 'b.JPG', 'in/a.png', 'in/deep/c.tif'
    ]  # fmt: skip


def test_files_and_folders_mixed_each_once(folder):
    found = expand([folder / 'in/a.png', folder / 'in', folder / 'b.JPG'])
    assert [path.name for path in found] == ['a.png', 'c.tif', 'b.JPG']


def test_a_file_that_is_not_there_is_left_to_the_reader(tmp_path):
    assert expand([tmp_path / 'none.png']) == [tmp_path / 'none.png']


def test_results_keep_their_names_and_no_two_share_one():
    folder = Path('in')
    names = ('a.png', 'a.bmp', 'b.gif', 'c.jpg', 'sub/a.png')
    found = tasks([folder / name for name in names], folder, Path('out'))
    assert found == [
        Task(folder / name, Path('out') / result)
        for name, result in zip(
            names, ('a.png', 'a.bmp.png', 'b.png', 'c.jpg', 'sub/a.png'), strict=True
        )
    ]
