"""Memory of a process: keep freed memory for the next step, release it, find out what fits.

By default, glibc gets every large block from the kernel and returns it as soon as it is freed. So
the kernel clears the same pages again in every step. This took 30 % of a step of SegFormer-B0 with
8 crops of 256x256 on a CPU (benchmarks/step.py). A process that keeps its freed memory is larger,
because the kept blocks leave gaps in the heap. Only glibc is changed.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import resource
from collections.abc import Callable
from pathlib import Path

import torch

from segtune.errors import SegtuneError

# Parameters of mallopt(3) and their values in bytes.
MALLOC_OPTIONS = {
    -3: 1 << 30,  # M_MMAP_THRESHOLD: blocks below it come from the heap, not from the kernel
    # M_TRIM_THRESHOLD: free memory at the end of the heap is returned only if it is more than this.
    -1: (1 << 31) - 1,
    # M_TOP_PAD: per-thread heaps are at most 64 MiB; padding of that size keeps glibc from
    # returning an empty one.
    -2: 64 << 20,
}

# The messages of out-of-memory errors that have no class of their own: of the CPU's allocator, of
# the CUDA driver, and of cuBLAS.
OUT_OF_MEMORY_MESSAGES = (
    "DefaultCPUAllocator: can't allocate memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
)


class OutOfMemoryError(SegtuneError):
    """A step did not fit into memory. The verdict of the training run says how many images fit."""


def keep_freed_memory() -> None:
    """Make this process keep the memory that it frees, for its next allocations.

    This changes the whole process, so only commands and workers call it, never a library function.

    In threads other than the main thread, only blocks of up to 64 MiB are kept. Does nothing under
    a limit on address space (`ulimit -v`): returned pages would still count, because their
    addresses stay reserved.
    """
    if resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY:
        return
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        for parameter, value in MALLOC_OPTIONS.items():
            libc.mallopt(parameter, value)


def release_memory() -> None:
    """Return unused memory to the system and the GPU; for use after a failed step or a trial."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


class PeakMemory:
    """Measures how much memory this process takes from now on."""

    def __init__(self, device: torch.device) -> None:
        """Start measuring. Memory that is free but not returned yet would be taken unseen."""
        self.device = device
        release_memory()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            return
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # the peak starts again, see proc(5)
        self._before = _resident_bytes("VmRSS")

    def read(self) -> int | None:
        """Return the largest number of bytes since the start; None if the system does not tell it.

        On a GPU this is what torch has allocated, otherwise the growth of the resident memory.
        """
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        peak = _resident_bytes("VmHWM")
        return None if peak is None or self._before is None else max(0, peak - self._before)


def memory_used(device: torch.device) -> int | None:
    """Return the largest number of bytes that torch has allocated on a GPU so far.

    On a CPU, return the resident memory of this process; None if the system does not tell it.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return _resident_bytes("VmRSS")


def _resident_bytes(name: str) -> int | None:
    """Return a field of /proc/self/status in bytes; None on systems without it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return 1024 * int(line.split()[1])
    return None


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that the memory of a GPU or of the machine has run out."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    message = str(error)
    return isinstance(error, RuntimeError) and any(m in message for m in OUT_OF_MEMORY_MESSAGES)


def largest_that_fits(run: Callable[[int], None], num_images: int) -> int:
    """Return the largest of num_images/2, num_images/4, ... with which `run` succeeds, or 0.

    `run` is called with a number of images and raises the allocator's error if they do not fit.
    """
    num_images //= 2
    while num_images:
        release_memory()
        try:
            run(num_images)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        else:
            return num_images
        num_images //= 2
    return 0
