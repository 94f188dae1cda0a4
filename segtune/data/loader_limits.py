"""What the operating system allows loader processes: paths of sockets, and shared memory.

Starts no process.
"""

from __future__ import annotations

import logging
import multiprocessing.util
import os
import tempfile
from pathlib import Path

log = logging.getLogger(__name__)

# Linux allows 107 bytes for the path of a socket, macOS 103. multiprocessing adds two names of its
# own to the folder for temporary files: /pymp-xxxxxxxx/listener-xxxxxxxx, 32 bytes.
MAX_TEMPORARY_FOLDER = 103 - 32
# Loader processes of a rank, if `data.num_loaders` is auto.
MAX_AUTO_LOADERS = 4
SHARED_MEMORY = Path("/dev/shm")


def shorten_socket_paths() -> None:
    """Let multiprocessing make its sockets in /tmp if TMPDIR is too long for the path of a socket.

    Otherwise a loader process cannot send its first batch, and training waits for it for ever.
    Other temporary files stay in TMPDIR.
    """
    if len(os.fsencode(tempfile.gettempdir())) <= MAX_TEMPORARY_FOLDER:
        return
    earlier = tempfile.tempdir
    tempfile.tempdir = "/tmp"
    try:
        # Made once for each process; the loader processes inherit it.
        multiprocessing.util.get_temp_dir()
    finally:
        tempfile.tempdir = earlier


def fitting_loaders(loaders: int, batch_bytes: int, prefetch: int) -> int:
    """Return how many loader processes the free shared memory allows, at most `loaders`.

    Each keeps `prefetch` batches of `batch_bytes` in shared memory. If it is full, the kernel kills
    a loader process. Containers often have 64 MB. Warns if there are fewer than `loaders`.
    """
    if not loaders or not SHARED_MEMORY.is_dir():
        return loaders
    disk = os.statvfs(SHARED_MEMORY)
    free = disk.f_bavail * disk.f_frsize
    fitting = min(loaders, free // max(1, prefetch * batch_bytes))
    if fitting < loaders:
        log.warning(
            "%s has %.0f MB free, but %d loader processes need about %.0f MB: using %d; "
            "start the container with more, for example docker run --shm-size=8g",
            SHARED_MEMORY,
            free / 1e6,
            loaders,
            loaders * prefetch * batch_bytes / 1e6,
            fitting,
        )
    return fitting
