"""Option files: safe, exact about numbers, overridden without running code."""

from __future__ import annotations

import time
from collections import OrderedDict

import pytest

from defsr.config.files import (
    dump_options,
    load_options,
    override_options,
    parse_yaml,
    split_force_yml,
)
from defsr.utils.paths import SHIPPED

OPTIONS = """
name: test
train:
  lr: !!float 1e-4
  optim_g: {type: Adam, betas: [0.9, 0.999]}
"""


def test_reads_nested_blocks_in_order():
    options = parse_yaml(OPTIONS)
    assert list(options) == ['name', 'train']
    assert options['train']['lr'] == 1e-4
    assert options['train']['optim_g']['betas'] == [0.9, 0.999]


@pytest.mark.parametrize(
    'text',
    [
        '!!python/object/apply:os.system ["touch pwned"]',
        'a: !!python/name:os.system',
        'a: !!python/object/new:subprocess.Popen [["touch", "pwned"]]',
    ],
)
def test_a_file_cannot_run_code(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match='is not safe, valid YAML'):
        parse_yaml(text)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('number', ['1e-4', '2E5', '-3e8'])
def test_a_number_that_yaml_reads_as_text_is_refused(number):
    with pytest.raises(ValueError, match='train:lr.* which YAML reads as text. Write `!!float'):
        parse_yaml(f'train: {{lr: {number}}}')


def test_a_block_may_be_merged_and_changed():
    text = 'one: &one {a: 1, b: 2}\ntwo: {<<: *one, b: 3}\n'
    assert parse_yaml(text) == {'one': {'a': 1, 'b': 2}, 'two': {'a': 1, 'b': 3}}


def test_a_repeated_key_is_refused():
    with pytest.raises(ValueError, match='`lr` is given twice'):
        parse_yaml('train:\n  lr: 1\n  lr: 2\n')


@pytest.mark.parametrize('key', ['on', '1', '~', '? [a]'])
def test_a_key_that_is_no_text_is_refused(key):
    with pytest.raises(ValueError, match='The key .* is no text. Quote it .* line 2'):
        parse_yaml(f'train:\n  {key}: 1\n')


BOMB = 'a: &a [x, x, x, x, x, x, x, x, x]\n' + '\n'.join(
    f'{name}: &{name} [{", ".join([f"*{before}"] * 9)}]'
    for before, name in zip('abcdefghi', 'bcdefghij', strict=True)
)
HOSTILE = {
    BOMB: 'more than 10000 values',
    BOMB.replace('[', '{<<: [').replace(']', ']}').replace('x, ', '{q: 1}, '): 'more than 10000',
    'a: &a [*a]': 'alias stands inside of what it names',
    '&a [*a]': 'alias stands inside of what it names',
    'a: &a {b: {c: [*a]}}': 'alias stands inside of what it names',
    'a: ' + 5000 * '[': '50 blocks one in another',
    'a: ' + 5000 * '{a: ': '50 blocks one in another',
    '? ' * 5000: '50 blocks one in another',
    '- ' * 5000: '50 blocks one in another',
    'a: !!bool abc': "'abc' is no bool in line 1",
    'a: !!timestamp x': "'x' is no timestamp",
    'a: !!timestamp {=: x}': 'is no timestamp',
    'a: 2024-13-45': 'is no timestamp',
    'a: 2024-12-13': 'Option `a` is a date, but must be',
    'a: !!int abc': "'abc' is no int",
    'a: !!int ""': "'' is no int",
    'a: !!float ~': "'~' is no float",
    'a: !!set {b}': 'Option `a` is a set',
    'a: !!binary aGk=': 'Option `a` is a bytes',
    'a: !!pairs [b: 1]': 'Option .* is a tuple',
    '? {b: 1}\n: 2': 'The key .* is no text',
    '[b]: 2': 'The key .* is no text',
    '{[b]: 2, [b]: 3}': 'The key .* is no text',
    'a: ' + 5000 * '1': "'1111.* is no int",
    'a: 1' + 30 * '0': 'Option `a` is beyond 64 bits',
    'a: [1' + 30 * '0' + ']': 'Option `a.0.` is beyond 64 bits',
    'a: b\n' * 50000: 'more than 100000 characters',
}


@pytest.mark.parametrize('text', HOSTILE, ids=lambda text: text[:24])
def test_hostile_text_is_refused_at_once(text, tmp_path):
    """A file of 480 bytes once hung every command."""
    start = time.process_time()
    (tmp_path / 'o.yml').write_text(text)
    with pytest.raises(ValueError, match=HOSTILE[text]) as refused:
        load_options(tmp_path / 'o.yml')
    assert 'o.yml' in str(refused.value) and len(str(refused.value)) < 400
    with pytest.raises(ValueError, match='--force_yml x='):
        override_options(OrderedDict(), [f'x={text}'])
    assert time.process_time() - start < 3  # of the processor; it hung


def test_aliases_as_people_use_them_are_read():
    assert parse_yaml('a: &a {b: [1, 2]}\nc: *a\nd: [*a, *a]')['d'][1] == {'b': [1, 2]}


def test_missing_and_empty_files(tmp_path):
    with pytest.raises(FileNotFoundError, match='-opt is .*none.yml, which does not exist'):
        load_options(tmp_path / 'none.yml')
    (tmp_path / 'empty.yml').write_text('# nothing\n')
    with pytest.raises(ValueError, match='holds no options'):
        load_options(tmp_path / 'empty.yml')


