"""Option files: safe, exact about numbers, overridden without running code."""

from __future__ import annotations

import pytest

from defsr.config.files import load_options, override_options, parse_yaml, split_force_yml

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


def test_missing_and_empty_files(tmp_path):
    with pytest.raises(FileNotFoundError, match='Check the path after -opt'):
        load_options(tmp_path / 'none.yml')
    (tmp_path / 'empty.yml').write_text('# nothing\n')
    with pytest.raises(ValueError, match='holds no options'):
        load_options(tmp_path / 'empty.yml')


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
