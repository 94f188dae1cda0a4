"""The precision of a training run: autocast's dtype, the loss scaler, and the way out of float16.

With `optim.precision: auto`, a training run whose gradients keep overflowing in float16 goes on in
bfloat16 or float32, once. It continues from the weights that it has, because a step that overflows
does not change them. A training run with `optim.precision: fp16` ends instead.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import nn

from segtune.config.schema import ExperimentConfig
from segtune.runs.atomic import write_atomic
from segtune.runs.records import EpochRecord, PrecisionSwitch
from segtune.runs.rundir import TrialDir
from segtune.training.distributed import Ranks, unwrap
from segtune.training.evaluation import autocast_dtype
from segtune.training.train_step import StepResult, TrainStep

log = logging.getLogger(__name__)

# The scaler skips a few steps while it looks for its scale, then about one in 2000. If it skips
# more than this share of an epoch, and more than health.max_skipped_steps, float16 does not fit.
MAX_SKIPPED_SHARE = 0.2
# The first generation of GPUs that computes float16 much faster than float32, and the GPUs of it
# that have no tensor cores: they report 7.5 like the others.
TENSOR_CORES = (7, 0)
WITHOUT_TENSOR_CORES = "GTX 16"


def training_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Return the dtype in which a training run begins.

    `auto` is bfloat16 if the GPU has it, otherwise float16 if it has tensor cores for that,
    otherwise float32. Validation on its own never takes float16 by itself (`autocast_dtype`):
    nothing would notice an overflow there.
    """
    dtype = autocast_dtype(precision, device)
    if precision == "auto" and dtype is torch.float32 and _has_fast_float16(device):
        return torch.float16
    return dtype


def _has_fast_float16(device: torch.device) -> bool:
    return (
        device.type == "cuda"
        and torch.cuda.get_device_capability(device) >= TENSOR_CORES
        and WITHOUT_TENSOR_CORES not in torch.cuda.get_device_name(device)
    )


def shared_dtype(dtype: torch.dtype, ranks: Ranks) -> torch.dtype:
    """Return the dtype in which all ranks train; each of them has chosen `dtype` for its GPU.

    Different GPUs of one training run may differ in what `auto` is: then all use float32. All ranks
    have to call it.
    """
    dtypes = ranks.gather(dtype)
    if len(set(dtypes)) == 1:
        return dtype
    if ranks.is_first:
        names = [dtype_name(other) for other in dtypes]
        log.warning(
            "optim.precision auto: the GPUs of the ranks differ (%s), so all train in float32",
            ", ".join(names),
        )
    return torch.float32


def dtype_name(dtype: torch.dtype) -> str:
    """Return the name of a dtype as records have it, for example float32."""
    return str(dtype).removeprefix("torch.")


class TrainingPrecision:
    """The dtype of autocast and the loss scaler; both change if float16 is left."""

    def __init__(self, config: ExperimentConfig, out: TrialDir, ranks: Ranks) -> None:
        self.config = config
        self.out = out
        self.ranks = ranks
        self.switch: PrecisionSwitch | None = None
        self._set(shared_dtype(training_dtype(config.optim.precision, ranks.device), ranks))

    @property
    def may_leave_float16(self) -> bool:
        """Whether `leave_float16` may be called: only with `auto`, and only once."""
        return self.config.optim.precision == "auto" and self.dtype is torch.float16

    @property
    def validation_dtype(self) -> torch.dtype:
        """The dtype of validation, as in `segtune evaluate`.

        With `auto` it is never float16, because nothing would notice an overflow.
        """
        return autocast_dtype(self.config.optim.precision, self.ranks.device)

    def leave_float16(self, train_step: TrainStep, epoch: int, step: int, reason: str) -> None:
        """Let the steps after `step`, in `epoch`, be made in bfloat16 or float32, on all ranks."""
        self._leave()
        before, after = "float16", dtype_name(self.dtype)
        self.switch = PrecisionSwitch(epoch, step, before, after, reason)
        train_step.precision = self.dtype
        train_step.scaler = self.scaler
        repair_norms(unwrap(train_step.model))
        if self.ranks.is_first:
            log.warning("optim.precision auto: %s", self.switch.sentence)
            self.write()

    def leave_if_it_skips(
        self, train_step: TrainStep, record: EpochRecord, step: int, num_steps: int
    ) -> bool:
        """Leave float16 if the scaler has skipped too many steps of an epoch; return whether.

        `step` is the last one of the epoch, which had `num_steps`.
        """
        skipped = record.skipped_steps or 0
        at_most = max(self.config.health.max_skipped_steps, MAX_SKIPPED_SHARE * num_steps)
        if not self.may_leave_float16 or skipped <= at_most:
            return False
        reason = f"{skipped} of {num_steps} steps of epoch {record.epoch} were skipped"
        self.leave_float16(train_step, record.epoch, step, reason)
        return True

    def must_redo(self, epoch: int, results: Sequence[StepResult]) -> bool:
        """Whether float16 was left in this epoch, and none of its steps has changed a weight."""
        is_left = self.switch is not None and self.switch.epoch == epoch
        return is_left and not any(math.isfinite(result.grad_norm) for result in results)

    def redo_after(self, step: int, train_step: TrainStep) -> None:
        """Let the steps after `step`, none of which has changed a weight, be made again."""
        assert self.switch
        self.switch = replace(self.switch, step=step)
        train_step.recent.clear()
        if self.ranks.is_first:
            self.write()

    def write(self) -> None:
        """Write the file of the switch, or remove it if the training run has not made one."""
        self.out.check_current()
        if self.switch:
            write_atomic(self.out.precision, json.dumps(asdict(self.switch), indent=1) + "\n")
        else:
            self.out.precision.unlink(missing_ok=True)

    def state(self) -> dict[str, Any]:
        """Return what a resume needs."""
        switch = asdict(self.switch) if self.switch else None
        return {"scaler": self.scaler.state_dict(), "precision_switch": switch}

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore what `state` returned; early versions wrote the scaler only."""
        if switch := state.get("precision_switch"):
            self.switch = PrecisionSwitch(**switch)
            self._set(getattr(torch, self.switch.after))
        elif self.may_leave_float16 and not state["scaler"]:
            # On another GPU, or in an early version, auto was another precision: keep it.
            self._leave()
        if bool(state["scaler"]) == self.scaler.is_enabled():
            self.scaler.load_state_dict(state["scaler"])

    def _leave(self) -> None:
        self._set(shared_dtype(autocast_dtype("auto", self.ranks.device), self.ranks))

    def _set(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        is_float16 = dtype is torch.float16
        self.scaler = torch.amp.GradScaler(self.ranks.device.type, enabled=is_float16)


def repair_norms(network: nn.Module) -> None:
    """Reset the statistics of batch norms that are not finite.

    A forward pass changes them, also in a step that is not finite and changes no weight.
    """
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._NormBase) and not all(
            bool(buffer.isfinite().all()) for buffer in module.buffers(recurse=False)
        ):
            module.reset_running_stats()
