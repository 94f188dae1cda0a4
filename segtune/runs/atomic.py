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

# The errors of link(2) on file systems without hard links, for example FAT, gcsfuse, some NFS.
NO_HARD_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
# The errors of fsync(2) on file systems that cannot sync a folder, for example SMB and FUSE, and of
# a folder that may be written but not read.
NO_FOLDER_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF, errno.EACCES, errno.EPERM)


def write_atomic(path: Path, data: str | bytes) -> None:
    """Write a file, replacing an earlier one. Create the folder if it is absent.

    A symbolic link stays, and its target is written. A device or a pipe, such as /dev/stdout, is
    written to and not replaced. An OSError names `path`, also if the disk is full.
    """
    with naming(path):
        target = Path(os.path.realpath(path)) if path.is_symlink() else path
        if target.exists() and not (target.is_file() or target.is_dir()):
            target.write_bytes(_encoded(data))
            return
        with _synced_copy(target, data) as copy:
            os.replace(copy, target)
        sync_folder(target.parent)


def create_once(path: Path, data: str | bytes) -> bool:
    """Write a file unless it exists; return whether this call wrote it.

    If several processes call this at the same time, exactly one of them gets True. On a file
    system without hard links the file is empty for a moment before it has its content. An OSError
    names `path`; the file then does not exist.
    """
    with naming(path), _synced_copy(path, data) as copy:
        try:
            os.link(copy, path)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in NO_HARD_LINKS:
                raise
            if not _create_empty(path):
                return False
            try:
                os.replace(copy, path)
            except OSError:
                path.unlink()  # an empty file would stop every later call
                raise
        sync_folder(path.parent)
    return True


def sync_folder(folder: Path) -> None:
    """Make renames in `folder` survive a power loss, if its file system can sync folders."""
    try:
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        if error.errno not in NO_FOLDER_SYNC:
            raise


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Raise an OSError of the block with `path` as its file name.

    A write to a full disk names no file, and a temporary file has a name that the user never gave.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


@contextlib.contextmanager
def _synced_copy(path: Path, data: str | bytes) -> Iterator[Path]:
    """Write `data` to a temporary file beside `path`; remove that file after the block."""
    path.parent.mkdir(parents=True, exist_ok=True)
    copy = temporary_beside(path)
    try:
        with copy.open("wb") as file:
            file.write(_encoded(data))
            file.flush()
            os.fsync(file.fileno())
        yield copy
    finally:
        copy.unlink(missing_ok=True)


def temporary_beside(path: Path) -> Path:
    """Return a new name for a hidden temporary file or folder beside `path`.

    It has a part of the name only, because a file name has at most 255 bytes.
    """
    return path.with_name(f".{path.name[:40]}.{uuid.uuid4().hex[:8]}.tmp")


def _encoded(data: str | bytes) -> bytes:
    return data.encode() if isinstance(data, str) else data


def _create_empty(path: Path) -> bool:
    """Create an empty file; return False if the file exists."""
    try:
        path.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True
