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


class LovaszConfig(Settings):
    """Lovász-Softmax (Berman et al. 2018): a surrogate of 1 - IoU."""

    weight: float = Field(
        default=0.0,
        ge=0,
        description="Weight of the Lovász-Softmax loss in the sum. 0: not computed. The mean is "
        "over the classes that occur in the labels.",
    )
    per_image: bool = Field(
        default=False,
        description="true: one loss for each image, and their mean. false: one loss for all pixels "
        "of a rank's batch together.",
    )


class TverskyConfig(Settings):
    """Tversky loss (Salehi et al. 2017)."""

    weight: float = Field(
        default=0.0, ge=0, description="Weight of the Tversky loss in the sum. 0: not computed."
    )
    alpha: float = Field(
        default=0.3,
        ge=0,
        le=1,
        description="Weight of the false positives. alpha and beta 0.5: Dice without squares.",
    )
    beta: float = Field(
        default=0.7,
        ge=0,
        le=1,
        description="Weight of the false negatives. A larger value finds more of small classes.",
    )


class CustomLossConfig(Settings):
    """A loss of the user's own package (docs/losses.md)."""

    weight: float = Field(
        default=1.0,
        ge=0,
        description="Weight of loss.custom.name in the sum. 0: not computed. Only used with a "
        "name.",
    )
    name: str | None = Field(
        default=None,
        description="Import path `package.module:name` of a function "
        "`build(num_classes, ignore_index)` that returns the loss: a function of logits "
        "[N, C, H, W] and labels [N, H, W] with a scalar result.",
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
    """A weighted sum of loss terms; ignored pixels do not count."""

    focal: FocalConfig = Field(default_factory=FocalConfig, description="Focal loss.")
    dice: DiceConfig = Field(
        default_factory=lambda: DiceConfig(weight=1.0), description="Dice loss."
    )
    ce: CrossEntropyConfig = Field(
        default_factory=CrossEntropyConfig, description="Softmax cross-entropy."
    )
    lovasz: LovaszConfig = Field(
        default_factory=LovaszConfig, description="Lovász-Softmax loss, for IoU itself."
    )
    tversky: TverskyConfig = Field(
        default_factory=TverskyConfig,
        description="Tversky loss: Dice with weights for false positives and false negatives.",
    )
    custom: CustomLossConfig = Field(
        default_factory=CustomLossConfig, description="A loss of one's own, by import path."
    )
    label_smoothing: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="For cross-entropy only: this fraction of each label is spread evenly over all "
        "classes (Szegedy et al. 2016), as in torch.nn.functional.cross_entropy.",
    )
    class_weights: tuple[Annotated[float, Field(ge=0)], ...] | Literal["balanced"] | None = Field(
        default=None,
        description="One weight per class, in the order of the labels, for focal loss and "
        "cross-entropy. A pixel has the weight of its label; in the sigmoid form of focal loss, "
        "the weights apply to the classes' outputs instead. The mean is over all pixels, not over "
        "the sum of weights. null: all 1. balanced: median frequency balancing (Eigen and Fergus "
        "2015) on the training masks; the run's config.yaml has the numbers.",
    )
    ohem: OhemConfig = Field(default_factory=OhemConfig, description="Hard example mining.")
    balance: Literal["none", "gradient"] = Field(
        default="none",
        description="gradient: each term is scaled so that its gradient has the norm of "
        "cross-entropy's, on one batch before the first step. The weights are then shares, and "
        "comparable between terms. The factors are in loss_factors.json. none: as they are.",
    )

    @property
    def weights(self) -> dict[str, float]:
        """Return the weight of each term; 0 for a term that is not computed."""
        return {
            "focal": self.focal.weight,
            "dice": self.dice.weight,
            "ce": self.ce.weight,
            "lovasz": self.lovasz.weight,
            "tversky": self.tversky.weight,
            "custom": self.custom.weight if self.custom.name else 0.0,
        }

    @property
    def untrained_if_0(self) -> tuple[float, ...] | None:
        """Return class weights of which a 0 means that no term trains this class, or None.

        Only focal loss and cross-entropy have class weights.
        """
        unweighted = (self.weights[name] for name in ("dice", "lovasz", "tversky", "custom"))
        if isinstance(self.class_weights, str) or any(unweighted):
            return None
        return self.class_weights

    @model_validator(mode="after")
    def _check_weights(self) -> Self:
        if not any(self.weights.values()):
            raise ValueError(
                "at least one of focal.weight, dice.weight, ce.weight, lovasz.weight, "
                "tversky.weight and custom.weight (with custom.name) must be above 0, got 0 for "
                "all of them"
            )
        if self.class_weights is not None and not any(self.class_weights):
            raise ValueError(
                "at least one of class_weights must be above 0, got "
                f"{len(self.class_weights)} values of 0; null gives every class the weight 1"
            )
        return self

    @model_validator(mode="after")
    def _check_tversky(self) -> Self:
        if self.tversky.weight and not self.tversky.alpha + self.tversky.beta:
            raise ValueError(
                "tversky.alpha and tversky.beta are both 0, so the Tversky loss is always 0; "
                "raise one of them, 0.5 and 0.5 is Dice"
            )
        return self
