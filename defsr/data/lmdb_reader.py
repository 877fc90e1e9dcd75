"""Read LMDBs of images. They may come from anywhere, so none may take the process down."""

from __future__ import annotations

import os
import re
from functools import cache
from os import path as osp

import lmdb

_META_LINE = re.compile(r'(.+) \(\d+,\d+,\d+\) \S+')
_REBUILD = 'Build it anew with `python -m defsr.tools.create_lmdb`.'


def read_meta(option: str, root: str) -> list[str]:
    """The image names that ``root/meta_info.txt`` lists.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: for a line of another form, or none.
    """
    meta = osp.join(root, 'meta_info.txt')
    if not osp.isfile(meta):
        raise FileNotFoundError(f'{option} is {root}, which has no meta_info.txt. {_REBUILD}')
    with open(meta, encoding='utf-8', errors='replace') as file:
        lines = [line.strip() for line in file if line.strip()]
    matches = [_META_LINE.fullmatch(line) for line in lines]
    if None in matches:
        number = matches.index(None)
        raise ValueError(
            f'{option}: {meta} has the line {lines[number][:80]!r}, expected '
            f'`name.png (h,w,c) level`. {_REBUILD}'
        )
    if not matches:
        raise ValueError(f'{option} is {root}, whose meta_info.txt lists no images. {_REBUILD}')
    return [match[1] for match in matches if match]


def check_lmdb(option: str, root: str) -> None:
    """Refuse an LMDB that is absent, torn or none.

    Raises:
        FileNotFoundError: without a ``data.mdb``.
        ValueError: for one that cannot be opened or is shorter than its pages.
    """
    _environment(option, root)


def read_lmdb(option: str, root: str, key: str) -> bytes:
    """The value of ``key``.

    Raises:
        FileNotFoundError: without a ``data.mdb``.
        ValueError: if the key is not there, or the file is damaged.
    """
    environment = _environment(option, root)
    try:
        with environment.begin() as transaction:
            value = transaction.get(key.encode())
    except lmdb.Error as error:
        raise ValueError(
            f'{option} is {root}, whose data.mdb is damaged ({error}). {_REBUILD}'
        ) from None
    if value is None:
        raise ValueError(
            f'{option} is {root}, whose meta_info.txt lists {key}, but its data.mdb has no such '
            f'image. {_REBUILD}'
        )
    return value


def _environment(option: str, root: str) -> lmdb.Environment:
    data = osp.join(root, 'data.mdb')
    if not osp.isfile(data):
        raise FileNotFoundError(f'{option} is {root}, which has no data.mdb. {_REBUILD}')
    try:
        return _open(osp.realpath(data), os.stat(data).st_ino)
    except lmdb.Error as error:
        reason = str(error).removeprefix(f'{osp.realpath(data)}: ')
        raise ValueError(
            f'{option} is {root}, whose data.mdb cannot be read ({reason}). {_REBUILD}'
        ) from None


@cache
def _open(data: str, inode: int) -> lmdb.Environment:
    """One reader per ``data.mdb`` and process, opened on first use.

    LMDB refuses a second opening in one process, and five validation sets may share one file.
    It knows an environment by the inodes of its two files. The file is opened by itself, without
    its folder: the lock file beside it is never held open, so once an old LMDB is deleted its
    inode may be that of a new one, which would then be refused.

    A forked worker goes on with its parent's (read-only, without locks); ``inode`` tells a
    rebuilt file from the old one. LMDB maps the file into memory and never looks at its length:
    reading behind the end of a torn one would kill the process with SIGBUS.
    """
    size = osp.getsize(data)
    if size == 0:
        raise lmdb.InvalidError('it is empty')
    environment = lmdb.open(data, subdir=False, readonly=True, lock=False, readahead=False)
    pages = environment.info()['last_pgno'] + 1
    needed = pages * environment.stat()['psize']
    if size < needed:
        environment.close()
        raise lmdb.CorruptedError(f'it is cut off: {size} bytes of {needed}')
    return environment
