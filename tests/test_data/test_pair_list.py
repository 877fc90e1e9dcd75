"""Pair lists, result names, and the lists that are shipped."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from repository import REPOSITORY

from defsr.data.pair_list import Pair, check_result_names, read_pair_list


def test_blank_lines_and_comments_are_skipped(tmp_path):
    file = tmp_path / 'list.txt'
    file.write_text('# two pairs\n\na.png b.png\n  \n   # more\nc.png d.png  e.png\n')
    assert read_pair_list(file) == [
        Pair('a.png', ('b.png',)),
        Pair('c.png', ('d.png', 'e.png')),
    ]


def test_a_shipped_list_is_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert len(read_pair_list('datasets/WR-SR.txt')) == 80
    Path('datasets').mkdir()
    Path('datasets/WR-SR.txt').write_text('mine.png yours.png\n')
    assert read_pair_list('datasets/WR-SR.txt') == [Pair('mine.png', ('yours.png',))]


def test_missing_and_empty_lists(tmp_path):
    with pytest.raises(FileNotFoundError, match='pair_list is no.txt'):
        read_pair_list('no.txt')
    (tmp_path / 'empty.txt').write_text('# nothing\n')
    with pytest.raises(ValueError, match='has no lines'):
        read_pair_list(tmp_path / 'empty.txt')


@pytest.mark.parametrize(
    'gt, refs, stem',
    [
        ('x.png', ('x.jpg',), 'x'),
        ('in/x.png', ('other/x.png',), 'x'),
        ('000_0.png', ('000_2.png',), '000_0__000_2'),
        ('x.png', ('r1.png', 'r2.png'), 'x__r1+r2'),
        ('x.png', ('x.png', 'r2.png'), 'x__x+r2'),
        ('a.b.png', ('c.d.png',), 'a.b__c.d'),
    ],
)
def test_result_stem(gt, refs, stem):
    assert Pair(gt, refs).result_stem == stem


def test_long_result_names_are_cut_and_stay_apart():
    long = [Pair('x.png', tuple(f'{i}{"r" * 40}{n}.png' for i in range(3))) for n in (1, 2)]
    stems = [pair.result_stem for pair in long]
    assert len(set(stems)) == 2
    assert all(len(stem) == 120 and stem.startswith('x__0rrr') for stem in stems)
    chinese = Pair('\u5b57' * 80 + '.png', ('y.png',)).result_stem
    assert len(chinese.encode()) <= 120
    assert Pair('x' * 117 + '.png', ('y.png',)).result_stem == 'x' * 117 + '__y'  # just fits


def test_two_results_of_one_name_are_refused():
    pairs = [Pair('one/x.png', ('r.png',)), Pair('two/x.png', ('r.png',))]
    with pytest.raises(ValueError, match='Set5: .*one/x.png.* and .*two/x.png.* saved as x__r'):
        check_result_names('Set5', pairs)
    check_result_names('Set5', [*pairs[:1], Pair('one/x.png', ('r2.png',))])


LISTS = REPOSITORY / 'datasets'


@pytest.mark.parametrize(
    'name, count, num_refs',
    [
        *((f'CUFED5_ref{k}', 126, 1) for k in range(1, 6)),
        ('CUFED5_all_refs', 126, 5),
        ('WR-SR', 80, 1),
        ('Urban100', 100, 1),
        ('Manga109', 109, 1),
        ('Sun80', 80, 1),
        *((f'small/cufed5_001_ref{k}', 1, 1) for k in range(1, 6)),
        ('small/cufed5_001_all_refs', 1, 5),
        ('small/urban100_10', 10, 1),
        ('small/manga109_8', 8, 1),
        ('small/sun80_10', 10, 1),
    ],
)
def test_shipped_lists(name, count, num_refs):
    pairs = read_pair_list(LISTS / f'{name}.txt')
    assert len({pair.gt for pair in pairs}) == len(pairs) == count
    assert {len(pair.refs) for pair in pairs} == {num_refs}
    own = [pair.gt in pair.refs for pair in pairs]
    assert all(own) if 'rban100' in name else not any(own)
    check_result_names(name, pairs)


def test_manga109_references_follow_the_stated_rule():
    pairs = read_pair_list(LISTS / 'Manga109.txt')
    titles = [Path(pair.gt).stem for pair in pairs]
    assert titles == sorted(titles)
    circle = list(titles)
    random.Random(109).shuffle(circle)
    following = dict(zip(circle, circle[1:] + circle[:1], strict=True))
    assert [Path(pair.refs[0]).stem for pair in pairs] == [following[title] for title in titles]


@pytest.mark.parametrize(
    'name, folder',
    [
        ('cufed5_001_all_refs', 'cufed5'),
        ('urban100_10', 'urban100'),
        ('manga109_8', 'manga109'),
        ('sun80_10', 'sun80'),
    ],
)
def test_small_lists_name_what_the_folders_hold(name, folder, data_root):
    pairs = read_pair_list(LISTS / 'small' / f'{name}.txt')
    named = {image for pair in pairs for image in (pair.gt, *pair.refs)}
    assert named == {path.name for path in (data_root / folder).iterdir()}


def test_names_with_spaces_and_the_mark_of_windows(tmp_path):
    file = tmp_path / 'list.txt'
    file.write_text('\ufeffa.png b.png\n"my photo.png"  c".png "#1.png"\n"#2.png" d.png\n#e f\n')
    assert read_pair_list(file) == [
        Pair('a.png', ('b.png',)),
        Pair('my photo.png', ('c".png', '#1.png')),
        Pair('#2.png', ('d.png',)),
    ]
    file.write_text('a.png b.png\n"my photo.png c.png\n')
    with pytest.raises(ValueError, match='list.txt, whose line 2 has a quote without an end'):
        read_pair_list(file)
