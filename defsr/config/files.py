"""Option files without surprises: safe YAML, no executed strings, numbers that are numbers."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from pathlib import Path

import yaml

_TEXT_NUMBER = re.compile(r'[+-]?(\d+\.?\d*|\.\d+)[eE][+-]?\d+')


class OptionLoader(yaml.SafeLoader):
    """PyYAML's safe loader, with BasicSR's ordered mappings; a repeated key is an error."""


def _construct_mapping(loader: OptionLoader, node: yaml.MappingNode) -> OrderedDict:
    own = [key.value for key, _ in node.value]
    twice = next((key for key in own if own.count(key) > 1), None)
    if twice is not None:
        raise ValueError(f'Option `{twice}` is given twice in one block{node.start_mark}.')
    loader.flatten_mapping(node)  # of `<<: *other`, whose keys the block's own may replace
    return OrderedDict(loader.construct_pairs(node, deep=True))


OptionLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _construct_mapping)


def parse_yaml(text: str, source: str = 'the option file') -> object:
    """YAML text -> plain data. Tags that would build Python objects are refused.

    Raises:
        ValueError: for what is no YAML or not safe, for a repeated key, and for a number that
            YAML 1.1 reads as text (``1e-4``; write ``!!float 1e-4`` or ``1.0e-4``).
    """
    try:
        data = yaml.load(text, Loader=OptionLoader)  # noqa: S506 (a SafeLoader)
    except yaml.YAMLError as error:
        raise ValueError(f'{source} is not safe, valid YAML: {error}') from None
    for path, value in _leaves(data):
        if isinstance(value, str) and _TEXT_NUMBER.fullmatch(value):
            raise ValueError(
                f'Option `{path}` is {value!r}, which YAML reads as text. '
                f'Write `!!float {value}` in {source}.'
            )
    return data


def load_options(file: str | Path) -> OrderedDict:
    """Read an option file. ValueError or FileNotFoundError name the file and the mistake."""
    path = Path(file).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f'Option file {path} does not exist. Check the path after -opt.')
    try:
        text = path.read_text(encoding='utf-8')
    except UnicodeDecodeError:
        raise ValueError(f'{path} is no text file in UTF-8. Check the path after -opt.') from None
    options = parse_yaml(text, source=str(path))
    if not isinstance(options, OrderedDict):
        raise ValueError(f'{path} holds no options: expected `key: value` lines.')
    return options


def override_options(options: OrderedDict, entries: Iterable[str]) -> OrderedDict:
    """Apply ``--force_yml`` entries such as ``train:ema_decay=0.999``, in place.

    The blocks must exist; the last key may be new. The value is read as safe YAML.

    Raises:
        ValueError: for an entry without ``=`` or a block that the file does not have.
    """
    for entry in entries:
        keys, separator, text = entry.partition('=')
        if not separator:
            raise ValueError(f'--force_yml got {entry!r}, expected `block:key=value`.')
        *blocks, last = keys.strip().split(':')
        node = options
        for block in blocks:
            if not isinstance(node.get(block), dict):
                raise ValueError(f'--force_yml {entry}: there is no block `{block}` to change.')
            node = node[block]
        value = text.strip()
        number = _TEXT_NUMBER.fullmatch(value)
        node[last] = float(value) if number else parse_yaml(value, source=f'--force_yml {entry}')
    return options


def split_force_yml(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Command line -> (the rest, the entries behind ``--force_yml``)."""
    rest, entries, taking = [], [], False
    for argument in argv:
        if argument == '--force_yml':
            taking = True
        elif taking and not argument.startswith('-'):
            entries.append(argument)
        else:
            taking = False
            rest.append(argument)
    return rest, entries


def _leaves(node: object, path: str = '') -> Iterable[tuple[str, object]]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _leaves(value, f'{path}:{key}' if path else str(key))
    elif isinstance(node, list):
        for i, value in enumerate(node):
            yield from _leaves(value, f'{path}[{i}]')
    else:
        yield path, node
