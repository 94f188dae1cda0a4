"""Free space where segtune and Ray write, shared memory, and the home folder."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from segtune.checks.disk_need import format_bytes
from segtune.checks.machine.outcome import Outcome, graded
from segtune.data.cache import cache_folder
from segtune.data.loader_limits import SHARED_MEMORY

TOO_LITTLE, LITTLE = 500e6, 10e9  # bytes free
# Ray creates no object and starts no task on a disk that is fuller than this.
FULL_FOR_RAY = 0.95
# A batch of 18 crops of 512 x 512 pixels, with three channels and a label, twice per loader.
LOADER_BYTES = 18 * 512 * 512 * 4 * 2


def check_disks(runs: Path, ray_folder: Path) -> Iterator[Outcome]:
    """Check each folder that is written; folders on one disk are one line."""
    places = {
        "runs": runs,
        "decoded images": cache_folder(),
        "temporary files": Path(tempfile.gettempdir()),
        "Ray": ray_folder,
    }
    by_disk: dict[int, list[str]] = {}
    for name, folder in places.items():
        existing = nearest_existing(folder)
        if not os.access(existing, os.W_OK | os.X_OK):
            state = "problem" if name in ("runs", "temporary files") else "warning"
            remedy = "choose another folder (--out, TMPDIR, XDG_CACHE_HOME, RAY_TMPDIR), or change "
            yield Outcome(
                "disk", state, f"{folder} ({name}) cannot be written", f"{remedy}who may write it"
            )
        else:
            by_disk.setdefault(existing.stat().st_dev, []).append(name)
    for names in by_disk.values():
        yield check_space(", ".join(names), places[names[0]])


def check_space(name: str, folder: Path, free: float | None = None) -> Outcome:
    """Check the free space of the disk of a folder; `free` takes the place of the real one."""
    disk = shutil.disk_usage(nearest_existing(folder))
    free = disk.free if free is None else free
    used = 1 - free / disk.total
    text = f"{format_bytes(free)} free ({used:.0%} used) in {folder}, for {name}"
    is_full = "Ray" in name and used > FULL_FOR_RAY
    remedy = "make space, or use other folders: --out, TMPDIR, XDG_CACHE_HOME, RAY_TMPDIR"
    if is_full:
        remedy = f"above {FULL_FOR_RAY:.0%} Ray stores nothing on it; {remedy}"
    is_problem = free < TOO_LITTLE
    return graded("disk", text, problem=is_problem, warning=is_full or free < LITTLE, remedy=remedy)


def nearest_existing(folder: Path) -> Path:
    """Return a folder, or the nearest one above it that exists."""
    folder = folder.absolute()
    while not folder.exists():
        folder = folder.parent
    return folder


def check_shared_memory(num_loaders: int, folder: Path = SHARED_MEMORY) -> Outcome:
    """Check the shared memory against what `num_loaders` loader processes and Ray need."""
    if not folder.is_dir():
        text = f"{folder} does not exist; loader processes use files in the temporary folder"
        return Outcome("shared memory", "ok", text)
    disk = os.statvfs(folder)
    free, needed = disk.f_bavail * disk.f_frsize, num_loaders * LOADER_BYTES
    loaders = "1 loader process" if num_loaders == 1 else f"{num_loaders} loader processes"
    return graded(
        "shared memory",
        f"{format_bytes(free)} free in {folder}; batches of 18 x 512 x 512 pixels take about "
        f"{format_bytes(needed)} in {loaders}",
        warning=free < needed,
        remedy="start the container with more, for example docker run --shm-size=8g; fewer loader "
        "processes are used otherwise, and Ray stores objects on the disk",
    )


def check_home(home: Path | None = None) -> Outcome:
    """Check whether Ray can write its token into the home folder."""
    home = Path(os.path.expanduser("~")) if home is None else home
    folder = home / ".ray"
    usable = os.access(folder if folder.exists() else home, os.W_OK | os.X_OK)
    text = f"{home} can{'' if usable else 'not'} be written; Ray keeps a token in .ray"
    remedy = "set HOME to a folder that can be written"
    return graded("home", text, problem=not usable, remedy=remedy)
