"""Ranked images: the table of scores, the pairs that are drawn, what is refused."""

from __future__ import annotations

import random

import pytest
import torch
from torchvision.utils import save_image

from defsr.data.rank_labels import LABELS, RankLabels, read_rank_labels, write_rank_labels
from defsr.data.ranked_image_dataset import RankedImageDataset

METHODS = ('bicubic', 'EDSR', 'GAN')
SCORES = {'0.png': [7.5, 6.0, 3.25], '1.png': [6.0, 7.0, 4.5]}


@pytest.fixture
def folder(tmp_path):
    """Every image is of one level of grey, which says its method and number."""
    for i, method in enumerate(METHODS):
        (tmp_path / method).mkdir()
        for j, name in enumerate(SCORES):
            save_image(torch.full((3, 40, 48), (10 * i + j) / 255), tmp_path / method / name)
    write_rank_labels(tmp_path / LABELS, RankLabels(METHODS, SCORES))
    return tmp_path


def dataset(folder, phase: str, **more) -> RankedImageDataset:
    opt = {'name': 'r', 'type': 'RankedImageDataset', 'io_backend': {'type': 'disk'}}
    return RankedImageDataset(opt | {'phase': phase, 'dataroot_ranked': str(folder)} | more)


def test_labels_come_back(folder):
    found = read_rank_labels(folder / LABELS)
    assert found.methods == [*METHODS] and found.scores == SCORES


def test_validation_has_all_versions(folder):
    item = dataset(folder, 'val')[1]
    levels = item['images'][:, 0, 0, 0] * 255
    assert levels.round().tolist() == [1, 11, 21]
    assert item['images'].shape == (3, 3, 40, 48)
    assert item['scores'].tolist() == SCORES['1.png']


def test_training_draws_two_with_their_scores(folder):
    random.seed(0)
    data, seen = dataset(folder, 'train'), set()
    for _ in range(40):
        item = data[0]
        numbers = [round(float(image[0, 0, 0]) * 255) // 10 for image in item['images']]
        assert item['scores'].tolist() == [SCORES['0.png'][i] for i in numbers]
        seen.add(tuple(numbers))
    assert seen == {(i, j) for i in range(3) for j in range(3) if i != j}


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('', "begins with '', but must name two methods or more"),
        ('name,EDSR\n0.png,1', 'must name two methods'),
        ('name,EDSR,EDSR\n0.png,1,2', 'must name two methods'),
        ('name,a,b\n', 'has no image'),
        ('name,a,b\n0.png,1,2\n1.png,1\n', 'line 3 is damaged'),
        ('name,a,b\n0.png,1,nan\n', 'line 2 is damaged'),
        ('name,a,b\n0.png,1,2\n0.png,1,2\n', 'line 3 is damaged'),
        ('name,a,b\n"0.png,1,2', 'line 2 is damaged'),
    ],
)
def test_damaged_tables(tmp_path, text, message):
    (tmp_path / LABELS).write_text(text)
    with pytest.raises(ValueError, match=message):
        read_rank_labels(tmp_path / LABELS)


def test_what_is_not_there(folder):
    with pytest.raises(
        FileNotFoundError, match=f'dataroot_ranked is .*EDSR, which has no {LABELS}'
    ):
        dataset(folder / 'EDSR', 'train')
    (folder / 'EDSR/1.png').unlink()
    with pytest.raises(FileNotFoundError, match='EDSR/1.png does not exist'):
        dataset(folder, 'train')
    with pytest.raises(ValueError, match='Unknown option `.*gt_size`'):
        dataset(folder, 'train', gt_size=32)
    with pytest.raises(ValueError, match='io_backend:type is lmdb, but must be disk'):
        dataset(folder, 'train', io_backend={'type': 'lmdb'})
