"""The kinds of images that a training item is made of, each in a folder or an LMDB of its own."""

from typing import Literal

Backend = Literal['disk', 'lmdb']
ROOTS = ('gt', 'lq', 'ref', 'de', 'ref_de', 'ref_rect', 'ref_mask')


def flag(root: str) -> str:
    """The command line's name of a folder, for messages."""
    return f'--{root.replace("_", "-")}'
