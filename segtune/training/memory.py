"""Memory of a process: kept between steps, given back at a trial's end, and what fits when it runs out."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import resource
from collections.abc import Callable

import torch

from segtune.errors import SegtuneError

# Parameters of mallopt(3), and what they are set to, in bytes.
KEPT = {
    -3: 1 << 30,  # M_MMAP_THRESHOLD: blocks below it come from the heap, not from the kernel
    -1: (1 << 31) - 1,  # M_TRIM_THRESHOLD: free memory above it, at the end of the heap, goes back
    -2: 64
    << 20,  # M_TOP_PAD: a thread's heaps are of at most 64 MiB, and one that is empty goes back unless it is as small as this
}


def keep_freed_memory() -> None:
    """Has this process keep what it frees; `return_free_memory` still returns it. Larger blocks than 64 MiB only in its main thread.

    Not under a limit on address space (`ulimit -v`): what is given back there are pages, their addresses still count.
    """
    if resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY:
        return
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        for parameter, value in KEPT.items():
            libc.mallopt(parameter, value)


def return_free_memory() -> None:
    """Returns free memory to the system."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


# How errors say it that have no class of their own: of the processor's allocator, of the driver, of cuBLAS.
WORDS = (
    "DefaultCPUAllocator: can't allocate memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
)


class OutOfMemoryError(SegtuneError):
    """A step needs more memory than there is. The run's verdict says what would fit."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory has run out, on a GPU or in the process."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in WORDS)


def largest_that_fits(step: Callable[[int], None], images: int) -> int:
    """Returns the largest of images/2, images/4, … for which `step` ends without running out of memory; 0 where not even 1 does."""
    images //= 2
    while images:
        release_memory()
        try:
            step(images)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        else:
            return images
        images //= 2
    return 0


def release_memory() -> None:
    """Gives back what nothing holds any more, as after a failed step or at a trial's end."""
    gc.collect()
    return_free_memory()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
