"""The ranks of one run: who we are, on which device, and sums over all of us. In one process everything is the identity."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

# A rank that waits longer than this for the others in a collective takes them for lost.
COLLECTIVE_TIMEOUT = timedelta(seconds=300)


@dataclass(frozen=True)
class Ranks:
    """This process among the `world_size` processes of a run."""

    rank: int = 0
    world_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @classmethod
    def join(cls, device: str | None = None) -> Ranks:
        """Finds the group: the one that Ray Train has started, the one that torchrun describes, or this process alone."""
        local_rank = int(os.environ.get("LOCAL_RANK", "0"))
        chosen = torch.device(device) if device else _own_device(local_rank)
        if chosen.type == "cuda":
            torch.cuda.set_device(chosen)
        if (
            not dist.is_initialized()
            and int(os.environ.get("WORLD_SIZE", "1")) > 1
            and "MASTER_ADDR" in os.environ
        ):
            dist.init_process_group(
                "nccl" if chosen.type == "cuda" else "gloo", timeout=COLLECTIVE_TIMEOUT
            )
        if not dist.is_initialized():
            return cls(device=chosen)
        return cls(dist.get_rank(), dist.get_world_size(), chosen)

    @property
    def is_first(self) -> bool:
        """Whether this rank writes the files of the run."""
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """Adds `tensor` up over all ranks, in place, and returns it; NaN on one rank is NaN on all."""
        if self.world_size > 1:
            dist.all_reduce(tensor)
        return tensor

    def copy_first(self, tensors: Iterable[Tensor]) -> None:
        """Gives tensors, in place, the values that they have on the first rank."""
        if self.world_size > 1:
            for tensor in tensors:
                dist.broadcast(tensor, 0)

    def wait(self) -> None:
        """Returns when all ranks have come here."""
        if self.world_size > 1:
            dist.barrier()

    def wrap(self, model: nn.Module) -> nn.Module:
        """Returns the model with gradients averaged over the ranks."""
        if self.world_size == 1:
            return model
        # Depthwise convolutions have one channel per group, so two stride layouts mean the same; DDP warns all the same.
        warnings.filterwarnings("ignore", message="Grad strides do not match")
        devices = [self.device] if self.device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(
            model, device_ids=devices, gradient_as_bucket_view=True
        )


def _own_device(local_rank: int) -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", local_rank % torch.cuda.device_count())


def leave() -> None:
    """Closes the group that `join` opened under torchrun."""
    if dist.is_initialized():
        dist.destroy_process_group()


def unwrap(model: nn.Module) -> nn.Module:
    """Returns the model inside DDP, or the model itself."""
    return (
        cast(nn.Module, model.module)
        if isinstance(model, nn.parallel.DistributedDataParallel)
        else model
    )
