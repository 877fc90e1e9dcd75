"""Parts of an HTML page, in which nothing that a user has named is more than text."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Sequence
from html import escape

from defsr.benchmark.tables import Section
from defsr.utils.cli import visible

LONG = 40  # characters, from which on a cell is broken into lines
NUMBER = re.compile(r'[+-]?\d+(\.\d+)?(e[+-]\d+)?')


def shown(text: str) -> str:
    """What a user has named something, as HTML shows it, in an element or in a quoted attribute."""
    return escape(visible(text))


def table_html(section: Section) -> str:
    """A sortable table; columns are sorted as numbers if they hold nothing but scores."""
    columns = list(zip(*section.rows, strict=True)) or [()] * len(section.head)
    numeric = [_is_numeric(column) and number > 0 for number, column in enumerate(columns)]
    head = ''.join(
        f'<th scope="col"{" class=number" * is_number}>{shown(cell)}</th>'
        for cell, is_number in zip(section.head, numeric, strict=True)
    )
    lines = []
    for row in section.rows:
        cells = [f'<th scope="row">{shown(row[0])}</th>']
        for cell, is_number in zip(row[1:], numeric[1:], strict=True):
            key = ' class="long"' if len(cell) > LONG else ''
            if is_number:
                match = NUMBER.match(cell)
                key = f' class="number" data-sort="{match[0] if match else ""}"'
            cells.append(f'<td{key}>{shown(cell)}</td>')
        lines.append(f'<tr>{"".join(cells)}</tr>')
    text = f'<p>{shown(section.text)}</p>' if section.text else ''
    label = shown(section.text.rstrip(':') or 'Scores')
    return (
        f'{text}<div class="scroll" role="region" aria-label="{label}" tabindex="0">'
        f'<table class="sortable n-last"><thead><tr>{head}</tr></thead>'
        f'<tbody>{"".join(lines)}</tbody></table></div>'
    )


def _is_numeric(column: Sequence[str]) -> bool:
    """Whether it holds numbers and nothing else but what stands for missing ones."""
    cells = [cell for cell in column if cell not in ('-', 'failed')]
    return bool(cells) and all(NUMBER.match(cell) for cell in cells)


def json_in_html(data: object) -> str:
    """JSON that ends no script element and begins no comment, whatever it holds."""
    text = json.dumps(data, separators=(',', ':'))
    return text.replace('<', '\\u003c').replace('>', '\\u003e').replace('&', '\\u0026')


def content_policy(scripts: Sequence[str], style: str) -> str:
    """What the page may do: run its own scripts, show its own images, and nothing else."""
    digests = [
        base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        for text in (*scripts, style)
    ]
    allowed = ' '.join(f"'sha256-{digest}'" for digest in digests[:-1])
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'sha256-{digests[-1]}'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
