"""Shipped weights are found from anywhere."""

from __future__ import annotations

import pytest
from repository import REPOSITORY

from defsr.utils.paths import find_pretrained


def test_found_by_name_and_by_path_from_another_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = 'vgg16_trunk_hed.pth'
    expected = REPOSITORY / 'experiments/pretrained_models' / name
    assert find_pretrained(name) == expected
    assert find_pretrained(f'experiments/pretrained_models/{name}') == expected


def test_a_file_here_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'own.pth').touch()
    assert find_pretrained('own.pth').resolve() == tmp_path / 'own.pth'


def test_missing_weights_name_every_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match='x:y is none.pth, .*Tried: none.pth, .*models'):
        find_pretrained('none.pth', 'x:y')
    with pytest.raises(FileNotFoundError, match='weights is .*, which is a folder'):
        find_pretrained(tmp_path)
    for path in (3, None, '', 'a\0b'):
        with pytest.raises(ValueError, match='but must be the path of a weight file'):
            find_pretrained(path)
