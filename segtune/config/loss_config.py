"""The settings of the loss."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from segtune.config.settings import Settings


class FocalConfig(Settings):
    """Focal loss (Lin et al. 2017)."""

    weight: float = Field(
        default=1.0, ge=0, description="Weight of the focal loss in the sum. 0: not computed."
    )
    gamma: float = Field(
        default=2.0,
        ge=0,
        le=8,
        description="Focusing exponent. A larger value gives easy pixels less weight. 0: plain "
        "cross-entropy.",
    )
    alpha: float = Field(
        default=0.5,
        gt=0,
        lt=1,
        description="Weight of the positives; the negatives have 1 - alpha. Only used by the "
        "sigmoid form.",
    )
    form: Literal["sigmoid", "softmax"] = Field(
        default="sigmoid",
        description="sigmoid: each class against the rest, as in mmseg. softmax: over all classes.",
    )


class CrossEntropyConfig(Settings):
    """Softmax cross-entropy."""

    weight: float = Field(
        default=0.0, ge=0, description="Weight of cross-entropy in the sum. 0: not computed."
    )


class DiceConfig(Settings):
    """Dice loss (Milletari et al. 2016)."""

    weight: float = Field(
        default=0.0, ge=0, description="Weight of the Dice loss in the sum. 0: not computed."
    )
    per_class: bool = Field(
        default=False,
        description="true: the mean over one Dice loss for each class that occurs in the sample. "
        "false: one Dice loss over all classes of the sample together.",
    )


class OhemConfig(Settings):
    """Online hard example mining (Shrivastava et al. 2016), for focal and cross-entropy."""

    keep: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="Fraction of a batch's pixels that count in focal loss and cross-entropy: "
        "those whose label has the lowest probability. null: all pixels.",
    )


class LossConfig(Settings):
    """A weighted sum of focal loss, Dice loss and cross-entropy; ignored pixels do not count."""

    focal: FocalConfig = Field(default_factory=FocalConfig, description="Focal loss.")
    dice: DiceConfig = Field(
        default_factory=lambda: DiceConfig(weight=1.0), description="Dice loss."
    )
    ce: CrossEntropyConfig = Field(
        default_factory=CrossEntropyConfig, description="Softmax cross-entropy."
    )
    class_weights: tuple[Annotated[float, Field(ge=0)], ...] | None = Field(
        default=None,
        description="One weight per class, in the order of the labels, for focal loss and "
        "cross-entropy. A pixel has the weight of its label; in the sigmoid form of focal loss, "
        "the weights apply to the classes' outputs instead. The mean is over all pixels, not over "
        "the sum of weights. null: all 1.",
    )
    ohem: OhemConfig = Field(default_factory=OhemConfig, description="Hard example mining.")

    @model_validator(mode="after")
    def _check_weights(self) -> Self:
        if not (self.focal.weight or self.dice.weight or self.ce.weight):
            raise ValueError(
                "at least one of focal.weight, dice.weight and ce.weight must be above 0, "
                "got 0 for all three"
            )
        if self.class_weights is not None and not any(self.class_weights):
            raise ValueError(
                "at least one of class_weights must be above 0, got "
                f"{len(self.class_weights)} values of 0; null gives every class the weight 1"
            )
        return self
