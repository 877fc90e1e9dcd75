"""Tables of a benchmark as text and as Markdown."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from defsr.utils.cli import visible


class Section(NamedTuple):
    """A table, as plain text: what stands above it, its columns, a line per method."""

    text: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]

    def markdown(self) -> str:
        """Both, with a blank line between."""
        table = markdown_table(self.head, self.rows)
        return f'{escaped(self.text)}\n\n{table}' if self.text else table


def escaped(text: object) -> str:
    """As Markdown, and the HTML that is made of it, show what a user has named something."""
    shown = visible(str(text)).replace('&', '&amp;').replace('<', '&lt;').replace('>', '&gt;')
    return re.sub(r'([\\|\[\]])', r'\\\1', shown)


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The first column to the left, the others to the right."""
    cells = [[escaped(cell) for cell in line] for line in (head, *rows)]
    cells.insert(1, ['---', *['---:'] * (len(head) - 1)])
    return '\n'.join('| ' + ' | '.join(line) + ' |' for line in cells)
