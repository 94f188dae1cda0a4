"""One optimiser step: forward, losses, backward, norm, and the weights where all of it is finite."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from segtune.config.schema import OptimConfig
from segtune.data.loader import Batch, normalize
from segtune.losses.segmentation import SegmentationLoss
from segtune.models.upernet import AUXILIARY_WEIGHT
from segtune.training.distributed import Ranks, unwrap
from segtune.training.probes import gradient_left

# Steps that a GPU may be ahead of what the host has read of them; a step that is not finite changes no weights meanwhile.
LAG = 2
# Among what ranks sum up after each step: how many of them are to leave the run.
LEAVING = "leaving"
# Says whether this rank is to leave; None in runs that are never left.
ShouldStop = Callable[[], bool] | None


@dataclass
class PendingStep:
    """What a step says of itself; on its way from the device until it is read."""

    step: int
    lr: float
    names: list[str]
    values: Tensor  # on the host: what the names say, in their order, and the gradient norm
    arrived: torch.cuda.Event | None

    def read(self) -> tuple[dict[str, float], float]:
        """Returns the mean losses of all ranks and the gradient norm before clipping; waits for the device.

        Raises Left, on all ranks alike, where one of them is to leave the run.
        """
        if self.arrived:
            self.arrived.synchronize()
        *losses, norm = self.values.tolist()
        terms = dict(zip(self.names, losses, strict=True))
        if terms.pop(LEAVING, 0.0):
            raise TrialCancelled
        return terms, norm


def with_lag(told: Iterable[PendingStep]) -> Iterator[PendingStep]:
    """Yields what steps tell once LAG more of them are under way, so that a GPU has work while the host reads."""
    waiting: deque[PendingStep] = deque()
    for one in told:
        waiting.append(one)
        if len(waiting) > LAG:
            yield waiting.popleft()
    yield from waiting


class TrialCancelled(Exception):
    """All ranks have left the run after the same step, because one of them was told to."""


class TrainStep:
    """Runs the batches of one rank through the model. Within a step the host never waits for the device."""

    def __init__(
        self,
        config: OptimConfig,
        model: nn.Module,
        loss: SegmentationLoss,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        precision: torch.dtype,
        ranks: Ranks,
    ) -> None:
        """`model` may be wrapped by DDP; `precision` is the dtype of autocast."""
        self.config, self.model, self.loss = config, model, loss.to(ranks.device)
        self.optimizer, self.scaler, self.precision, self.ranks = (
            optimizer,
            scaler,
            precision,
            ranks,
        )
        self.parameters = list(model.parameters())  # looking for them takes as long as their norm
        self.should_stop: ShouldStop = None
        self.gradient_left = 1.0  # see signs.gradient_left; of the last step that was looked at

    def run(self, micro: list[Batch], step: int, lr: float, look: bool = False) -> PendingStep:
        """Does one optimiser step over the batches that it accumulates, and returns what is to be known of it.

        Where the loss or a gradient is not finite, the weights stay as they are. With `look` it also measures `gradient_left`.
        """
        self.optimizer.zero_grad(set_to_none=True)
        parts: list[dict[str, Tensor]] = []
        for number, batch in enumerate(micro, 1):
            # DDP sends gradients once per optimiser step, with the last micro-batch.
            silent = (
                getattr(self.model, "no_sync", contextlib.nullcontext)
                if number < len(micro)
                else contextlib.nullcontext
            )
            with silent():
                terms = self._forward(batch, self.model, look and number == len(micro))
                self.scaler.scale(terms["loss"] / len(micro)).backward()
            parts.append(terms)
        self.scaler.unscale_(self.optimizer)
        norm = self._gradient_norm()
        names = list(parts[0])
        # One sum carries the numbers for the log and, because NaN spreads, the agreement that a loss is not finite.
        shared = torch.stack(
            [torch.stack([part[name].detach() for part in parts]).mean() for name in names]
        )
        if self.should_stop:
            names, shared = (
                [*names, LEAVING],
                torch.cat([shared, shared.new_full((1,), float(self.should_stop()))]),
            )
        values = torch.cat([self.ranks.sum(shared) / self.ranks.world_size, norm[None]])
        self._apply(values)
        return PendingStep(step, lr, names, *_to_host(values))

    def _apply(self, values: Tensor) -> None:
        if not self.scaler.is_enabled():
            # The name under which the fused optimisers look for what a scaler has found: the device decides, nobody waits for it.
            self.optimizer.found_inf = (~values.isfinite().all()).float()  # pyright: ignore[reportAttributeAccessIssue]
        # A scaler does the same, and takes a smaller scale for the next step.
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def probe_memory(self, batch: Batch, images: int) -> None:
        """Runs forward and backward of the first `images` of a batch on this rank alone, to see whether they fit."""
        self.optimizer.zero_grad(set_to_none=True)
        model = unwrap(self.model).eval()  # synchronised norms would wait for the other ranks
        with torch.compiler.set_stance("force_eager"):
            loss = self._forward(Batch(batch.images[:images], batch.masks[:images]), model)["loss"]
            # Not `backward`: the hooks that DDP has on the parameters would wait for the other ranks.
            torch.autograd.grad(
                loss, [p for p in model.parameters() if p.requires_grad], allow_unused=True
            )

    def _forward(self, batch: Batch, model: nn.Module, look: bool = False) -> dict[str, Tensor]:
        """Returns the loss to minimise under `loss`, and each term of the main head unweighted."""
        device = self.ranks.device
        images = normalize(batch.images.to(device, non_blocking=True))
        masks = batch.masks.to(device, non_blocking=True).long()
        with torch.autocast(
            device.type, dtype=self.precision, enabled=self.precision is not torch.float32
        ):
            logits, auxiliary = model(images, with_auxiliary=True)
        if look:
            # One image of the batch will do: a monitor may not cost more than a hundredth of what it watches.
            left = torch.tensor(gradient_left(self.loss, logits[:1], masks[:1]), device=device)
            self.gradient_left = float(self.ranks.sum(left) / self.ranks.world_size)
        terms = dict(self.loss(logits, masks))
        total = terms.pop("total")
        if auxiliary is not None:
            total = total + AUXILIARY_WEIGHT * self.loss(auxiliary, masks)["total"]
        return {"loss": total, **terms}

    def _gradient_norm(self) -> Tensor:
        """Returns the norm over all gradients before clipping, and clips them where the config asks for it."""
        norm = torch.nn.utils.get_total_norm(
            [p.grad for p in self.parameters if p.grad is not None]
        )
        if self.config.clip_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(self.parameters, self.config.clip_norm, norm)
        return norm


def _to_host(values: Tensor) -> tuple[Tensor, torch.cuda.Event | None]:
    """Starts a copy to the host; returns where it will be, and what tells that it is there."""
    if values.device.type != "cuda":
        return values, None
    host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True).copy_(
        values, non_blocking=True
    )
    arrived = torch.cuda.Event()
    arrived.record()
    return host, arrived
