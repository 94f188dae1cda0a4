"""The loss of a training run: the weighted sum of the config's terms on logits.

`formulas.py` defines the terms; `banded.py` computes most of them, `lovasz.py` Lovász-Softmax. This
file connects them to the config. Ignored pixels count in no term. Half precision is converted to
float32, also under autocast: it has no room for the tails of a focal loss.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from segtune.config.data_config import IGNORE_INDEX
from segtune.config.loss_config import LossConfig
from segtune.errors import ConfigError
from segtune.losses.banded import BandedLabels, BandedLoss, LossSpec
from segtune.losses.custom import custom_loss, load_custom_loss
from segtune.losses.labels import Labelling, Mixing, labellings, selected_weights
from segtune.losses.lovasz import LovaszLoss, upsample
from segtune.losses.pixel_terms import SoftmaxBand
from segtune.losses.row_bands import RowUpsampler, split_into_bands

# The terms of `BandedLoss`, in its order.
BANDED_TERMS = ("focal", "dice", "ce", "tversky")


class SegmentationLoss(nn.Module):
    """The weighted sum of a config's terms; terms with weight 0 are not computed."""

    class_weights: Tensor

    def __init__(
        self, config: LossConfig, num_classes: int, ignore_index: int = IGNORE_INDEX
    ) -> None:
        """Raise ConfigError if `loss.class_weights` does not have one weight per class.

        Also raise it if `loss.custom.name` cannot be loaded.
        """
        super().__init__()
        self.config = config
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        class_weights = torch.tensor(_class_weights(config, num_classes))
        self.register_buffer("class_weights", class_weights, persistent=False)
        self.spec = _spec(config, ignore_index)
        weights = config.weights
        self.lovasz_weight = weights["lovasz"]
        self.custom_weight = weights["custom"]
        self.custom = None
        if self.custom_weight and config.custom.name:
            self.custom = load_custom_loss(config.custom.name, num_classes, ignore_index)

    def forward(
        self, logits: Tensor, target: Tensor, mixing: Mixing | None = None
    ) -> dict[str, Tensor]:
        """Return scalars: `total`, and each active term (`focal`, `dice`, …), unweighted.

        Only `total` has a gradient.

        Shapes: logits float [N, C, h, w], target int64 [N, H, W] in 0..C-1 or ignore_index, with
        h <= H. Smaller logits are upsampled bilinearly (align_corners=False) to the labels. A batch
        without a valid pixel gives 0 with a gradient of 0. With `mixing`, `target` are the labels
        of the first image of each sample. Raises ValueError if N or C do not fit.
        """
        self._check_shapes(logits, target)
        with torch.autocast(logits.device.type, enabled=False):
            logits = logits if logits.dtype == torch.float64 else logits.float()
            parts = labellings(target, mixing, self.ignore_index)
            sums: list[Tensor] = []
            terms: dict[str, Tensor] = {}
            if not self.spec.is_empty:
                total, values = self._banded(logits, parts)
                sums.append(total)
                named = zip(BANDED_TERMS, values, strict=True)
                terms = {name: value for name, value in named if getattr(self.spec, name)}
            for name, weight, value in self._full_size_terms(logits, parts):
                sums.append(weight * value)
                terms[name] = value.detach()
        total = sums[0] if len(sums) == 1 else torch.stack(sums).sum()
        return {"total": total} | terms

    def without_focusing(self) -> SegmentationLoss:
        """Return the same loss with a focal gamma of 0."""
        plain = copy.copy(self)
        plain.spec = replace(self.spec, gamma=0.0)
        return plain

    def _banded(self, logits: Tensor, parts: Sequence[Labelling]) -> tuple[Tensor, Tensor]:
        """Return the weighted sum of the banded terms, and the terms."""
        num_images = len(logits)
        selected = [self._selected(logits, part.target) for part in parts]
        shares = None
        target = parts[0].target
        if len(parts) > 1:
            target = torch.cat([part.target for part in parts])
            shares = torch.cat([part.share for part in parts if part.share is not None])
            logits = torch.cat([logits] * len(parts))
        labels = BandedLabels(target, selected_weights(selected, parts), shares, num_images)
        return BandedLoss.apply(logits, labels, self.class_weights.to(logits), self.spec)  # pyright: ignore[reportReturnType]

    def _full_size_terms(
        self, logits: Tensor, parts: Sequence[Labelling]
    ) -> list[tuple[str, float, Tensor]]:
        """Return name, weight and value of each term that needs logits of the labels' size."""
        terms: list[tuple[str, float, Tensor]] = []
        if self.lovasz_weight:
            per_image = self.config.lovasz.per_image
            values = [
                LovaszLoss.apply(logits, part, per_image, self.ignore_index) for part in parts
            ]
            terms.append(("lovasz", self.lovasz_weight, torch.stack(values).sum()))
        if self.custom is not None:
            full = upsample(logits, parts[0].target.shape[-2:])
            value = custom_loss(self.custom, str(self.config.custom.name), full, parts)
            terms.append(("custom", self.custom_weight, value))
        return terms

    def _selected(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return which pixels count in focal and cross-entropy, bool [N, H, W]."""
        keep = self.config.ohem.keep
        if keep is None:
            return target != self.ignore_index
        return hardest_pixels(logits.detach(), target, keep, self.ignore_index)

    def _check_shapes(self, logits: Tensor, target: Tensor) -> None:
        is_4d = logits.ndim == 4
        if not is_4d or logits.shape[:2] != (target.shape[0], self.num_classes):
            raise ValueError(
                f"logits {list(logits.shape)} do not fit {self.num_classes} classes "
                f"and labels {list(target.shape)}; expected [N, C, h, w] and [N, H, W]"
            )


def hardest_pixels(
    logits: Tensor, target: Tensor, keep: float, ignore_index: int = IGNORE_INDEX
) -> Tensor:
    """Return which pixels online hard example mining keeps, bool [N, H, W].

    Same result as `formulas.hardest_pixels`. Shapes as in `SegmentationLoss`.
    """
    valid = target != ignore_index
    nll = torch.full(target.shape, -math.inf, dtype=logits.dtype, device=logits.device)
    upsampler = RowUpsampler(logits, target.shape[-2:])
    for sample in range(len(logits)):
        full_width = upsampler.upsample_width(sample)
        for band in split_into_bands(upsampler, sample, full_width, target, valid, ignore_index):
            nll[sample, band.rows] = SoftmaxBand(band).nll.view(-1, target.shape[2])
    nll = nll.where(valid, -math.inf)
    last = (valid.sum() * keep).ceil().long().clamp(min=1) - 1
    # `gather`, because indexing with a tensor would copy it to the host and wait for the device.
    threshold = nll.flatten().sort(descending=True).values.gather(0, last[None])
    return valid & (nll >= threshold)


def _class_weights(config: LossConfig, num_classes: int) -> tuple[float, ...]:
    """Return one weight per class. Raises ConfigError if the config does not have them."""
    if isinstance(config.class_weights, str):
        raise ConfigError(
            [
                f"loss.class_weights: {config.class_weights!r} is computed from the training masks "
                "when a training run starts; give one number for each class here"
            ]
        )
    weights = config.class_weights or (1.0,) * num_classes
    if len(weights) != num_classes:
        raise ConfigError(
            [
                f"loss.class_weights: {len(weights)} values for {num_classes} classes; "
                "give one for each class, in the order of the classes"
            ]
        )
    return weights


def _spec(config: LossConfig, ignore_index: int) -> LossSpec:
    return LossSpec(
        focal=config.focal.weight,
        dice=config.dice.weight,
        ce=config.ce.weight,
        tversky=config.tversky.weight,
        softmax_focal=config.focal.form == "softmax",
        gamma=config.focal.gamma,
        alpha=config.focal.alpha,
        dice_per_class=config.dice.per_class,
        label_smoothing=config.label_smoothing,
        tversky_alpha=config.tversky.alpha,
        tversky_beta=config.tversky.beta,
        ignore_index=ignore_index,
    )


def build_loss(
    config: LossConfig, num_classes: int, ignore_index: int = IGNORE_INDEX
) -> SegmentationLoss:
    """Return the loss of a config for `num_classes` classes."""
    return SegmentationLoss(config, num_classes, ignore_index)
