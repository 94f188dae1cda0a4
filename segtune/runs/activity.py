"""Whether a search is running, as any machine that sees its folder can tell. Writes nothing."""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass
from pathlib import Path

from segtune.runs.rundir import SearchDir

HOLDER = re.compile(r"host (\S+), process (\d+)")


@dataclass(frozen=True)
class Activity:
    """The driver that has locked a search run last, and whether it is still at work."""

    running: bool
    host: str = ""  # empty if no driver has locked the folder yet
    pid: int = 0
    began: float = 0.0  # Unix time of the file system: when the driver locked the folder


def read_activity(run: SearchDir) -> Activity:
    """Return whether a driver is at work on a search run.

    On the driver's own machine the lock decides. Elsewhere the lock is not known, but the driver
    records its session when it ends: it is at work if the lock is younger than the last session.
    A driver on another machine that was killed therefore seems to run.
    """
    # The parts of a search are locked by their parent, and the last of them records its session.
    lock = run.lock if run.lock.exists() else SearchDir(run.path.parent).lock
    match = HOLDER.match(_text(lock))
    if match is None:
        return Activity(running=False)
    began = _modified(lock)
    if match[1] == socket.gethostname():
        running = SearchDir(lock.parent).is_locked()
    else:
        last = run.full if run.full.trials.exists() else run
        running = _modified(last.sessions) < began
    return Activity(running, match[1], int(match[2]), began)


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _modified(path: Path) -> float:
    """Return when a file was changed, by the clock of its file system; 0 if it does not exist."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
