"""Files that survive a crash: a reader finds the old content or the new content, never a part."""

from __future__ import annotations

import contextlib
import errno
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

# What link(2) answers on file systems that have no hard links.
NO_HARD_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


def write_atomic(path: Path, data: str | bytes) -> None:
    """Write a file, replacing an earlier one. The folder is created if it is absent."""
    with _synced_copy(path, data) as copy:
        os.replace(copy, path)
    sync_folder(path.parent)


def create_once(path: Path, data: str | bytes) -> bool:
    """Write a file unless it exists; return whether this call created it.

    If several processes do so at the same time, exactly one of them succeeds.
    """
    with _synced_copy(path, data) as copy:
        try:
            os.link(copy, path)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in NO_HARD_LINKS:
                raise
            return _create_exclusively(path, data)
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
    """Write `data` to a temporary file beside `path`, which is removed after the block."""
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


def _create_exclusively(path: Path, data: str | bytes) -> bool:
    """Do what `create_once` does without hard links: a crash may then leave a part of the file."""
    try:
        with path.open("xb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError:
        return False
    return True
