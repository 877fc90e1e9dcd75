"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NAME_BYTES = 255  # that a file system takes
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that is synced and renamed to it when the block ends well.

    The folder is made if need be. After an error nothing is left behind and an older file stays.

    Raises:
        OSError: with the path, if the disk does not take the file (full, quota, read-only, broken).
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f'.{shortened(path.name, 200)}.{os.getpid()}.tmp')
    try:
        yield temporary
        with open(temporary, 'rb+') as written:  # Windows syncs what may be written to
            os.fsync(written.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except Exception as error:
        refusal = _refusal_of_the_disk(error)
        if refusal is None:
            raise
        raise OSError(f'{path} could not be written: {refusal}.') from error
    finally:
        temporary.unlink(missing_ok=True)


def compress_archive(path: Path) -> None:
    """Deflate the entries of a zip archive, such as PyTorch's weight files are, in place."""
    packed = io.BytesIO()
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(packed, 'w') as target:
        for entry in source.infolist():
            content = source.read(entry)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.extra = b''  # PyTorch's padding
            target.writestr(entry, content, compresslevel=9)
    path.write_bytes(packed.getvalue())


def shortened(name: str, most: int) -> str:
    """``name``; its beginning and a hash of the whole if it has more than ``most`` bytes."""
    content = name.encode('utf-8', 'surrogatepass')
    if len(content) <= most:
        return name
    digest = hashlib.sha256(content).hexdigest()[:8]
    return f'{content[: most - 9].decode("utf-8", "ignore")}-{digest}'


def building_folder(final: Path) -> Path:
    """The hidden sibling in which a folder is built before ``publish_folder`` renames it."""
    return _hidden(final, 'tmp')


def publish_folder(final: Path) -> None:
    """Rename the finished ``building_folder``; what it replaces is kept until then."""
    old = _hidden(final, 'old')
    if final.exists():
        os.replace(final, old)
    os.replace(building_folder(final), final)
    sync_folder(final.parent)
    shutil.rmtree(old, ignore_errors=True)


def clear_remains(final: Path) -> None:
    """Undo what a killed run left: half a build, or an old result not yet replaced."""
    shutil.rmtree(building_folder(final), ignore_errors=True)
    old = _hidden(final, 'old')
    if old.exists() and not final.exists():
        os.replace(old, final)
    shutil.rmtree(old, ignore_errors=True)


def sync_folder(folder: Path) -> None:
    """Make sure that new names in a folder survive a power cut; Windows has no call for it."""
    if os.name == 'nt':
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _refusal_of_the_disk(error: BaseException | None) -> str | None:
    """The system's words, also where a library wrapped them (``torch.save`` does)."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
            return error.strerror
        error = error.__cause__ or error.__context__
    return None


def _hidden(final: Path, suffix: str) -> Path:
    return final.with_name(f'.{final.name}.{suffix}')
