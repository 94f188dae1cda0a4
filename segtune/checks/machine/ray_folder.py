"""The folder of Ray's sockets and logs: whether it is usable, and leftovers. Imports no Ray."""

from __future__ import annotations

import os
import re
import shlex
import tempfile
import time
from pathlib import Path

from segtune.checks.disk_need import folder_bytes, format_bytes
from segtune.checks.machine.outcome import Outcome, graded

# A socket's path has at most 107 bytes on Linux and 103 on macOS. To its folder Ray adds
# /ray/session_2026-01-01_00-00-00_123456_1234567/sockets/plasma_store, 70 bytes.
MAX_RAY_FOLDER = 103 - 70
RAY_FOLDERS = ("RAY_TMPDIR", "TMPDIR")  # the variables that Ray reads, in this order
SESSION = re.compile(r"session_\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d_\d+_(\d+)")
MANY_LEFT, MUCH_LEFT = 20, 2e9  # sessions, bytes
# Summing up sizes ends after this time: a session may have many thousands of files.
PATIENCE_S = 5.0


def ray_folder() -> str:
    """Return the folder in which Ray makes its own, `ray`."""
    return next((os.environ[name] for name in RAY_FOLDERS if name in os.environ), "/tmp")


def folder_problem(folder: str) -> str:
    """Return why Ray cannot make its sockets in `folder`, or "" if it can."""
    if len(os.fsencode(folder)) > MAX_RAY_FOLDER:
        return "too long for the paths of Ray's sockets"
    if not os.path.isabs(folder):
        return "not an absolute path"
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return ""
    except OSError as error:
        return f"cannot be written ({error.strerror})"


def check_ray_folder() -> Outcome:
    """Check the folder of Ray's sockets. segtune uses a new one in /tmp if it is not usable."""
    folder = ray_folder()
    problem = folder_problem(folder)
    if not problem:
        return Outcome("ray folder", "ok", f"{folder} is usable for Ray's sockets")
    hopeless = folder_problem("/tmp")
    remedy = f"set RAY_TMPDIR to a folder of at most {MAX_RAY_FOLDER} characters"
    text = f"{folder}: {problem}"
    text += f", and /tmp {hopeless}" if hopeless else "; segtune uses a new folder in /tmp instead"
    return graded("ray folder", text, problem=bool(hopeless), warning=True, remedy=remedy)


def check_leftovers(folder: Path | None = None) -> Outcome:
    """Check for files of earlier sessions of Ray whose process has ended."""
    folder = Path(ray_folder(), "ray") if folder is None else folder
    dead, alive = [], 0
    for path in sorted(folder.glob("session_*")) if os.access(folder, os.R_OK) else ():
        match = SESSION.fullmatch(path.name)
        if match is None or path.is_symlink():
            continue
        if _is_alive(int(match[1])):
            alive += 1
        else:
            dead.append(path)
    num_bytes, is_complete = _bytes_of(dead)
    size = f"{'' if is_complete else 'at least '}{format_bytes(num_bytes)}"
    text = f"{len(dead)} sessions that have ended left {size} in {folder}; {alive} may be running"
    return graded(
        "ray leftovers",
        text,
        warning=len(dead) > MANY_LEFT or num_bytes > MUCH_LEFT,
        remedy=f"if no Ray is running here: rm -r {shlex.quote(str(folder))}/session_*",
    )


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OverflowError:
        return False
    except PermissionError:  # of another user
        return True
    return True


def _bytes_of(folders: list[Path]) -> tuple[int, bool]:
    """Return the bytes of folders, and whether all of them were counted in time."""
    end, total = time.monotonic() + PATIENCE_S, 0
    for folder in folders:
        if time.monotonic() > end:
            return total, False
        total += folder_bytes(folder)
    return total, True
