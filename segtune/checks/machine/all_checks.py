"""Every check of the machine, in the order of its report."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from segtune.checks.machine.disks import check_disks, check_home, check_shared_memory
from segtune.checks.machine.gpus import check_gpus
from segtune.checks.machine.limits import (
    check_clock,
    check_cpus,
    check_memory,
    check_open_files,
    check_processes,
)
from segtune.checks.machine.network import check_collectives, check_ports, check_proxy
from segtune.checks.machine.outcome import Outcome
from segtune.checks.machine.packages import check_packages, check_python, declared
from segtune.checks.machine.ray_folder import check_leftovers, check_ray_folder, ray_folder
from segtune.data.loader_limits import MAX_AUTO_LOADERS


def machine_checks(runs: Path) -> Iterator[Outcome]:
    """Yield the outcome of each check; `runs` is the folder of search runs. Starts no Ray."""
    python, needed = declared()
    yield check_python(python)
    packages = list(check_packages(needed))
    yield from packages
    if not any(outcome.text.startswith("torch ") for outcome in packages):
        yield from check_gpus()
    num_cpus = len(os.sched_getaffinity(0))
    yield check_cpus()
    yield check_memory()
    # One trial per CPU without a GPU has no loader processes; a trial on a GPU has at most four.
    yield check_shared_memory(max(1, min(MAX_AUTO_LOADERS, num_cpus - 1)))
    yield from check_disks(runs, Path(ray_folder()))
    yield check_open_files()
    yield check_processes()
    yield from check_clock(runs)
    yield check_home()
    yield check_ray_folder()
    yield check_leftovers()
    yield from check_ports()
    yield check_proxy()
    yield from check_collectives()
