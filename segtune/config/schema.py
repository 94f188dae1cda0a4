"""What one training run is: every setting with its range, default and meaning. Knows nothing of searches."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from segtune.config.settings import Settings
from segtune.config.yaml_io import parse_assignments, read_yaml

IGNORE_INDEX = 255

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Size = tuple[Annotated[int, Field(ge=32)], Annotated[int, Field(ge=32)]]


class DataConfig(Settings):
    """Which images, which masks, which classes, and the size at which they are seen."""

    layout: Literal["shapes", "voc", "ade20k", "folder"] = Field(
        default="voc", description="how the files lie on disk"
    )
    root: str = Field(
        default="data/VOCdevkit/VOC2012",
        description="folder of the data set; `shapes` are generated there once",
    )
    train: tuple[str, ...] = Field(
        default=("train",), min_length=1, description="split lists joined for training"
    )
    val: str = Field(default="val", description="split list for validation")
    masks: str | None = Field(
        default=None,
        description="folder of the masks under root; default: SegmentationClass, or SegmentationClassAug where `aug` is trained on",
    )
    classes: str | tuple[str, ...] = Field(
        default="voc",
        description="voc, ade20k, shapes, a text file in root with one name per line, or the names themselves",
    )
    ignore_index: int = Field(
        default=IGNORE_INDEX,
        ge=0,
        le=255,
        description="label that counts neither in the loss nor in mIoU",
    )
    reduce_zero_label: bool | None = Field(
        default=None,
        description="label 0 becomes ignore and every other label moves down by one; default: true for ade20k only",
    )
    resize: Size = Field(
        default=(2048, 512),
        description="images are scaled to fit in (long side, short side), in pixels",
    )
    crop: Size = Field(
        default=(512, 512), description="height and width of a training crop, in pixels"
    )
    num_images: int | None = Field(
        default=None, ge=1, description="train on the first N images only; default: all of them"
    )
    cache: str = Field(
        default="auto",
        description="where decoded images are kept for all trials of a node: auto ($XDG_CACHE_HOME, else the folder for temporary files), none, or a folder on a local disk",
    )
    cache_gb: float = Field(
        default=20.0,
        gt=0,
        description="the most that the decoded images of all data sets may take, in GB; more, and none are kept",
    )
    num_loaders: int | Literal["auto"] = Field(
        default="auto", description="loader processes per worker; auto: the free cores, 4 at most"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.num_loaders != "auto" and self.num_loaders < 0:
            raise ValueError("num_loaders must be 'auto' or at least 0")
        return self


class CutoutConfig(Settings):
    """Rectangles that are filled with the mean colour; their labels become ignore."""

    prob: Share = Field(default=0.0, description="share of samples that get holes")
    holes: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] = Field(
        default=(1, 3), description="fewest and most holes"
    )
    size: tuple[Share, Share] = Field(
        default=(0.02, 0.2),
        description="smallest and largest side of a hole, as a share of the crop's side",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.holes[0] > self.holes[1] or self.size[0] > self.size[1]:
            raise ValueError("the first of a range must not exceed the second")
        return self


class MixConfig(Settings):
    """Mixing of two samples of a batch."""

    kind: Literal["none", "cutmix"] = Field(
        default="none", description="cutmix pastes a rectangle of another sample with its labels"
    )
    prob: Share = Field(default=0.0, description="share of samples that are mixed")


class AugmentConfig(Settings):
    """What happens to a training sample, in this order: resize, crop, flip, photometric, cutout, pad, mix."""

    ratio: tuple[Annotated[float, Field(gt=0, le=8)], Annotated[float, Field(gt=0, le=8)]] = Field(
        default=(0.5, 2.0), description="random scale relative to data.resize, smallest and largest"
    )
    cat_max_ratio: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.75,
        description="a crop is drawn again, up to 10 times, while one class covers more than this share; 1: never again",
    )
    flip: Share = Field(default=0.5, description="probability of a horizontal flip")
    photometric: bool = Field(
        default=True, description="random brightness, contrast, saturation and hue"
    )
    cutout: CutoutConfig = Field(default_factory=CutoutConfig, description="holes in the image")
    mix: MixConfig = Field(default_factory=MixConfig, description="mixing of samples in a batch")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.ratio[0] > self.ratio[1]:
            raise ValueError(f"ratio: the first must not exceed the second, got {list(self.ratio)}")
        return self


class ModelConfig(Settings):
    """The network and where its weights come from."""

    name: Literal["segformer", "upernet"] = Field(
        default="segformer", description="the architecture"
    )
    encoder: str = Field(
        default="mit_b2",
        description="segformer: mit_b0 to mit_b5, or mit_nano for trials on a CPU; upernet: any timm encoder with feature maps",
    )
    weights: str | None = Field(
        default=None,
        description="encoder weights: a hub id, a local HF folder, or a .pth or .safetensors file; default: random",
    )
    drop_path: Share = Field(
        default=0.1, description="stochastic depth rate of the last encoder block"
    )
    decoder_channels: int | None = Field(
        default=None, ge=8, description="width of the head; default: the paper's for the encoder"
    )
    sync_norms: bool = Field(
        default=False,
        description="batch norms take their statistics over all workers of a run; on GPUs only",
    )


class FocalConfig(Settings):
    """Focal loss (Lin et al. 2017)."""

    weight: float = Field(
        default=1.0, ge=0, description="weight in the sum; 0 switches the term off"
    )
    gamma: float = Field(
        default=2.0, ge=0, le=8, description="focusing exponent; 0 is plain cross-entropy"
    )
    alpha: float = Field(
        default=0.5,
        gt=0,
        lt=1,
        description="weight of positives against negatives (sigmoid form only)",
    )
    form: Literal["sigmoid", "softmax"] = Field(
        default="sigmoid",
        description="sigmoid: one class against the rest, as mmseg; softmax: over classes",
    )


class TermConfig(Settings):
    """A loss term without parameters of its own."""

    weight: float = Field(
        default=0.0, ge=0, description="weight in the sum; 0 switches the term off"
    )


class DiceConfig(TermConfig):
    """Dice loss (Milletari et al. 2016)."""

    per_class: bool = Field(
        default=False,
        description="one Dice for each class that a sample has, and their mean, instead of one over all classes together",
    )


class OhemConfig(Settings):
    """Online hard example mining (Shrivastava et al. 2016): focal and cross-entropy look at the hardest pixels only."""

    keep: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="share of a batch's pixels that is kept, those whose label is the least likely; null keeps all",
    )


class LossConfig(Settings):
    """A weighted sum of focal, Dice and cross-entropy; ignored pixels count in none of them."""

    focal: FocalConfig = Field(default_factory=FocalConfig, description="focal loss")
    dice: DiceConfig = Field(
        default_factory=lambda: DiceConfig(weight=1.0), description="Dice loss"
    )
    ce: TermConfig = Field(default_factory=TermConfig, description="softmax cross-entropy")
    class_weights: tuple[Annotated[float, Field(ge=0)], ...] | None = Field(
        default=None,
        description="weight of each class in focal (form sigmoid: of its column) and cross-entropy; the mean is over all pixels",
    )
    ohem: OhemConfig = Field(default_factory=OhemConfig, description="hard example mining")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not (self.focal.weight or self.dice.weight or self.ce.weight):
            raise ValueError(
                "at least one of focal.weight, dice.weight and ce.weight must be above 0"
            )
        return self


class OptimConfig(Settings):
    """The optimiser and the precision of a step."""

    name: Literal["adamw", "sgd"] = Field(default="adamw", description="the optimiser")
    lr: float = Field(default=6.0e-5, gt=0, description="peak learning rate of the encoder")
    betas: tuple[Share, Share] = Field(
        default=(0.9, 0.999), description="AdamW's moments; SGD takes the first as its momentum"
    )
    weight_decay: float = Field(
        default=0.01, ge=0, le=1, description="not applied to norms, biases and position embeddings"
    )
    head_lr_mult: float = Field(
        default=10.0, gt=0, description="learning rate of the head relative to the encoder's"
    )
    clip_norm: float | None = Field(
        default=None, gt=0, description="largest gradient norm; default: no clipping"
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        default="auto", description="auto: bf16 where the GPU has it, otherwise fp32"
    )
    compile: bool = Field(
        default=False,
        description="compile the network with torch.compile: takes minutes at first, so nothing for runs below 50 epochs",
    )


class ScheduleConfig(Settings):
    """How long, in what batches, along which learning rate."""

    epochs: int = Field(default=200, ge=1, description="passes over the training images")
    batch_size: int = Field(
        default=18, ge=1, description="images per optimiser step over all workers together"
    )
    accumulate: int = Field(
        default=1,
        ge=1,
        description="backward passes per optimiser step, where the batch does not fit into memory",
    )
    warmup_epochs: float = Field(
        default=15, ge=0, description="linear warmup, by iteration; may be a fraction"
    )
    warmup_start: float = Field(
        default=1.0e-6, gt=0, le=1, description="learning rate at step 0 as a share of the peak"
    )
    poly_power: float = Field(
        default=1.0,
        ge=0,
        description="exponent of the poly decay after warmup; 0 keeps the rate constant",
    )
    eta_min: float = Field(default=0.0, ge=0, description="learning rate at the end")
    val_every: int = Field(
        default=10,
        ge=1,
        description="epochs between validations; the last epoch is always validated",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.warmup_epochs >= self.epochs:
            raise ValueError(
                f"warmup_epochs must be less than epochs, got {self.warmup_epochs:g} of {self.epochs}"
            )
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"batch_size must be a multiple of accumulate, got {self.batch_size} and {self.accumulate}"
            )
        return self

    def validates(self, epoch: int) -> bool:
        """Whether epoch 1..epochs ends with a validation."""
        return epoch % self.val_every == 0 or epoch == self.epochs


class CheckpointConfig(Settings):
    """When the state of a run is written. The best and the last are always kept."""

    every: int = Field(
        default=10, ge=1, description="epochs between checkpoints; the last epoch always has one"
    )


class HealthConfig(Settings):
    """When a run is given up."""

    max_skipped_steps: int = Field(
        default=20,
        ge=1,
        description="steps in a row whose gradients are not finite under fp16 before the run ends; the scaler needs a few to settle",
    )
    diverged_factor: float = Field(
        default=20.0,
        gt=1,
        description="the run ends when the median loss of 10 steps is more than this many times the first one (healthy losses fall), "
        "or the norm of the weights is while mIoU is that of a constant prediction (healthy norms stay within a few times)",
    )
    gradient_factor: float = Field(
        default=1000.0,
        gt=1,
        description="the same for the median gradient norm, against the median of the first 10 steps; it may well rise a hundredfold",
    )
    forgotten_share: Share = Field(
        default=0.5,
        description="the run ends when mIoU stays below this share of its best; validation noise is a few per cent",
    )
    patience: int = Field(
        default=2,
        ge=1,
        description="validations in a row for which mIoU must stay that low; one may be an accident",
    )
    stuck_share: Share = Field(
        default=0.75,
        description="the run ends when one class has been predicted, or nothing has been learnt, for this share of its epochs; "
        "healthy runs were seen to begin after 0.6 of a short schedule",
    )
    stuck_steps: int = Field(
        default=1000,
        ge=1,
        description="or for so many optimiser steps after warmup, whichever is sooner: long schedules need no longer to begin",
    )
    constant_share: Share = Field(
        default=0.999,
        description="one class on more than this share of the pixels is a constant prediction; a few stray pixels are not a model",
    )
    vanished_share: Share = Field(
        default=0.05,
        description="a focal term that leaves less than this share of the gradient has killed it; the run ends after half the time of stuck_share",
    )
    hung_factor: float = Field(
        default=50.0,
        ge=1,
        description="a search starts a trial again that makes no step for this many times its median step",
    )
    hung_after_s: float = Field(
        default=300.0,
        ge=1,
        description="but never before so many seconds: writing a checkpoint to slow storage takes its time",
    )


class ExperimentConfig(Settings):
    """One training run: the only thing that training reads."""

    seed: int = Field(
        default=0,
        ge=0,
        lt=2**31,
        description="decides the initial weights, the order of images and every augmentation",
    )
    data: DataConfig = Field(default_factory=DataConfig, description="images, masks, classes")
    augment: AugmentConfig = Field(
        default_factory=AugmentConfig, description="training augmentation"
    )
    model: ModelConfig = Field(default_factory=ModelConfig, description="network")
    loss: LossConfig = Field(default_factory=LossConfig, description="loss")
    optim: OptimConfig = Field(default_factory=OptimConfig, description="optimiser")
    schedule: ScheduleConfig = Field(
        default_factory=ScheduleConfig, description="length, batches, learning rate"
    )
    checkpoint: CheckpointConfig = Field(
        default_factory=CheckpointConfig, description="what is written when"
    )
    health: HealthConfig = Field(default_factory=HealthConfig, description="when a run is given up")


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> ExperimentConfig:
    """Reads a config file and applies `name=value` overrides.

    Raises ConfigError that lists every mistake with file, line and the nearest valid name.
    """
    tree, source = read_yaml(path)
    config = ExperimentConfig.parse(tree, source)
    changes, command_line = parse_assignments(overrides)
    return config.override(changes, command_line) if changes else config


def absolute_paths(config: ExperimentConfig) -> ExperimentConfig:
    """Returns the config with its paths made absolute: workers run in folders of their own."""
    changes: dict[str, str] = {"data.root": str(Path(config.data.root).absolute())}
    if config.data.cache not in ("auto", "none"):
        changes["data.cache"] = str(Path(config.data.cache).absolute())
    weights = config.model.weights
    if weights and Path(weights).exists():
        changes["model.weights"] = str(Path(weights).absolute())
    return config.override(changes)
