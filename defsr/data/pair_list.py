"""Which references go with which input, and what a result is called."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from defsr.data.image_source import image_key
from defsr.utils.files import shortened
from defsr.utils.paths import find_shipped

MAX_STEM = 120
_NAME = re.compile(r'"([^"]+)"|(\S+)')


@dataclass(frozen=True)
class Pair:
    """One input and its references, as names relative to their data roots."""

    gt: str
    refs: tuple[str, ...]

    @property
    def result_stem(self) -> str:
        """What a result of this pair is called, without extension.

        ``<gt>`` if the reference has the input's name, ``<gt>__<ref>`` if not, several
        references joined by ``+``. Longer than 120 bytes: cut, with a hash of the whole.
        """
        gt, *refs = (Path(image_key(name)).name for name in (self.gt, *self.refs))
        stem = gt if refs in ([], [gt]) else f'{gt}__{"+".join(refs)}'
        return shortened(stem, MAX_STEM)


def scene_of(result_stem: str) -> str:
    """What images of one scene share: the input's name without the numbers at its end."""
    return re.sub(r'[\d_]+$', '', result_stem.split('__')[0])


def read_pair_list(path: str | Path, option: str = 'pair_list') -> list[Pair]:
    """Read a text file with lines ``gt ref1 [ref2 ...]``; blank lines and ``#`` lines are skipped.

    A name with spaces, or with a ``#`` at the head of a line, stands in double quotes. Windows may
    put its mark at the head of the file.

    A relative path is looked up from the current directory, then among the files that
    come with the package.

    Args:
        path: the file.
        option: what the user sets to it, for messages.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it has no pairs, is no text, or has a quote without an end.

    Example:
        >>> pairs = read_pair_list('datasets/CUFED5_ref1.txt')
        >>> len(pairs), pairs[0].gt, pairs[0].refs
        (126, '000_0.png', ('000_1.png',))
    """
    file = find_shipped(path, option)
    try:
        text = file.read_text(encoding='utf-8-sig')
    except UnicodeDecodeError:
        raise ValueError(f'{option} is {file}, which is no text file in UTF-8.') from None
    pairs = []
    for number, line in enumerate(text.splitlines(), start=1):
        words = [quoted or bare for quoted, bare in _NAME.findall(line)]
        if any(word.startswith('"') for word in words):
            raise ValueError(f'{option} is {file}, whose line {number} has a quote without an end.')
        if words and not line.lstrip().startswith('#'):
            pairs.append(Pair(words[0], tuple(words[1:])))
    if not pairs:
        raise ValueError(f'{option} is {file}, which has no lines `gt ref1 [ref2 ...]`.')
    return pairs


def check_result_names(block: str, pairs: Iterable[Pair]) -> None:
    """Refuse two pairs whose results would overwrite each other (ValueError)."""
    seen: dict[str, Pair] = {}
    for pair in pairs:
        other = seen.setdefault(pair.result_stem, pair)
        if other is not pair:
            raise ValueError(
                f'{block}: `{other.gt} {" ".join(other.refs)}` and `{pair.gt} '
                f'{" ".join(pair.refs)}` would both be saved as {pair.result_stem}. '
                'Rename one, or put them into two data sets.'
            )
