"""One optimiser step of one rank: forward, losses, backward, status over all ranks, weight update.

Knows neither epochs nor schedules nor files: `trainer.py` does.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from segtune.config.optim_config import OptimConfig
from segtune.data.loader import Batch, normalize
from segtune.losses.labels import Mixing
from segtune.losses.segmentation import SegmentationLoss
from segtune.models.upernet import AUXILIARY_WEIGHT
from segtune.training.distributed import Ranks, unwrap
from segtune.training.memory import is_out_of_memory, largest_that_fits
from segtune.training.probes import gradient_left
from segtune.training.weight_average import WeightAverage

# How many steps the GPU may run ahead of the host. Safe, because a step that is not finite never
# changes the weights.
LAG = 2
# The scales of the loss with which a gradient in float16 is measured, one after the other.
PROBE_SCALES = (2.0**16, 2.0**12, 2.0**8, 2.0**4, 1.0)


@dataclass(frozen=True)
class StepResult:
    """The numbers and the status of one optimiser step; the same on all ranks."""

    step: int
    lr: float  # the encoder's learning rate
    losses: dict[str, float]  # means over micro-batches and ranks; `loss` is what is minimised
    grad_norm: float  # before clipping
    gradient_left: float | None  # see `probes.gradient_left`; None if it was not measured
    finite: bool  # if False, the weights were left as they were
    cancelled: bool  # whether a rank asked to end the training run after this step


@dataclass(frozen=True)
class OutOfMemory:
    """A step that did not fit into this rank's memory."""

    num_images: int  # in the micro-batch
    num_fitting: int  # how many of them fit; 0: not even one
    message: str  # of the allocator


@dataclass(frozen=True)
class PendingStep:
    """A step whose numbers may still be on their way from the device to the host."""

    step: int
    lr: float
    names: tuple[str, ...]
    values: Tensor  # on the host: the losses in the order of `names`, grad_norm, finite, cancelled
    arrival: torch.cuda.Event | None  # of the values on the host; None on a CPU
    gradient_left: float | None

    def read(self) -> StepResult:
        """Wait for the device, and return the numbers."""
        if self.arrival:
            self.arrival.synchronize()
        *losses, grad_norm, finite, cancelled = self.values.tolist()
        return StepResult(
            step=self.step,
            lr=self.lr,
            losses=dict(zip(self.names, losses, strict=True)),
            grad_norm=grad_norm,
            gradient_left=self.gradient_left,
            finite=bool(finite),
            cancelled=bool(cancelled),
        )


