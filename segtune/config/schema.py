"""The config of one training run: every setting with its range, default and meaning.

Knows nothing of searches; their settings are in `tuning/study.py`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from segtune.config.data_config import DataConfig
from segtune.config.file_kinds import check_is_config
from segtune.config.settings import PathText, Settings
from segtune.config.yaml_io import parse_assignments, read_yaml

Share = Annotated[float, Field(ge=0, le=1)]


class CutoutConfig(Settings):
    """Rectangular holes that are filled with the mean colour; their labels become ignore_index."""

    prob: Share = Field(default=0.0, description="Probability that a training crop gets holes.")
    holes: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] = Field(
        default=(1, 3), description="Smallest and largest number of holes in a crop."
    )
    size: tuple[Share, Share] = Field(
        default=(0.02, 0.2),
        description="Smallest and largest side of a hole, as a fraction of the crop's side.",
    )

    @model_validator(mode="after")
    def _check_ranges(self) -> Self:
        for name in ("holes", "size"):
            smallest, largest = getattr(self, name)
            if smallest > largest:
                raise ValueError(
                    f"{name}: the first value must not exceed the second, "
                    f"got [{smallest}, {largest}]"
                )
        return self


class MixConfig(Settings):
    """Mixing a training sample with another one."""

    kind: Literal["none", "cutmix"] = Field(
        default="none",
        description="cutmix: paste a random rectangle of another sample, with its labels. none: "
        "no mixing.",
    )
    prob: Share = Field(
        default=0.0, description="Probability that a sample is mixed with another one."
    )


class AugmentConfig(Settings):
    """Training augmentation, in this order: resize, crop, flip, colours, cutout, pad, mix."""

    ratio: tuple[Annotated[float, Field(gt=0, le=8)], Annotated[float, Field(gt=0, le=8)]] = Field(
        default=(0.5, 2.0),
        description="Smallest and largest random scale factor, on top of data.resize.",
    )
    cat_max_ratio: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.75,
        description="Largest fraction of a crop that one class may cover. A crop that exceeds it "
        "is drawn again, at most 10 draws in all. 1: every crop is accepted.",
    )
    flip: Share = Field(default=0.5, description="Probability of a horizontal flip.")
    photometric: bool = Field(
        default=True,
        description="Change brightness, contrast, saturation and hue at random, as mmseg does.",
    )
    cutout: CutoutConfig = Field(default_factory=CutoutConfig, description="Holes in the image.")
    mix: MixConfig = Field(default_factory=MixConfig, description="Mixing with another sample.")

    @model_validator(mode="after")
    def _check_ratio(self) -> Self:
        if self.ratio[0] > self.ratio[1]:
            raise ValueError(
                f"ratio: the first value must not exceed the second, got {list(self.ratio)}"
            )
        return self


class ModelConfig(Settings):
    """The network and its pretrained weights."""

    name: Literal["segformer", "upernet"] = Field(
        default="segformer", description="Architecture of the network."
    )
    encoder: str = Field(
        default="mit_b2",
        description="Encoder. segformer: mit_b0 to mit_b5, or mit_nano, which is small enough to "
        "train on a CPU. upernet: any timm encoder with feature maps at 1/4, 1/8, 1/16 and 1/32.",
    )
    weights: PathText | None = Field(
        default=None,
        description="Pretrained encoder weights: a file or folder of weights in which the encoder "
        "may be a part of a larger model, a checkpoint of segtune, or an id on the Hugging Face "
        "hub; for upernet also `timm`, which takes timm's own weights of the encoder. null: random "
        "weights.",
    )
    drop_path: Share = Field(
        default=0.1,
        description="Stochastic depth rate of the last encoder block. The rate grows linearly "
        "from 0 at the first block. Must be 0 for an encoder without stochastic depth.",
    )
    decoder_channels: int | None = Field(
        default=None,
        ge=8,
        description="Channels of the decode head. null: 512 for upernet; for segformer 256 with "
        "mit_b0 and mit_b1, 768 with mit_b2 to mit_b5 (as in the paper), 64 with mit_nano.",
    )
    sync_norms: bool = Field(
        default=False,
        description="Compute the statistics of batch norms over all workers of a training run. "
        "Works on GPUs only; on a CPU it is ignored with a warning.",
    )


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


class OptimConfig(Settings):
    """The optimiser, and the precision and compilation of a training step."""

    name: Literal["adamw", "sgd"] = Field(default="adamw", description="Optimiser.")
    lr: float = Field(
        default=6.0e-5, gt=0, description="Learning rate of the encoder at its peak, after warmup."
    )
    betas: tuple[Share, Share] = Field(
        default=(0.9, 0.999),
        description="AdamW: decay rates of the first and second moment. SGD: the first is the "
        "momentum, the second is not used.",
    )
    weight_decay: float = Field(
        default=0.01,
        ge=0,
        le=1,
        description="Weight decay. Norms, biases and position embeddings are not decayed.",
    )
    head_lr_mult: float = Field(
        default=10.0, gt=0, description="Learning rate of the head divided by that of the encoder."
    )
    clip_norm: float | None = Field(
        default=None, gt=0, description="Clip gradients to this total norm. null: no clipping."
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        default="auto",
        description="Precision of autocast. auto: bf16 on a GPU that supports it, otherwise fp32.",
    )
    compile: bool = Field(
        default=False,
        description="Compile the network with torch.compile. This takes minutes at the first "
        "step, so it does not pay off for training runs below 50 epochs.",
    )


class ScheduleConfig(Settings):
    """Length, batch size, learning rate schedule (warmup, then poly) and validation interval."""

    epochs: int = Field(default=200, ge=1, description="Passes over the training images.")
    batch_size: int = Field(
        default=18,
        ge=1,
        description="Images per optimiser step, all workers together. Must be a multiple of "
        "accumulate and of the number of workers.",
    )
    accumulate: int = Field(
        default=1,
        ge=1,
        description="Backward passes per optimiser step. Raise it if the batch does not fit into "
        "memory.",
    )
    warmup_epochs: float = Field(
        default=15,
        ge=0,
        description="Length of the linear warmup in epochs. May be a fraction, such as 0.5: the "
        "learning rate changes at every step. Must be less than epochs.",
    )
    warmup_start: float = Field(
        default=1.0e-6,
        gt=0,
        le=1,
        description="Learning rate at step 0, as a fraction of the peak.",
    )
    poly_power: float = Field(
        default=1.0,
        ge=0,
        description="Exponent of the poly schedule after warmup: the learning rate falls to "
        "eta_min with (1 - progress)^poly_power. 0: it stays constant.",
    )
    eta_min: float = Field(
        default=0.0,
        ge=0,
        description="Learning rate of the encoder at the end (not a fraction). The head ends at "
        "optim.head_lr_mult times this.",
    )
    val_every: int = Field(
        default=10,
        ge=1,
        description="Epochs between validations. The last epoch is always validated.",
    )

    @model_validator(mode="after")
    def _check_warmup_and_batch(self) -> Self:
        if self.warmup_epochs >= self.epochs:
            raise ValueError(
                "warmup_epochs must be less than epochs, "
                f"got {self.warmup_epochs:g} of {self.epochs}"
            )
        if self.batch_size % self.accumulate:
            raise ValueError(
                "batch_size must be a multiple of accumulate, "
                f"got batch_size {self.batch_size} and accumulate {self.accumulate}"
            )
        return self

    def validates(self, epoch: int) -> bool:
        """Whether there is a validation after `epoch`, which counts from 1."""
        return epoch % self.val_every == 0 or epoch == self.epochs


class CheckpointConfig(Settings):
    """When checkpoints are written. The best and the last checkpoint are always kept."""

    every: int = Field(
        default=10,
        ge=1,
        description="Epochs between checkpoints. The last epoch always has one.",
    )


class HealthConfig(Settings):
    """When a training run is unhealthy and ends early, and when a process counts as hung."""

    max_skipped_steps: int = Field(
        default=20,
        ge=1,
        description="fp16 only: training ends after this many steps in a row with non-finite "
        "gradients. The loss scaler skips such steps and needs a few to settle. In any other "
        "precision, training ends at the first such step.",
    )
    diverged_factor: float = Field(
        default=20.0,
        gt=1,
        description="Training ends if the median loss of 10 steps exceeds this multiple of the "
        "first loss; healthy losses fall. It also ends if the weight norm exceeds this multiple "
        "of its initial value while mIoU is no better than predicting one class everywhere; "
        "healthy norms stay within a few multiples.",
    )
    gradient_factor: float = Field(
        default=1000.0,
        gt=1,
        description="Training ends if the median gradient norm of 10 steps exceeds this multiple "
        "of the median of the first 10 steps. A healthy norm may rise a hundredfold.",
    )
    forgotten_share: Share = Field(
        default=0.5,
        description="Training ends if mIoU stays below this fraction of its best value for "
        "health.patience validations. Validation noise is only a few per cent.",
    )
    patience: int = Field(
        default=2,
        ge=1,
        description="How many validations in a row mIoU must be below health.forgotten_share "
        "before training ends. A single low validation may be an accident.",
    )
    stuck_share: Share = Field(
        default=0.75,
        description="Training ends if, for this fraction of all epochs, the model has predicted "
        "one class everywhere or mIoU has been no better than that. The time is at least 4 "
        "validations and 150 steps. On a short schedule, the latest healthy training run measured "
        "started to learn after 0.6 of its epochs.",
    )
    stuck_steps: int = Field(
        default=1000,
        ge=1,
        description="Upper limit of the time in health.stuck_share: the warmup plus this many "
        "optimiser steps. On a long schedule, learning does not start later than on a short one.",
    )
    constant_share: Share = Field(
        default=0.999,
        description="The model counts as predicting one class everywhere if that class covers "
        "more than this fraction of the pixels. A few other pixels do not make it a useful model.",
    )
    vanished_share: Share = Field(
        default=0.05,
        description="The gradient has vanished if the focusing exponent (loss.focal.gamma) leaves "
        "less than this fraction of the gradient that exponent 0 would give. Training then ends "
        "after half the time of health.stuck_share if nothing has been learnt.",
    )
    hung_factor: float = Field(
        default=50.0,
        ge=1,
        description="A search stops a trial that makes no step for this many times its median "
        "step time, and starts it again from its last checkpoint (see search.retries).",
    )
    hung_after_s: float = Field(
        default=300.0,
        ge=1,
        description="Shortest time without a step, in seconds, after which a trial counts as "
        "hung. Writing a checkpoint to slow storage takes its time.",
    )


class ExperimentConfig(Settings):
    """The config of one training run: the only thing that training reads."""

    seed: int = Field(
        default=0,
        ge=0,
        lt=2**31,
        description="Seed of the initial weights, the order of the images and the augmentation.",
    )
    data: DataConfig = Field(default_factory=DataConfig, description="Images, masks, classes.")
    augment: AugmentConfig = Field(
        default_factory=AugmentConfig, description="Training augmentation."
    )
    model: ModelConfig = Field(default_factory=ModelConfig, description="Network.")
    loss: LossConfig = Field(default_factory=LossConfig, description="Loss.")
    optim: OptimConfig = Field(default_factory=OptimConfig, description="Optimiser.")
    schedule: ScheduleConfig = Field(
        default_factory=ScheduleConfig, description="Length, batch size, learning rate schedule."
    )
    checkpoint: CheckpointConfig = Field(
        default_factory=CheckpointConfig, description="When checkpoints are written."
    )
    health: HealthConfig = Field(
        default_factory=HealthConfig, description="When a training run ends early."
    )


# Settings that may change when a training run or a search is resumed, because they do not change
# its numbers.
CHANGEABLE_ON_RESUME = (
    "data.root",
    "data.num_loaders",
    "data.cache",
    "data.cache_gb",
    "checkpoint.every",
)


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> ExperimentConfig:
    """Read a config file and apply `name=value` overrides.

    Raises ConfigError that lists all mistakes with file, line and the nearest valid name.
    """
    tree, source = read_yaml(path, ("best.yaml", "config.yaml"))
    check_is_config(path, tree)
    config = ExperimentConfig.parse(tree, source)
    changes, command_line = parse_assignments(overrides)
    return config.override(changes, command_line) if changes else config


def absolute_paths(config: ExperimentConfig) -> ExperimentConfig:
    """Return the config with absolute paths, because workers run in folders of their own."""
    changes: dict[str, str] = {"data.root": str(Path(config.data.root).absolute())}
    if config.data.cache not in ("auto", "none"):
        changes["data.cache"] = str(Path(config.data.cache).absolute())
    if config.model.weights:
        changes["model.weights"] = absolute_weights(config.model.weights)
    return config.override(changes)


def absolute_weights(weights: str) -> str:
    """Return an absolute path if there is such a file or folder; the name itself if not."""
    path = Path(os.path.expanduser(weights))
    return str(path.absolute()) if path.exists() else weights
