"""Imports go one way: who may import whom, read from the source of every module."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from repository import REPOSITORY

# A package may import from itself and from the floors above its own, not from its neighbours.
FLOORS = (
    ('imports',),
    ('utils',),
    ('images', 'ops', 'metrics'),
    ('diffusion',),
    ('data',),
    ('archs',),
    ('rectify',),
    ('methods', 'losses'),
    ('running',),
    ('config',),
    ('models',),
    ('benchmark', 'enhance', 'upscaling', 'compat'),
    ('tools', 'train', 'test'),
    ('__init__',),  # of the whole package
)
FLOOR_OF = {room: number for number, floor in enumerate(FLOORS) for room in floor}
ALLOWED: dict[tuple[str, str], str] = {}  # (importing module, imported module) -> why
MODULES = {
    '.'.join(path.relative_to(REPOSITORY).with_suffix('').parts).removesuffix('.__init__'): path
    for path in (REPOSITORY / 'defsr').rglob('*.py')
}


def imports_of(path: Path, *, executed: bool = False) -> Iterator[str]:
    """Modules of the package that a file imports anywhere, or when it is itself imported."""
    nodes = [ast.parse(path.read_text(encoding='utf-8'))]
    while nodes:
        node = nodes.pop()
        skipped = isinstance(node, (ast.FunctionDef, ast.Lambda)) or (
            isinstance(node, ast.If) and 'TYPE_CHECKING' in ast.unparse(node.test)
        )
        if executed and skipped:
            continue
        nodes += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f'{path} has a relative import'
            names = [f'{node.module}.{alias.name}' for alias in node.names]
            names = [name if name in MODULES else node.module for name in names]
        else:
            continue
        yield from (name for name in names if name in MODULES)


def room_of(module: str) -> str:
    return f'{module}.__init__'.split('.')[1]


def test_every_room_has_a_floor():
    assert {room_of(module) for module in MODULES} == {*FLOOR_OF}


def test_imports_go_one_way():
    wrong = set()
    for module, path in MODULES.items():
        for other in imports_of(path):
            here, there = room_of(module), room_of(other)
            if here != there and FLOOR_OF[there] >= FLOOR_OF[here]:
                wrong.add((module, other))
    assert wrong == {*ALLOWED}


def test_no_module_needs_itself():
    graph = {module: {*imports_of(path, executed=True)} for module, path in MODULES.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        raise AssertionError(' -> '.join(reversed(error.args[1]))) from None
