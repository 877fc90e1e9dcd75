"""Option files without surprises: safe YAML, no executed strings, numbers that are numbers."""

from __future__ import annotations

import os
import re
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

import yaml

from defsr.utils.paths import SHIPPED, find_shipped

_HUGE = 2**63
_TEXT_NUMBER = re.compile(r'[+-]?(\d+\.?\d*|\.\d+)[eE][+-]?\d+')


MAX_CHARACTERS = 100_000  # of a file; the parser takes a second
MAX_VALUES, MAX_DEPTH = 10_000, 50  # with aliases written out


class _MistakeError(ValueError):
    """Ours, in a file that is YAML."""


class OptionLoader(yaml.SafeLoader):
    """PyYAML's safe loader, with BasicSR's ordered mappings; a repeated key is an error.

    What a few aliases or brackets would blow up, in memory or in depth, is refused as it is read.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0
        self._sizes: dict[yaml.Node, int] = {}  # values in each, with aliases written out

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """As PyYAML's, which calls it for each value."""
        self._depth += 1
        is_alias = self.check_event(yaml.AliasEvent)
        node = super().compose_node(parent, index) if self._depth <= MAX_DEPTH else None
        self._depth -= 1
        if node is not None and not is_alias:
            self._sizes[node] = 1 + sum(self._sizes[child] for child in _children(node))
        if node is not None and node not in self._sizes:
            raise _MistakeError('An alias stands inside of what it names.')
        if node is None or self._sizes[node] > MAX_VALUES:
            raise _MistakeError(
                f'There are more than {MAX_VALUES} values, aliases written out, or {MAX_DEPTH} '
                'blocks one in another.'
            )
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """As PyYAML's, some of whose types stumble over text that is of another one."""
        try:
            return super().construct_object(node, deep)
        except (yaml.YAMLError, _MistakeError):
            raise
        except (ValueError, LookupError, AttributeError, TypeError, ArithmeticError):
            kind = node.tag.rpartition(':')[2]
            raise _MistakeError(
                f'{str(node.value)[:40]!r} is no {kind}{_place(node)}. Quote it, or correct it.'
            ) from None


def _children(node: yaml.Node) -> Iterable[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return (each for pair in node.value for each in pair)
    return node.value if isinstance(node, yaml.SequenceNode) else ()


def _place(node: yaml.Node) -> str:
    return f' in line {node.start_mark.line + 1}'


def _construct_mapping(loader: OptionLoader, node: yaml.MappingNode) -> OrderedDict:
    seen = set()
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode) and (key.tag, key.value) in seen:
            raise _MistakeError(f'Option `{key.value}` is given twice in one block{_place(node)}.')
        seen.add((key.tag, str(key.value)))
    loader.flatten_mapping(node)  # of `<<: *other`, whose keys the block's own may replace
    pairs = loader.construct_pairs(node, deep=True)
    for key, _ in pairs:  # YAML reads `on`, `no` and `1` as something else
        if not isinstance(key, str):
            raise _MistakeError(f'The key {key!r} is no text. Quote it{_place(node)}.')
    return OrderedDict(pairs)


OptionLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _construct_mapping)


def parse_yaml(text: str, source: str = 'the option file') -> object:
    """YAML text -> plain data. Tags that would build Python objects are refused.

    Raises:
        ValueError: for what is no YAML, not safe or too large, for a key that is repeated or no
            text, for a value that is no plain one, and for a number that YAML 1.1 reads as text
            (``1e-4``; write ``!!float 1e-4`` or ``1.0e-4``).
    """
    if len(text) > MAX_CHARACTERS:
        raise ValueError(f'{source} has more than {MAX_CHARACTERS} characters: no option file.')
    try:
        data = yaml.load(text, Loader=OptionLoader)  # noqa: S506 (a SafeLoader)
    except _MistakeError as error:
        raise ValueError(f'{error} See {source}.') from None
    except yaml.YAMLError as error:
        raise ValueError(f'{source} is not safe, valid YAML: {error}') from None
    for path, value in _leaves(data):
        if isinstance(value, str) and _TEXT_NUMBER.fullmatch(value):
            raise ValueError(
                f'Option `{path}` is {value!r}, which YAML reads as text. '
                f'Write `!!float {value}` in {source}.'
            )
        if value is not None and not isinstance(value, (str, int, float)):
            raise ValueError(
                f'Option `{path}` is a {type(value).__name__}, but must be a text, a number, true, '
                f'false or null. Quote it in {source}.'
            )
        if isinstance(value, int) and abs(value) >= _HUGE:
            raise ValueError(
                f'Option `{path}` is beyond 64 bits, more than any option can be. See {source}.'
            )
    return data


