"""Writing files that survive a crash: a reader finds the old or the new content, never a part.

Knows no file of a run: `rundir.py` does.
"""

from __future__ import annotations

import contextlib
import errno
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

# The errors of link(2) on file systems without hard links, for example FAT and gcsfuse.
NO_HARD_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


def write_atomic(path: Path, data: str | bytes) -> None:
    """Write a file, replacing an earlier one. Create the folder if it is absent."""
    with _synced_copy(path, data) as copy:
        os.replace(copy, path)
    sync_folder(path.parent)


def create_once(path: Path, data: str | bytes) -> bool:
    """Write a file unless it exists; return whether this call wrote it.

    If several processes call this at the same time, exactly one of them gets True. On a file
    system without hard links the file is empty for a moment before it has its content.
    """
    with _synced_copy(path, data) as copy:
        try:
            os.link(copy, path)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in NO_HARD_LINKS:
                raise
            if not _create_empty(path):
                return False
            os.replace(copy, path)
    sync_folder(path.parent)
    return True


def sync_folder(folder: Path) -> None:
    """Make renames in `folder` survive a power loss."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def _synced_copy(path: Path, data: str | bytes) -> Iterator[Path]:
    """Write `data` to a temporary file beside `path`; remove that file after the block."""
    path.parent.mkdir(parents=True, exist_ok=True)
    copy = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with copy.open("wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        yield copy
    finally:
        copy.unlink(missing_ok=True)


def _create_empty(path: Path) -> bool:
    """Create an empty file; return False if the file exists."""
    try:
        path.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True
