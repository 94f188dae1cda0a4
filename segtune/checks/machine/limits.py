"""What the system and a container allow: open files, processes, CPUs, memory; and the clock."""

from __future__ import annotations

import os
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from segtune.checks.disk_need import format_bytes
from segtune.checks.machine.disks import nearest_existing
from segtune.checks.machine.outcome import Outcome, graded

# A local Ray holds some hundreds of files open, and each trial some dozens more.
FEW_FILES, TOO_FEW_FILES = 4096, 512
# Ray's processes have about 200 threads on a small machine, and each worker some dozens.
FEW_PROCESSES = 2048
LITTLE_MEMORY, TOO_LITTLE_MEMORY = 6e9, 2e9  # a worker with torch takes 0.5 to 1 GB
CGROUP = Path("/sys/fs/cgroup")
UNLIMITED = 1 << 60  # cgroup v1 writes a number near 2^63 for no limit
CLOCK_TOLERANCE_S = 5.0
EARLIEST = 1_735_689_600  # 2025-01-01: a clock before it was never set


def check_open_files() -> Outcome:
    """Check the limits on open files and processes of this shell."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = "unlimited" if hard == resource.RLIM_INFINITY else str(hard)
    soft = UNLIMITED if soft == resource.RLIM_INFINITY else soft
    return graded(
        "open files",
        f"{'no limit' if soft == UNLIMITED else f'at most {soft}'} (hard limit {most})",
        problem=soft < TOO_FEW_FILES,
        warning=soft < FEW_FILES,
        remedy=f"ulimit -n {min(65536, hard) if hard > 0 else 65536}, in the same shell",
    )


def check_processes() -> Outcome:
    """Check the limit on processes and threads of this user."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    soft = UNLIMITED if soft == resource.RLIM_INFINITY else soft
    text = "no limit" if soft == UNLIMITED else f"at most {soft} of this user, with threads"
    remedy = "ulimit -u 65536, in the same shell"
    return graded("processes", text, warning=soft < FEW_PROCESSES, remedy=remedy)


def check_cpus(cgroup: Path = CGROUP, num_cpus: int | None = None) -> Outcome:
    """Check the CPUs that processes see against the limit of the container."""
    seen = num_cpus or len(os.sched_getaffinity(0))
    allowed = cpu_limit(cgroup)
    text = f"{seen} for this process"
    if allowed is None or allowed >= seen:
        return Outcome("cpus", "ok", f"{text}, no lower limit of a container")
    text += f", and the container may use {allowed:g}"
    remedy = f"let no more trials run at once: --max-concurrent {max(1, int(allowed))}; and set "
    return Outcome("cpus", "warning", text, f"{remedy}OMP_NUM_THREADS=1")


def cpu_limit(cgroup: Path = CGROUP) -> float | None:
    """Return how many CPUs a container may use, or None without a limit."""
    if words := _words(cgroup / "cpu.max"):  # cgroup v2: "200000 100000" or "max 100000"
        return None if words[0] == "max" else int(words[0]) / int(words[1])
    quota = _words(cgroup / "cpu" / "cpu.cfs_quota_us")
    period = _words(cgroup / "cpu" / "cpu.cfs_period_us")
    if not (quota and period) or int(quota[0]) <= 0:
        return None
    return int(quota[0]) / int(period[0])


def check_memory(cgroup: Path = CGROUP, meminfo: Path = Path("/proc/meminfo")) -> Outcome:
    """Check the memory of the machine, or of the container if that is less."""
    total, free = _meminfo(meminfo)
    limit = memory_limit(cgroup)
    text = f"{format_bytes(total)}, {format_bytes(free)} available"
    if limit is not None and limit < total:
        text = f"{format_bytes(limit)} for the container, of {format_bytes(total)}"
    usable = min(total, limit or total)
    return graded(
        "memory",
        text,
        problem=usable < TOO_LITTLE_MEMORY,
        warning=min(usable, free) < LITTLE_MEMORY,
        remedy="Ray ends workers when 95 % are used: let fewer trials run (--max-concurrent 1), "
        "set data.num_loaders to 0, or give the container more memory",
    )


def memory_limit(cgroup: Path = CGROUP) -> int | None:
    """Return how many bytes a container may use, or None without a limit."""
    for file in (cgroup / "memory.max", cgroup / "memory" / "memory.limit_in_bytes"):
        words = _words(file)
        if words and words[0] != "max" and int(words[0]) < UNLIMITED:
            return int(words[0])
    return None


def _words(file: Path) -> list[str]:
    try:
        return file.read_text().split()
    except OSError:
        return []


def _meminfo(file: Path) -> tuple[int, int]:
    """Return the bytes of memory, and of those that are available."""
    rows = dict(line.split(":", 1) for line in file.read_text().splitlines() if ":" in line)
    total, free = (int(rows[name].split()[0]) * 1024 for name in ("MemTotal", "MemAvailable"))
    return total, free


def check_clock(runs: Path, now: float | None = None) -> Iterator[Outcome]:
    """Check the clock, also against that of the file system of the runs.

    The two differ if the runs are on shared storage; then the ages of heartbeats are wrong.
    """
    now = time.time() if now is None else now
    shown = time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(now))
    remedy = "set the clock, for example with: timedatectl set-ntp true"
    folder = nearest_existing(runs)
    off = 0.0
    if os.access(folder, os.W_OK | os.X_OK):
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".segtune-doctor-") as file:
            off = os.stat(file.name).st_mtime - now
    text = f"{shown}; the disk of {folder} differs by {abs(off):.1f} s"
    is_off = now < EARLIEST or abs(off) > CLOCK_TOLERANCE_S
    yield graded("clock", text, warning=is_off, remedy=remedy)
