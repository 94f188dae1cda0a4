"""torch, CUDA, the driver, and the memory of the GPUs."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from segtune.checks.machine.outcome import Outcome, graded
from segtune.runs.environment import output_of

MIN_FREE_GB = 4.0
QUERY = ("nvidia-smi", "--query-gpu=driver_version,name", "--format=csv,noheader")


def check_gpus() -> Iterator[Outcome]:
    """Check whether torch can use the GPUs that the driver shows, and their free memory."""
    import torch

    shown = (output_of(*QUERY) or "").splitlines()
    usable = torch.cuda.is_available()
    num_gpus = torch.cuda.device_count() if usable else 0
    yield match_of(shown, num_gpus, torch.__version__, torch.version.cuda)
    yield from map(_check_memory, range(num_gpus))


def _check_memory(number: int) -> Outcome:
    """Check the free memory of a GPU."""
    import torch

    remedy = "other processes use it: nvidia-smi lists them; CUDA_VISIBLE_DEVICES hides it"
    try:
        free, total = (size / 1e9 for size in torch.cuda.mem_get_info(number))
        name = torch.cuda.get_device_name(number)
    except RuntimeError as error:  # a full GPU, or one that is another process's alone
        reason = (str(error).splitlines() or ["no reason"])[0]
        return Outcome("gpu memory", "warning", f"GPU {number} cannot be used: {reason}", remedy)
    text = f"GPU {number}, {name}: {free:.1f} of {total:.1f} GB free"
    is_little = free < min(MIN_FREE_GB, 0.5 * total)
    return graded("gpu memory", text, warning=is_little, remedy=remedy)


def match_of(shown: Sequence[str], num_usable: int, torch: str, cuda: str | None) -> Outcome:
    """Return whether torch can use the GPUs; `shown` are those of the driver, as `QUERY` prints."""
    build = f"torch {torch}, built for {f'CUDA {cuda}' if cuda else 'CPUs only'}"
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if num_usable:
        driver = shown[0].split(",")[0] if shown else "not known"
        return Outcome("gpus", "ok", f"{num_usable} usable; {build}, driver {driver}")
    if not shown:
        return Outcome("gpus", "ok", f"none: training runs on CPUs; {build}")
    driver = shown[0].split(",")[0]
    text = f"{len(shown)} shown by driver {driver}, and torch can use none; {build}"
    if hidden is not None:
        remedy = f"CUDA_VISIBLE_DEVICES is {hidden!r} and hides them: unset it"
    elif cuda is None:
        remedy = "install torch for CUDA: https://pytorch.org/get-started/locally"
    else:
        remedy = f"the driver may be older than CUDA {cuda} needs: update it, or install torch for "
        remedy += "an earlier CUDA"
    return Outcome("gpus", "warning", text, remedy)
