"""The ranks of one training run: this process's rank, its device, and sums over all ranks.

Knows no Ray. In a single process every operation here is the identity.
"""

from __future__ import annotations

import importlib
import os
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

# A rank that waits longer than this in a collective operation treats the others as lost.
COLLECTIVE_TIMEOUT = timedelta(seconds=300)


@dataclass(frozen=True)
class Ranks:
    """This process's rank among the `world_size` processes of a training run."""

    rank: int = 0
    world_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    owns_group: bool = False  # whether `join` has opened the process group

    @classmethod
    def join(cls, device: str | None = None) -> Ranks:
        """Return the ranks of the process group that is open, or open the one of torchrun.

        Ray Train opens a group before it calls the training function. Without a group and without
        torchrun's environment variables this process is the only rank. `device` defaults to this
        process's GPU, or to the CPU if there is none.
        """
        local_rank = int(os.environ.get("LOCAL_RANK", "0"))
        chosen = torch.device(device) if device else default_device(local_rank)
        if chosen.type == "cuda":
            torch.cuda.set_device(chosen)
        under_torchrun = int(os.environ.get("WORLD_SIZE", "1")) > 1 and "MASTER_ADDR" in os.environ
        opens_group = under_torchrun and not dist.is_initialized()
        if opens_group:
            # The default arguments of its functions hold the group that is open while the module is
            # imported. `close` could then not end gloo's threads, and a thread that frees a tensor
            # while Python ends aborts the process: 4 of 80 evaluations on two ranks did.
            importlib.import_module("torch.distributed.nn")
            backend = "nccl" if chosen.type == "cuda" else "gloo"
            dist.init_process_group(backend, timeout=COLLECTIVE_TIMEOUT)
        if not dist.is_initialized():
            return cls(device=chosen)
        return cls(dist.get_rank(), dist.get_world_size(), chosen, opens_group)

    def close(self) -> None:
        """Close the process group if `join` has opened it."""
        if self.owns_group and dist.is_initialized():
            dist.destroy_process_group()

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, which writes the files of the training run."""
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """Sum `tensor` over all ranks, in place, and return it. NaN on one rank is NaN on all."""
        if self.world_size > 1:
            dist.all_reduce(tensor)
        return tensor

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all ranks, by rank. All ranks have to call it."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def broadcast(self, tensors: Iterable[Tensor]) -> None:
        """Copy the values of rank 0 into the tensors of all ranks."""
        if self.world_size > 1:
            for tensor in tensors:
                dist.broadcast(tensor, 0)

    def barrier(self) -> None:
        """Wait until all ranks have reached this call."""
        if self.world_size > 1:
            dist.barrier()

    def wrap(self, model: nn.Module) -> nn.Module:
        """Return the model in DDP, which averages its gradients over the ranks."""
        if self.world_size == 1:
            return model
        # The weights of depthwise convolutions have one channel per group, so their gradients may
        # have other strides and yet the same layout. DDP warns of such strides without need.
        warnings.filterwarnings("ignore", message="Grad strides do not match")
        devices = [self.device] if self.device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(
            model, device_ids=devices, gradient_as_bucket_view=True
        )


def default_device(local_rank: int = 0) -> torch.device:
    """Return the GPU of a local rank, or the CPU if there is no GPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", local_rank % torch.cuda.device_count())


def unwrap(model: nn.Module) -> nn.Module:
    """Return the model inside DDP, or the model itself."""
    is_wrapped = isinstance(model, nn.parallel.DistributedDataParallel)
    return cast(nn.Module, model.module) if is_wrapped else model
