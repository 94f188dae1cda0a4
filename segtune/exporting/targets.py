"""Where an export is written: existing files and folders are not replaced by mistake.

Everything is written beside its target first, so that a reader finds the old or the new export.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from segtune.errors import RunError
from segtune.runs.atomic import naming, sync_folder, temporary_beside

# The file that marks a folder as an export of segtune.
MARK = "segtune_export.json"


def check_file(option: str, path: Path, *, overwrite: bool) -> None:
    """Raise RunError if there is something at `path` that must not be replaced."""
    if path.is_dir():
        raise RunError(f"{option}: {path} is a folder; expected a file")
    if os.path.lexists(path) and not overwrite:
        raise RunError(f"{option}: {path} exists; replace it with --overwrite, or choose another")


def check_folder(option: str, path: Path, *, overwrite: bool) -> None:
    """Raise RunError if there is something at `path` that must not be replaced.

    A folder that segtune has not written is never replaced.
    """
    if not os.path.lexists(path) or (path.is_dir() and not any(path.iterdir())):
        return
    if not path.is_dir():
        raise RunError(f"{option}: {path} is a file; expected a folder")
    if not (path / MARK).is_file():
        raise RunError(
            f"{option}: {path} holds files that segtune has not exported, so it is not replaced; "
            "choose another folder"
        )
    if not overwrite:
        raise RunError(
            f"{option}: {path} holds an earlier export; replace it with --overwrite, or choose "
            "another folder"
        )


def check_extra(option: str, *modules: str) -> None:
    """Raise RunError if a library of the extra `export` is not installed."""
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise RunError(
            f'{option}: needs {", ".join(missing)}; install with: pip install "segtune[export]"'
        )


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; the file there replaces `path` after the block."""
    copy = temporary_beside(path).with_suffix(path.suffix)
    try:
        with naming(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield copy
            os.replace(copy, path)
            sync_folder(path.parent)
    finally:
        copy.unlink(missing_ok=True)


@contextmanager
def new_folder(path: Path, kind: str) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; it replaces `path` after the block, with a mark.

    `kind` says in the mark what the folder holds.
    """
    from segtune import __version__

    copy = temporary_beside(path)
    try:
        with naming(path):
            copy.mkdir(parents=True)
            yield copy
            mark = {"made_by": "segtune export", "version": __version__, "kind": kind}
            (copy / MARK).write_text(json.dumps(mark, indent=1) + "\n")
            if path.exists():
                shutil.rmtree(path)
            copy.rename(path)
            sync_folder(path.parent)
    finally:
        shutil.rmtree(copy, ignore_errors=True)