def write(folder, files):
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def test_a_file_on_top_of_its_bases(tmp_path):
    """Blocks merge, all else replaces, another ``type`` replaces a block, null deletes."""
    write(tmp_path, {
        'options/whole.yml': """
name: whole
resume: ~
lost: 1
data: {type: a, keep: 1, root: gt, list: [1, 2], own: {x: 1, y: ~}}
net: {type: EDSR, num_feat: 8, inner: {type: a}}
""",
        'options/rows/middle.yml': """
base: ../whole.yml
lost: ~
data: {root: ~, list: [3], own: {x: 2}}
net: {type: RRDBNet, num_grow_ch: ~}
""",
        'options/rows/top.yml': """
base: middle.yml
name: top
data: {type: a, root: lq, new: ~}
net: {inner: {type: b}}
""",
    })  # fmt: skip
    assert load_options(tmp_path / 'options/rows/top.yml') == {
        'name': 'top',
        'resume': None,
        'data': {
            'type': 'a', 'keep': 1, 'root': 'lq', 'list': [3], 'own': {'x': 2, 'y': None},
            'new': None,
        },
        'net': {'type': 'RRDBNet', 'num_grow_ch': None, 'inner': {'type': 'b'}},
    }  # fmt: skip


@pytest.mark.parametrize(
    ('start', 'files', 'message'),
    [
        ('a.yml', {'a.yml': 'base: sub/b.yml', 'sub/b.yml': 'base: ../a.yml'},
         'circle: a.yml -> sub/b.yml -> a.yml'),
        ('sub/a.yml', {'sub/a.yml': 'base: ../b.yml', 'b.yml': 'x: 1'}, 'stays in .*/sub.$'),
        ('options/sub/a.yml', {'options/sub/a.yml': 'base: ../../b.yml', 'b.yml': 'x: 1'},
         'stays in .*/options.$'),
        ('sub/a.yml', {'sub/a.yml': 'base: link/b.yml', 'b.yml': 'x: 1'}, 'stays in .*/sub.$'),
        ('a.yml', {'a.yml': 'base: {here}/b.yml', 'b.yml': 'x: 1'}, 'must be a relative path'),
        ('a.yml', {'a.yml': 'base: sub', 'sub/b.yml': 'x: 1'}, 'that is there. Tried: .*sub,'),
        ('a.yml', {'a.yml': 'base: [b.yml]'}, 'must be the path of an option file'),
        ('a.yml', {'a.yml': 'base: b.yml', 'b.yml': 'lr: 1e-4'}, 'Write .* in .*b.yml'),
        ('a.yml', {'a.yml': 'base: b.yml\nx: 1', 'b.yml': 'x: 1\nx: 2'}, '`x` is given twice'),
    ],
)  # fmt: skip
def test_bases_that_are_refused(start, files, message, tmp_path):
    write(tmp_path, {name: text.replace('{here}', str(tmp_path)) for name, text in files.items()})
    if 'link' in files[start]:
        (tmp_path / 'sub/link').symlink_to(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load_options(tmp_path / start)


def test_a_base_that_is_not_there_may_be_a_shipped_one(tmp_path, monkeypatch):
    write(tmp_path, {'own.yml': 'base: options/small/best_GAN_x4.yml\nname: own'})
    monkeypatch.chdir(tmp_path)
    expected = load_options(SHIPPED / 'options/small/best_GAN_x4.yml') | {'name': 'own'}
    assert load_options('own.yml') == expected
    assert load_options('options/small/best_GAN_x4.yml') == expected | {'name': 'small_best_GAN_x4'}
    write(tmp_path, {'options/small/best_GAN_x4.yml': 'scale: 3', 'far.yml': 'base: README.md'})
    assert load_options('own.yml') == {'name': 'own', 'scale': 3}
    with pytest.raises(FileNotFoundError, match='must be a file that is there'):
        load_options('far.yml')  # which comes with the package, but is no option file


def test_dumped_options_are_the_same_again():
    text = 'z: &z [1, 1.0, 2.0e-7, 1.0e+20, .inf, ~]\na: {b: *z, c: *z, d: é, e: "yes", f: "3"}\n'
    options = parse_yaml(text)
    dumped = dump_options(options, 'from\nhere')
    assert dumped.startswith('# from?here\nz: ') and '*' not in dumped
    again = parse_yaml(dumped)
    assert str(again) == str(options)


def test_overrides():
    options = parse_yaml(OPTIONS)
    override_options(
        options, ['train:lr=1e-3', 'train:optim_g:betas=[0.5, 0.9]', 'name=other', 'train:x=~']
    )
    assert options['train']['lr'] == 1e-3
    assert options['train']['optim_g']['betas'] == [0.5, 0.9]
    assert options['name'] == 'other'
    assert options['train']['x'] is None


@pytest.mark.parametrize(
    ('entry', 'message'),
    [
        ('train:lr', 'expected `block:key=value`'),
        ('trian:lr=1', 'no block `trian`'),
        ('train:lr=!!python/name:os.system', 'not safe'),
    ],
)
def test_wrong_overrides(entry, message):
    with pytest.raises(ValueError, match=message):
        override_options(parse_yaml(OPTIONS), [entry])


def test_split_force_yml():
    argv = ['train.py', '-opt', 'a.yml', '--force_yml', 'a=1', 'b:c=2', '--debug']
    assert split_force_yml(argv) == (['train.py', '-opt', 'a.yml', '--debug'], ['a=1', 'b:c=2'])
