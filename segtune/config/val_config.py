"""The settings of the validation: whether the model sees images as a whole or in windows."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from segtune.config.data_config import Side
from segtune.config.settings import Settings

Distance = Annotated[int, Field(ge=1)]  # in pixels


class ValConfig(Settings):
    """How a validation, `segtune evaluate` and `segtune predict` show images to the model."""

    mode: Literal["whole", "slide"] = Field(
        default="whole",
        description="whole: the model predicts an image at once. slide: it predicts overlapping "
        "windows, whose logits are averaged in each pixel, as mmsegmentation does with "
        "test_cfg=dict(mode='slide'). Training is not affected.",
    )
    window: tuple[Side, Side] | None = Field(
        default=None,
        description="Height and width of a window, in pixels of the resized image (data.resize). "
        "The last windows are moved so that they end with the image, and an image that is smaller "
        "than a window is not padded. null: data.crop.",
    )
    stride: tuple[Distance, Distance] | None = Field(
        default=None,
        description="Distance from one window to the next in pixels, downwards and to the right. "
        "At most the sides of window, which has to be set, too. null: two thirds of a window.",
    )

    @model_validator(mode="after")
    def _check_stride(self) -> Self:
        if self.stride is None:
            return self
        if self.window is None:
            raise ValueError(
                f"stride {list(self.stride)} needs a window; set window too, for example "
                f"window: {[max(32, side * 3 // 2) for side in self.stride]}"
            )
        if self.stride[0] > self.window[0] or self.stride[1] > self.window[1]:
            raise ValueError(
                f"stride {list(self.stride)} is larger than window {list(self.window)}, so there "
                "would be pixels in no window; the largest stride is the window"
            )
        return self
