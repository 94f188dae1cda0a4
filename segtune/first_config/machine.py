"""The machine that a first config is for: GPUs, CPUs, and pretrained weights on its disk."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

HUB_ID = "nvidia/{}"  # of the MiT weights on the Hugging Face hub
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")


@dataclass(frozen=True)
class Machine:
    """What decides the size of a training run."""

    num_gpus: int
    gpu_gb: float  # memory of the smallest GPU; 0 without one
    num_cpus: int

    @classmethod
    def here(cls, kind: Literal["cpu", "gpu"] | None = None) -> Machine:
        """Return this machine; with `kind`, as if it had no GPU, or one of 16 GB if it has none."""
        num_cpus = len(os.sched_getaffinity(0))
        sizes = [] if kind == "cpu" else _gpu_sizes_gb()
        if kind == "gpu" and not sizes:
            sizes = [16.0]
        return cls(len(sizes), min(sizes, default=0.0), num_cpus)

    def __str__(self) -> str:
        if not self.num_gpus:
            return f"{self.num_cpus} CPUs without a GPU"
        return f"{self.num_gpus} GPU{'s' * (self.num_gpus > 1)} of {self.gpu_gb:.0f} GB"


def _gpu_sizes_gb() -> list[float]:
    import torch

    if not torch.cuda.is_available():
        return []
    numbers = range(torch.cuda.device_count())
    return [torch.cuda.get_device_properties(number).total_memory / 1e9 for number in numbers]


def downloaded_weights(encoder: str) -> str | None:
    """Return the hub id of the weights of a MiT if an earlier download is on this machine."""
    from huggingface_hub import try_to_load_from_cache

    source = HUB_ID.format(encoder.replace("_", "-"))
    files = [try_to_load_from_cache(source, name) for name in WEIGHT_FILES]
    has_config = isinstance(try_to_load_from_cache(source, "config.json"), str)
    return source if has_config and any(isinstance(file, str) for file in files) else None
