"""The settings of training augmentation."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from segtune.config.settings import Settings, Share
from segtune.config.transforms import ExtraTransform
from segtune.errors import setting

Factor = Annotated[float, Field(gt=0, le=8)]
Positive = Annotated[float, Field(gt=0)]
Degree = Annotated[float, Field(ge=-180, le=180)]


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
        _check_ascending(self, "holes", "size")
        return self


class EraseConfig(Settings):
    """RandomErasing (Zhong et al. 2020): one rectangle of each chosen crop is erased."""

    prob: Share = Field(
        default=0.0, description="Probability that a rectangle of a training crop is erased."
    )
    area: tuple[Share, Share] = Field(
        default=(0.02, 0.4),
        description="Smallest and largest area of the rectangle, as a fraction of the crop's area.",
    )
    aspect: tuple[Positive, Positive] = Field(
        default=(0.3, 3.33),
        description="Smallest and largest height / width of the rectangle; drawn on a logarithmic "
        "scale. A rectangle that does not fit into the crop is drawn again, at most 10 draws in "
        "all.",
    )
    fill: Literal["mean", "random"] = Field(
        default="mean",
        description="mean: the mean colour. random: random colours, one for each pixel.",
    )
    labels: Literal["ignore", "keep"] = Field(
        default="ignore",
        description="ignore: the labels of the rectangle become ignore_index, as for cutout. keep: "
        "they stay.",
    )

    @model_validator(mode="after")
    def _check_ranges(self) -> Self:
        _check_ascending(self, "area", "aspect")
        return self


class RotateConfig(Settings):
    """Random rotation about the centre of the crop, as mmseg's RandomRotate."""

    prob: Share = Field(default=0.0, description="Probability that a training crop is rotated.")
    degree: tuple[Degree, Degree] = Field(
        default=(-10.0, 10.0),
        description="Smallest and largest angle in degrees; positive is clockwise. mmseg's "
        "degree=20 is [-20, 20]. Corners get the mean colour and ignore_index.",
    )

    @model_validator(mode="after")
    def _check_ranges(self) -> Self:
        _check_ascending(self, "degree")
        return self


class MixConfig(Settings):
    """Mixing a training sample with another one."""

    kind: Literal["none", "cutmix", "mixup"] = Field(
        default="none",
        description="cutmix: paste a random rectangle of another sample, with its labels. mixup: "
        "blend the images of two samples; the losses weight the labels of both. none: no mixing.",
    )
    prob: Share = Field(
        default=0.0, description="Probability that a sample is mixed with another one."
    )
    alpha: Annotated[float, Field(gt=0, le=100)] = Field(
        default=1.0,
        description="Parameter of the distribution Beta(alpha, alpha). cutmix draws from it the "
        "rectangle's share of the area, mixup the first image's share of the blend. 1: every share "
        "is equally probable. Below 1: shares near 0 and 1; 0.2 is usual for mixup.",
    )


class AugmentConfig(Settings):
    """Training augmentation.

    The order is: resize (ratio or scales), crop (cat_max_ratio), flip, photometric, rotate, cutout,
    erase, pad, extra, mix.
    """

    ratio: tuple[Factor, Factor] = Field(
        default=(0.5, 2.0),
        description="Smallest and largest random scale factor, on top of data.resize. Not used if "
        "augment.scales is set.",
    )
    scales: Annotated[tuple[Factor, ...], Field(min_length=1)] | None = Field(
        default=None,
        description="Scale factors to choose from at random instead of augment.ratio, for example "
        "[0.5, 0.75, 1.0, 1.25, 1.5], as mmseg's RandomChoiceResize. null: augment.ratio is used.",
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
    rotate: RotateConfig = Field(default_factory=RotateConfig, description="Random rotation.")
    cutout: CutoutConfig = Field(default_factory=CutoutConfig, description="Holes in the image.")
    erase: EraseConfig = Field(default_factory=EraseConfig, description="One erased rectangle.")
    extra: tuple[ExtraTransform, ...] = Field(
        default=(),
        description="Transforms of albumentations, applied in this order to the padded crop, each "
        "as {name: GaussNoise, p: 0.2, …} with its parameters.",
    )
    mix: MixConfig = Field(default_factory=MixConfig, description="Mixing with another sample.")

    @model_validator(mode="after")
    def _check_ratio(self) -> Self:
        _check_ascending(self, "ratio")
        return self

    def notes(self) -> list[str]:
        """Return a line for each setting that has no effect because of another one."""
        notes = []
        if self.scales is not None and self.ratio != type(self)().ratio:
            notes.append("augment.ratio is not used, because augment.scales is set")
        if self.mix.kind != "none" and not self.mix.prob:
            notes.append(
                f"augment.mix.kind is {self.mix.kind}, but augment.mix.prob is 0: no sample is "
                f"mixed; for every second one, {setting('augment.mix.prob', '0.5')}"
            )
        if self.mix.kind == "none" and self.mix.prob:
            notes.append(
                f"augment.mix.prob is {self.mix.prob}, but augment.mix.kind is none: no sample is "
                f"mixed; {setting('augment.mix.kind', 'mixup')} or cutmix mixes them"
            )
        return notes


def _check_ascending(settings: Settings, *names: str) -> None:
    """Raise ValueError if the first of two values exceeds the second."""
    for name in names:
        smallest, largest = getattr(settings, name)
        if smallest > largest:
            raise ValueError(
                f"{name}: the first value must not exceed the second, got [{smallest}, {largest}]"
            )
