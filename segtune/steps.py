"""One optimiser step up to its gradients: forward, losses, backward, norm. The optimiser is touched by the trainer."""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor, nn

from segtune.config import OptimConfig
from segtune.data.loader import Batch, normalize
from segtune.distributed import Ranks, unwrap
from segtune.losses import SegmentationLoss
from segtune.models import AUXILIARY_WEIGHT
from segtune.signs import gradient_left


class Steps:
    """Runs the batches of one rank through the model."""

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
        self.optimizer, self.scaler, self.precision, self.ranks = optimizer, scaler, precision, ranks
        self.gradient_left = 1.0  # see signs.gradient_left; of the last step that was looked at

    def backward(self, micro: list[Batch], look: bool = False) -> tuple[dict[str, float], float]:
        """Leaves the gradients of one optimiser step; returns the mean losses of all ranks and the norm before clipping.

        `micro` are the batches that it accumulates. With `look` it also measures `gradient_left`.
        """
        self.optimizer.zero_grad(set_to_none=True)
        parts: list[dict[str, Tensor]] = []
        for number, batch in enumerate(micro, 1):
            # DDP sends gradients once per optimiser step, with the last micro-batch.
            silent = getattr(self.model, "no_sync", contextlib.nullcontext) if number < len(micro) else contextlib.nullcontext
            with silent():
                terms = self._forward(batch, self.model, look and number == len(micro))
                self.scaler.scale(terms["loss"] / len(micro)).backward()
            parts.append(terms)
        self.scaler.unscale_(self.optimizer)
        norm = self._gradient_norm()
        names = list(parts[0])
        # One sum carries the numbers for the log and, because NaN spreads, the agreement that a loss is not finite.
        shared = torch.stack([torch.stack([part[name].detach() for part in parts]).mean() for name in names])
        values = (self.ranks.sum(shared) / self.ranks.world_size).tolist()
        return dict(zip(names, values, strict=True)), float(norm)

    def rehearse(self, batch: Batch, images: int) -> None:
        """Runs forward and backward of the first `images` of a batch on this rank alone, to see whether they fit."""
        self.optimizer.zero_grad(set_to_none=True)
        model = unwrap(self.model).eval()  # synchronised norms would wait for the other ranks
        self._forward(Batch(batch.images[:images], batch.masks[:images]), model)["loss"].backward()
        self.optimizer.zero_grad(set_to_none=True)

    def _forward(self, batch: Batch, model: nn.Module, look: bool = False) -> dict[str, Tensor]:
        """Returns the loss to minimise under `loss`, and each term of the main head unweighted."""
        device = self.ranks.device
        images = normalize(batch.images.to(device, non_blocking=True))
        masks = batch.masks.to(device, non_blocking=True).long()
        with torch.autocast(device.type, dtype=self.precision, enabled=self.precision is not torch.float32):
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
        parameters = list(self.model.parameters())
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        if self.config.clip_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(parameters, self.config.clip_norm, norm)
        return norm
