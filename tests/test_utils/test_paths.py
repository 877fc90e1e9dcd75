"""Shipped weights are found from anywhere."""

from __future__ import annotations

import pytest

from defsr.utils.paths import REPOSITORY, find_pretrained


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
    with pytest.raises(FileNotFoundError, match="'none.pth' not found. Tried: none.pth, .*models"):
        find_pretrained('none.pth')
