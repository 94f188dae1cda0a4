"""The C library's heap: what a step frees stays with the process, because the next step asks for the same again.

glibc asks the kernel for every large block and gives it back as soon as it is freed, and the kernel clears its pages again at each
step: 30 % of a step of SegFormer-B0 with 8 crops of 256x256 on a processor (benchmarks/step.py). A process grows for it, because
kept blocks lie in the heap with gaps between them. Other C libraries are left as they are.
"""

from __future__ import annotations

import contextlib
import ctypes
import resource

# Parameters of mallopt(3), and what they are set to, in bytes.
KEPT = {
    -3: 1 << 30,  # M_MMAP_THRESHOLD: blocks below it come from the heap, not from the kernel
    -1: (1 << 31) - 1,  # M_TRIM_THRESHOLD: free memory above it, at the end of the heap, goes back
    -2: 64 << 20,  # M_TOP_PAD: a thread's heaps are of at most 64 MiB, and one that is empty goes back unless it is as small as this
}


def keep_freed() -> None:
    """Has this process keep what it frees; `give_back` still returns it. Larger blocks than 64 MiB only in its main thread.

    Not under a limit on address space (`ulimit -v`): what is given back there are pages, their addresses still count.
    """
    if resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY:
        return
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        for parameter, value in KEPT.items():
            libc.mallopt(parameter, value)


def give_back() -> None:
    """Returns free memory to the system."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