def load_options(file: str | Path, named_by: str = '-opt') -> OrderedDict:
    """Read an option file, on top of the one that its ``base`` names, and so on.

    A base lies in the folder of ``file`` or below it; if that is in a folder named ``options``,
    anywhere in the nearest such folder. A base that is not there, and ``file`` itself, may be one
    that comes with the package. See ``docs/training.md`` for how two files become one.

    Args:
        file: its path, or the name of a shipped one: ``options/train_DEF_x4.yml``.
        named_by: what the user sets to it, for messages.

    Raises:
        FileNotFoundError: without the file or one of its bases.
        ValueError: for what is no option file, and for a base that is no text, lies elsewhere or
            goes in a circle. The message names the file and the mistake.

    Example:
        >>> load_options('options/upscale.yml')['network_g']['type']
        'DEFNet'
    """
    path = find_shipped(file, named_by)
    layers = [_read(path, named_by)]
    chain = [Path(os.path.realpath(path))]
    while 'base' in layers[-1]:
        chain.append(_find_base(layers[-1].pop('base'), chain))
        layers.append(_read(chain[-1], f'`base` in {chain[-2]}'))
    return reduce(merge_options, reversed(layers))


def _read(path: Path, named_by: str) -> OrderedDict:
    """One file alone."""
    try:
        with open(path, encoding='utf-8') as file:
            text = file.read(MAX_CHARACTERS + 1)
    except UnicodeDecodeError:
        raise ValueError(f'{path} is no text file in UTF-8. Check {named_by}.') from None
    options = parse_yaml(text, source=str(path))
    if not isinstance(options, OrderedDict):
        raise ValueError(f'{path} holds no options: expected `key: value` lines.')
    return options


def _find_base(name: object, chain: Sequence[Path]) -> Path:
    """The file that the last of ``chain`` names as its base. All paths are real ones."""
    given = f'`base` is {name!r} in {chain[-1]}, but must be'
    if not isinstance(name, str) or not name or '\0' in name:
        raise ValueError(f'{given} the path of an option file, as seen from that file.')
    shipped = Path(os.path.realpath(SHIPPED / 'options'))
    own = chain[0].parent
    tree = next((folder for folder in (own, *own.parents) if folder.name == 'options'), own)
    tree = shipped if chain[-1].is_relative_to(shipped) else tree
    path = Path(os.path.realpath(chain[-1].parent / name))
    if os.path.isabs(name) or not path.is_relative_to(tree):
        raise ValueError(f'{given} a relative path that stays in {tree}.')
    if not path.is_file():
        tried, path = path, Path(os.path.realpath(SHIPPED / name))
        if not (path.is_file() and path.is_relative_to(shipped)):
            raise FileNotFoundError(f'{given} a file that is there. Tried: {tried}, {path}.')
    if path in chain:
        circle = ' -> '.join(str(file.relative_to(tree)) for file in (*chain, path))
        raise ValueError(f'`base` goes in a circle: {circle}. Take it out of one of them.')
    return path


def merge_options(base: Mapping, own: Mapping) -> OrderedDict:
    """``own`` on top of ``base``: blocks key by key unless their ``type`` changes; null deletes."""
    merged = OrderedDict(base)
    for key, value in own.items():
        old = base.get(key)
        if value is None and key in base:
            del merged[key]
        elif isinstance(value, dict) and isinstance(old, dict) and not _changes_type(old, value):
            merged[key] = merge_options(old, value)
        else:
            merged[key] = value
    return merged


def _changes_type(old: Mapping, new: Mapping) -> bool:
    return 'type' in new and new['type'] != old.get('type')


class _OptionDumper(yaml.SafeDumper):
    """Keys in their order, and blocks written out that a file named by an alias."""

    def ignore_aliases(self, data: object) -> bool:
        return True


_OptionDumper.add_representer(
    OrderedDict, lambda dumper, block: dumper.represent_dict(block.items())
)


def dump_options(options: OrderedDict, comment: str) -> str:
    """An option file that gives ``options`` when read alone; ``comment`` is its first line."""
    comment = ''.join(c if c.isprintable() else '?' for c in comment)
    body = yaml.dump(
        options, Dumper=_OptionDumper, sort_keys=False, default_flow_style=None, allow_unicode=True
    )
    return f'# {comment}\n{body}'


def override_options(options: OrderedDict, entries: Iterable[str]) -> OrderedDict:
    """Apply ``--force_yml`` entries such as ``train:ema_decay=0.999``, in place.

    The blocks must exist; the last key may be new. The value is read as safe YAML.

    Raises:
        ValueError: for an entry without ``=``, a block that the file does not have, or ``base``.
    """
    for entry in entries:
        keys, separator, text = entry.partition('=')
        if not separator:
            raise ValueError(f'--force_yml got {entry!r}, expected `block:key=value`.')
        *blocks, last = keys.strip().split(':')
        if [*blocks, last] == ['base']:
            raise ValueError(f'--force_yml {entry}: only an option file can have a base.')
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