class TrainStep:
    """Trains the model of one rank on batches. A step never makes the host wait for the device."""

    def __init__(
        self,
        config: OptimConfig,
        model: nn.Module,
        loss: SegmentationLoss,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        precision: torch.dtype,
        ranks: Ranks,
        average: WeightAverage | None = None,
    ) -> None:
        """`model` may be wrapped by DDP; `precision` is the dtype of autocast."""
        self.config = config
        self.model = model
        self.loss = loss.to(ranks.device)
        self.optimizer = optimizer
        self.scaler = scaler
        self.precision = precision
        self.ranks = ranks
        self.average = average
        # The latest steps, because the numbers of a step are judged up to LAG steps later.
        self.recent: deque[PendingStep] = deque(maxlen=LAG + 1)
        # Without a scaler: 1 until the first step that is not finite, then 0.
        self._is_healthy: Tensor | None = None
        # Once: collecting the parameters takes as long as computing their norm.
        self._parameters = list(model.parameters())

    def run(
        self,
        micro_batches: Sequence[Batch],
        *,
        step: int,
        lr: float,
        cancel: bool = False,
        probe: bool = False,
    ) -> PendingStep | OutOfMemory:
        """Do optimiser step number `step` on the mean gradient of all micro-batches.

        With `cancel` this rank asks all ranks to end the training run after this step. With `probe`
        it also measures `gradient_left`, for which the host waits for the device.
        """
        try:
            return self._run(micro_batches, step, lr, cancel, probe)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            message = str(error).strip().splitlines()[0]
        # After the except block: inside it, `error` keeps every tensor of the failed step alive.
        num_images = len(micro_batches[0].images)
        num_fitting = largest_that_fits(partial(self.probe_memory, micro_batches[0]), num_images)
        return OutOfMemory(num_images, num_fitting, message)

    def _run(
        self, micro_batches: Sequence[Batch], step: int, lr: float, cancel: bool, probe: bool
    ) -> PendingStep:
        self.optimizer.zero_grad(set_to_none=True)
        parts: list[dict[str, Tensor]] = []
        share_left: float | None = None
        for number, batch in enumerate(micro_batches, 1):
            is_last = number == len(micro_batches)
            with self._gradient_exchange(is_last):
                logits, auxiliary = self._forward(self.model, batch)
                masks, mixing = self._labels(batch)
                if probe and is_last:
                    share_left = self._gradient_left(logits, masks, mixing)
                losses = self._losses(logits, auxiliary, masks, mixing)
                self.scaler.scale(losses["loss"] / len(micro_batches)).backward()
            parts.append(losses)
        self.scaler.unscale_(self.optimizer)
        grad_norm = self._clip_gradients()
        values = self._status(parts, grad_norm, cancel)
        self._update_weights(loss=values[0], grad_norm=grad_norm, finite=values[-2])
        if self.average:
            self.average.update(step)
        pending = PendingStep(step, lr, tuple(parts[0]), *_to_host(values), share_left)
        self.recent.append(pending)
        return pending

    def _gradient_exchange(self, is_last: bool) -> contextlib.AbstractContextManager[None]:
        """Return a context in which DDP exchanges gradients only if `is_last`.

        DDP exchanges them once per optimiser step, in the backward pass of the last micro-batch.
        """
        if is_last or not isinstance(self.model, nn.parallel.DistributedDataParallel):
            return contextlib.nullcontext()
        return self.model.no_sync()

    def _forward(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """Return logits [B, C, h, w], and logits of the auxiliary head or None."""
        device = self.ranks.device
        images = normalize(batch.images.to(device, non_blocking=True))
        with torch.autocast(
            device.type, dtype=self.precision, enabled=self.precision is not torch.float32
        ):
            return model(images, with_auxiliary=True)

    def _labels(self, batch: Batch) -> tuple[Tensor, Mixing | None]:
        """Return the masks [B, H, W], and how the samples are mixed, or None if none is."""
        device = self.ranks.device
        masks = batch.masks.to(device, non_blocking=True).long()
        if batch.second_masks is None or batch.first_share is None:
            return masks, None
        second = batch.second_masks.to(device, non_blocking=True).long()
        return masks, Mixing(second, batch.first_share.to(device, non_blocking=True))

    def _losses(
        self, logits: Tensor, auxiliary: Tensor | None, masks: Tensor, mixing: Mixing | None
    ) -> dict[str, Tensor]:
        """Return `loss`, which is minimised, and each term of the main head without its weight."""
        terms = dict(self.loss(logits, masks, mixing))
        total = terms.pop("total")
        if auxiliary is not None:
            total = total + AUXILIARY_WEIGHT * self.loss(auxiliary, masks, mixing)["total"]
        return {"loss": total, **terms}

    def _gradient_left(self, logits: Tensor, masks: Tensor, mixing: Mixing | None) -> float:
        # One image of the batch is enough: the probe must take less than 1 % of the training time.
        first = mixing.head(1) if mixing else None
        measured = torch.tensor(
            gradient_left(self.loss, logits[:1], masks[:1], first), device=self.ranks.device
        )
        return float(self.ranks.sum(measured) / self.ranks.world_size)

    def _clip_gradients(self) -> Tensor:
        """Clip the gradients if the config asks for it; return their norm before clipping."""
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        if self.config.clip_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(self._parameters, self.config.clip_norm, norm)
        return norm

    def _status(
        self, parts: Sequence[dict[str, Tensor]], grad_norm: Tensor, cancel: bool
    ) -> Tensor:
        """Return one tensor: the mean losses, the gradient norm, the flags finite and cancelled.

        A single sum over the ranks adds up the losses and the flags. DDP has made the gradients
        equal on all ranks, and so their norm.
        """
        losses = torch.stack(
            [torch.stack([part[name].detach() for part in parts]).mean() for name in parts[0]]
        )
        has_failed = (~losses.isfinite().all()).to(losses)
        flags = torch.stack([has_failed, losses.new_full((), float(cancel))])
        shared = self.ranks.sum(torch.cat([losses, flags]))
        *_, num_failed, num_cancelling = shared.unbind()
        finite = (num_failed == 0) & grad_norm.isfinite()
        status = torch.stack([grad_norm, finite.to(losses), (num_cancelling > 0).to(losses)])
        return torch.cat([shared[:-2] / self.ranks.world_size, status])

    def _update_weights(self, *, loss: Tensor, grad_norm: Tensor, finite: Tensor) -> None:
        """Update the weights unless the step is not finite. The device decides; no host waits.

        Without a scaler, such a step ends the training run, so no later step updates them either.
        The weights then stay as they were before that step, and it can be replayed exactly.
        """
        if not self.scaler.is_enabled():
            is_healthy = (loss.isfinite() & grad_norm.isfinite()).to(finite)
            if self._is_healthy is not None:
                is_healthy = is_healthy * self._is_healthy
            self._is_healthy = is_healthy
            # torch's fused optimisers skip the update if this attribute is not 0, as they do for a
            # GradScaler. Other optimisers ignore it, and one NaN step would ruin AdamW's moments.
            assert all(group.get("fused") for group in self.optimizer.param_groups)
            self.optimizer.found_inf = 1 - finite * is_healthy  # pyright: ignore[reportAttributeAccessIssue]
        # A scaler that is enabled skips the update itself, and lowers its scale for the next step.
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def term_norms(self, batch: Batch, terms: Mapping[str, SegmentationLoss]) -> dict[str, float]:
        """Return the norm of the gradient of each loss on the parameters, the mean over the ranks.

        Changes neither the weights nor the statistics of norms. All ranks have to call it.
        """
        network = unwrap(self.model).train()
        kept = [buffer.clone() for buffer in network.buffers()]
        trained = [p for p in network.parameters() if p.requires_grad]
        norms = []
        with torch.compiler.set_stance("force_eager"):
            logits, _ = self._forward(network, batch)
            labels = self._labels(batch)
            for loss in terms.values():
                total = loss.to(self.ranks.device)(logits, *labels)["total"]
                norms.append(self._gradient_norm(total, trained))
        for buffer, value in zip(network.buffers(), kept, strict=True):
            buffer.copy_(value)
        means = self.ranks.sum(torch.stack(norms)) / self.ranks.world_size
        return dict(zip(terms, means.tolist(), strict=True))

    def _gradient_norm(self, total: Tensor, parameters: Sequence[Tensor]) -> Tensor:
        """Return the norm of the gradient of a loss; its graph stays.

        In float16 the loss is scaled, because small gradients would be 0. The scale is the largest
        at which the gradient does not overflow.
        """
        norm = total
        for scale in PROBE_SCALES if self.scaler.is_enabled() else (1.0,):
            gradients = torch.autograd.grad(
                total * scale, parameters, retain_graph=True, allow_unused=True
            )
            norm = torch.nn.utils.get_total_norm([g for g in gradients if g is not None]) / scale
            if norm.isfinite():
                break
        return norm

    def probe_memory(self, batch: Batch, num_images: int) -> None:
        """Run forward and backward of the first `num_images` of a batch, on this rank alone.

        Raises the allocator's error if they do not fit.
        """
        self.optimizer.zero_grad(set_to_none=True)
        # In evaluation mode: synchronised batch norms would wait for the other ranks.
        model = unwrap(self.model).eval()
        part = batch.head(num_images)
        with torch.compiler.set_stance("force_eager"):
            loss = self._losses(*self._forward(model, part), *self._labels(part))["loss"]
            # Not `backward`: DDP's hooks on the parameters would wait for the other ranks.
            trained = [p for p in model.parameters() if p.requires_grad]
            torch.autograd.grad(loss, trained, allow_unused=True)


def with_lag(
    outcomes: Iterable[PendingStep | OutOfMemory],
) -> Iterator[PendingStep | OutOfMemory]:
    """Yield each outcome once LAG more steps are under way, so that a GPU never waits for work."""
    waiting: deque[PendingStep | OutOfMemory] = deque()
    for outcome in outcomes:
        waiting.append(outcome)
        if len(waiting) > LAG:
            yield waiting.popleft()
    yield from waiting


def _to_host(values: Tensor) -> tuple[Tensor, torch.cuda.Event | None]:
    """Start a copy to the host; return its destination and the event of its arrival."""
    if values.device.type != "cuda":
        return values, None
    host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    host.copy_(values, non_blocking=True)
    arrival = torch.cuda.Event()
    arrival.record()
    return host, arrival
