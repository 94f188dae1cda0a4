"""The settings of training augmentation."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from segtune.config.settings import Settings, Share


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

    kind: Literal["none", "cutmix", "mixup"] = Field(
        default="none",
        description="cutmix: paste a random rectangle of another sample, with its labels. mixup: "
        "blend the sample with another one; the loss is that of both masks, in the proportion of "
        "the images. none: no mixing.",
    )
    prob: Share = Field(
        default=0.0, description="Probability that a sample is mixed with another one."
    )
    alpha: Annotated[float, Field(gt=0, le=32)] = Field(
        default=1.0,
        description="The share of the other sample is drawn from Beta(alpha, alpha). 1: uniform. A "
        "smaller value makes shares near 0 and 1 more likely, a larger one shares near 0.5.",
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
