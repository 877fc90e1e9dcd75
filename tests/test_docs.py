"""The pages: all in the index, every link and picture there, and what they say of the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from repository import REPOSITORY
from test_layers import FLOOR_OF

import defsr
from defsr.benchmark.options import read_benchmark
from defsr.config.check import check_options
from defsr.config.files import load_options

DOCS = REPOSITORY / 'docs'
PAGES = (
    *sorted(DOCS.glob('*.md')),
    *(REPOSITORY / name for name in ('README.md', 'CHANGES.md', 'CONTRIBUTING.md')),
    REPOSITORY / 'experiments/pretrained_models/README.md',
)
FENCED = re.compile(r'^```.*?^```', re.M | re.S)
LINK = re.compile(r'!?\[[^\]]*\]\(([^)\s]+)\)')
NAMED = re.compile(r'\bdocs/[\w/]+\.(?:md|png|jpg|txt)\b')
MOST_WORDS = 900  # of the README: three minutes


def links(page: Path) -> list[str]:
    """What a page links to and shows, but for other sites."""
    text = FENCED.sub('', page.read_text(encoding='utf-8'))
    return [link for link in LINK.findall(text) if not re.match(r'\w+:', link)]


def anchors(page: Path) -> set[str]:
    """Those that GitHub gives to its headings."""
    text = FENCED.sub('', page.read_text(encoding='utf-8'))
    heads = re.findall(r'^#+ (.+)$', text, re.M)
    return {re.sub(r'[^\w\- ]', '', head.lower()).replace(' ', '-') for head in heads}


def broken(page: Path) -> list[str]:
    """The links of a page that lead nowhere."""
    wrong = []
    for link in links(page):
        name, _, anchor = link.partition('#')
        target = (page.parent / name).resolve() if name else page
        is_there = target.exists() and target.is_relative_to(REPOSITORY)
        if not is_there or (anchor and anchor not in anchors(target)):
            wrong.append(link)
    return wrong


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.relative_to(REPOSITORY).as_posix())
def test_links_lead_somewhere(page):
    assert not broken(page)


def test_a_broken_link_is_found(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), 'REPOSITORY', tmp_path)
    page, other = tmp_path / 'page.md', tmp_path / 'other.md'
    other.write_text('# Its *only* head: one\n')
    page.write_text(
        '[a](other.md) [b](other.md#its-only-head-one) [c](https://x.org/none) ![d](none.png)\n'
        '[e](other.md#none) [f](../outside.md) [g](#none)\n```\n[h](in_code.md)\n```\n'
    )
    assert broken(page) == ['none.png', 'other.md#none', '../outside.md', '#none']


def test_every_page_is_in_the_index_once():
    listed = [link for link in links(DOCS / 'README.md') if '/' not in link]
    pages = sorted(page.name for page in DOCS.glob('*.md') if page.name != 'README.md')
    assert sorted(listed) == pages


def test_every_picture_is_shown():
    shown = {(page.parent / link).resolve() for page in PAGES for link in links(page)}
    assert {path for path in (DOCS / 'images').iterdir() if path not in shown} == set()


def test_what_files_say_of_pages_is_there():
    """Option files, docstrings and messages name pages by ``docs/...``."""
    files = [
        path
        for folder in ('defsr', 'options', 'tests', 'datasets', 'experiments/pretrained_models')
        for end in ('py', 'yml', 'txt', 'md')
        for path in (REPOSITORY / folder).rglob(f'*.{end}')
        if path != Path(__file__)
    ]
    files += [*PAGES, REPOSITORY / 'setup.py', REPOSITORY / 'Makefile']
    named = {name: path for path in files for name in NAMED.findall(path.read_text('utf-8'))}
    assert len(named) > 15
    assert {name: path for name, path in named.items() if not (REPOSITORY / name).exists()} == {}


def test_the_readme_is_short():
    assert len((REPOSITORY / 'README.md').read_text(encoding='utf-8').split()) <= MOST_WORDS


def test_its_option_file_is_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    readme = (REPOSITORY / 'README.md').read_text(encoding='utf-8')
    [block] = re.findall(r'^```yaml\n(.*?)^```', readme, re.M | re.S)
    Path('mine.yml').write_text(block)
    opt = load_options('mine.yml')
    check_options(opt, is_train=True)
    assert {*opt['datasets']} == {'train', 'val_1'}
    assert opt['datasets']['train']['dataroot_gt'] == 'datasets/pairs/gt'
    assert ' --out datasets/pairs ' in readme and '-opt mine.yml' in readme
    assert f'experiments/{opt["name"]}/models/net_g_latest.pth' in readme


def test_a_row_of_your_own_is_one(tmp_path, monkeypatch):
    """The README's training in the benchmark of docs/benchmark.md, then with data of one's own."""
    monkeypatch.chdir(tmp_path)
    readme = (REPOSITORY / 'README.md').read_text(encoding='utf-8')
    own = (DOCS / 'benchmark.md').read_text(encoding='utf-8').split('## A row of your own')[1]
    row, data = re.findall(r'^```yaml\n(.*?)^```', own.split('\n## ')[0], re.M | re.S)
    Path('compare.yml').write_text(row)
    benchmark = read_benchmark(load_options('compare.yml'))
    assert benchmark.methods['mine'].weights in readme and not benchmark.published
    Path('compare.yml').write_text(row + data)
    with_data = read_benchmark(load_options('compare.yml'))
    assert {*with_data.datasets} == {*benchmark.datasets, 'mine_val'} and not with_data.groups
    assert {*with_data.tables} == {*benchmark.tables, 'Mine'}


def test_the_page_of_the_code_has_every_folder_in_its_order():
    page = (DOCS / 'code.md').read_text(encoding='utf-8')
    rooms = re.findall(r'^\| `defsr/(\w+)(?:/|\.py)` \|', page, re.M)
    assert sorted(rooms) == sorted(set(FLOOR_OF) - {'__init__'})
    assert [FLOOR_OF[room] for room in rooms] == sorted(FLOOR_OF[room] for room in rooms)
    [block] = re.findall(r'^    imports < (?:.+\n)+', page, re.M)
    floors = [floor.replace(',', ' ').split() for floor in block.split('<')]
    assert {room: n for n, floor in enumerate(floors) for room in floor} == {
        room: n for room, n in FLOOR_OF.items() if room != '__init__'
    }


def test_the_way_of_an_image_names_what_is_there():
    """Each link of the page to a module is followed by names that this module has."""
    page = (DOCS / 'how_an_image_flows.md').read_text(encoding='utf-8')
    named = re.findall(r'\[`(\w+)`\]\(\.\./(defsr/[\w/]+\.py)\)', page)
    assert len(named) > 25
    for name, file in named:
        source = (REPOSITORY / file).read_text(encoding='utf-8')
        assert re.search(rf'^(?:class|def) {name}\b', source, re.M), (name, file)


def test_the_picture_of_it_names_what_is_there():
    source = (REPOSITORY / 'tests/benchmarks/flow_figure.py').read_text(encoding='utf-8')
    boxes = re.findall(r"'((?:[a-z]+/)[\w/]+\.py)', '([^']+)'\),$", source, re.M)
    assert len(boxes) == 12
    for file, parts in boxes:
        text = (REPOSITORY / 'defsr' / file).read_text(encoding='utf-8')
        for part in re.findall(r'\w+', parts):
            assert re.search(rf'\b{part}\b', text), (file, part)


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((REPOSITORY / 'CITATION.cff').read_text(encoding='utf-8'))
    changes = (REPOSITORY / 'CHANGES.md').read_text(encoding='utf-8')
    newest = re.search(r'^## (.+) \((.+)\)$', changes, re.M)
    assert (citation['version'], str(citation['date-released'])) == newest.groups()
    assert citation['version'] == defsr.__version__
    assert citation['cff-version'] == '1.2.0' and citation['license'] == 'Apache-2.0'
    assert all(one.keys() >= {'type', 'title', 'authors'} for one in citation['references'])
