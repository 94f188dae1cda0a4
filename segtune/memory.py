"""When a step does not fit into memory: telling it from other errors, and finding what would fit."""

from __future__ import annotations

import gc
from collections.abc import Callable

import torch

from segtune.errors import SegtuneError
from segtune.heap import give_back

# How errors say it that have no class of their own: of the processor's allocator, of the driver, of cuBLAS.
WORDS = ("DefaultCPUAllocator: can't allocate memory", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")


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
        free()
        try:
            step(images)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        else:
            return images
        images //= 2
    return 0


def free() -> None:
    """Gives back what nothing holds any more, as after a failed step or at a trial's end."""
    gc.collect()
    give_back()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
