"""The settings of the data set: its files, its labels, and the size of its images."""

from __future__ import annotations

import json
import math
import re
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, field_validator, model_validator

from segtune.config.import_path import OWN_CODE, is_import_path
from segtune.config.settings import PathText, Settings

IGNORE_INDEX = 255
MAX_LABEL = 65_535  # labels have at most 16 bits
# A value in a mask file, as a key of label_map: 010 could mean 8 or 10.
VALUE = re.compile(r"0|-?[1-9][0-9]{0,9}")

Side = Annotated[int, Field(ge=32)]  # in pixels
Byte = Annotated[int, Field(ge=0, le=255)]
Palette = Annotated[str, Field(min_length=1)] | dict[str, tuple[Byte, Byte, Byte]]


def _check_layout(layout: str) -> str:
    if not is_import_path(layout):
        raise ValueError("expected package.module:function")
    return layout


class DataConfig(Settings):
    """The images, masks and classes, and the size of the images."""

    layout: (
        Literal["shapes", "voc", "ade20k", "folder"] | Annotated[str, AfterValidator(_check_layout)]
    ) = Field(
        default="voc",
        json_schema_extra=OWN_CODE,
        description="How the files lie on disk. voc: JPEGImages/, SegmentationClass/ and lists in "
        "ImageSets/Segmentation/. ade20k: images/ and annotations/, each with training/ and "
        "validation/. folder: images/, masks/ and labels.txt. shapes: a data set that segtune "
        "generates, stored like voc. package.module:function: a function of your own, of data.root "
        "and the name of a split, that returns a list of (image path, mask path); see "
        "docs/your-data.md.",
    )
    root: PathText = Field(
        default="data/VOCdevkit/VOC2012",
        description="Folder of the data set. Layout shapes: images are generated into it once.",
    )
    train: tuple[str, ...] = Field(
        default=("train",),
        min_length=1,
        description="Splits to train on. Several are joined; ade20k uses only the first.",
    )
    val: str = Field(default="val", description="Split to validate on.")
    images: PathText | None = Field(
        default=None,
        description="Folder of the images under root. null: JPEGImages for the layouts voc and "
        "shapes, otherwise images.",
    )
    masks: PathText | None = Field(
        default=None,
        description="Folder of the masks under root. null: annotations for the layout ade20k, "
        "masks for the layout folder. For the layouts voc and shapes, null is SegmentationClassAug "
        "if data.train contains aug, trainaug or train_aug, otherwise SegmentationClass.",
    )
    image_suffix: str = Field(
        default="",
        description="Text at the end of every image name that is not in the name of its mask, for "
        "example _leftImg8bit. Other files in the folder are no images. It may end with the "
        "extension: _sat.jpg, or .jpg alone.",
    )
    mask_suffix: str = Field(
        default="",
        description="Text at the end of every mask name that is not in the name of its image, for "
        "example _gtFine_labelTrainIds. Other files in the folder are no masks. It may end with "
        "the extension: _mask.png, or .png alone.",
    )
    classes: str | tuple[str, ...] = Field(
        default="voc",
        description="Class names in the order of their labels: voc, ade20k, cityscapes, camvid or "
        "shapes for the names of that data set, or a text file in root with one name per line, or "
        "a list of names.",
    )
    ignore_index: int = Field(
        default=IGNORE_INDEX,
        ge=0,
        le=MAX_LABEL,
        description="Label of the pixels that count neither in the loss nor in mIoU. With more "
        "than 255 classes, it has to be set, for example to 65535.",
    )
    reduce_zero_label: bool | None = Field(
        default=None,
        description="Turn the labels 0 and 255 of the mask files into ignore_index and lower all "
        "others by 1. If ignore_index is above 255, the value 255 is a label. null: true for the "
        "layout ade20k, otherwise false.",
    )
    label_map: dict[int, int] | None = Field(
        default=None,
        description="Labels of values in the mask files, such as {255: 1} for masks of 0 and 255. "
        "The label may be ignore_index. Values without an entry are labels themselves. null: all "
        "values are labels.",
    )
    palette: Palette | None = Field(
        default=None,
        description="Colours of the classes, for masks of colours: voc for PASCAL VOC's colours "
        "in the order of the labels; or {name: [r, g, b]}; or a file in root: lines such as "
        "'road 128 64 128', CVAT's labelmap.txt, or a JSON or YAML file {name: [r, g, b]}. Palette "
        "images are then read by their colours. null: masks hold labels; a palette image holds "
        "them as its indices.",
    )
    allow_lossy_masks: bool = Field(
        default=False,
        description="Read masks with lossy compression (JPEG, lossy WebP) too: every pixel gets "
        "the nearest value of label_map or colour of palette. false: they are refused.",
    )
    resize: tuple[Side, Side] = Field(
        default=(2048, 512),
        description="Long side and short side in pixels. Each image is scaled to fit into them; "
        "its aspect ratio stays. In training, a random factor is applied too (augment.ratio).",
    )
    crop: tuple[Side, Side] = Field(
        default=(512, 512),
        description="Height and width of a training crop in pixels. Smaller images are padded.",
    )
    value_range: tuple[float, float] | None = Field(
        default=None,
        description="Values that become black and white in images with more than 8 bits per "
        "channel, such as [0, 4095]; values between them are scaled linearly. Images of 8 bits "
        "are used as they are. null: if the training images have more than 8 bits, the range of "
        "their values (0.1 to 99.9 % of them, from at most 64 images, without pixels that have no "
        "data); the config of the training run then has the range.",
    )
    max_megapixels: float = Field(
        default=512.0,
        gt=0,
        description="Largest size of an image or mask, in millions of pixels. A decoded image "
        "takes 4 bytes per pixel, and up to 12 while it is decoded; a damaged file may claim any "
        "size.",
    )
    num_images: int | None = Field(
        default=None, ge=1, description="Train on the first N images only. null: all images."
    )
    cache: PathText | Literal["auto", "none"] = Field(
        default="auto",
        description="Where a node keeps decoded images for all its trials. auto: in "
        "$XDG_CACHE_HOME, or in the folder for temporary files if that variable is not set. none: "
        "nothing is kept, so every epoch decodes the images again. Otherwise a folder, best on a "
        "local disk.",
    )
    cache_gb: float = Field(
        default=20.0,
        gt=0,
        description="Largest size of the decoded images of all data sets together, in GB (10^9 "
        "bytes). Data sets that are not in use are removed to make room. Images that still do not "
        "fit are not kept.",
    )
    num_loaders: Annotated[int, Field(ge=0)] | Literal["auto"] = Field(
        default="auto",
        description="Data loading processes per worker. 0: the worker loads the data itself. "
        "auto: one less than the worker's CPUs, at most 4.",
    )

    @property
    def reduces_zero_label(self) -> bool:
        """Whether 0 and 255 are ignored and all other values lowered by 1."""
        if self.reduce_zero_label is None:
            return self.layout == "ade20k"
        return self.reduce_zero_label

    @field_validator("classes", mode="before")
    @classmethod
    def _check_names_are_text(cls, classes: Any) -> Any:
        """Explain what YAML makes of a name without quotes: no is false, 7 is a number."""
        if isinstance(classes, dict):
            raise ValueError("expected a list of names in the order of their labels, not a mapping")
        for label, name in enumerate(classes if isinstance(classes, list) else ()):
            if isinstance(name, bool):
                raise ValueError(
                    f"the name of label {label} is the truth value {str(name).lower()}: YAML reads "
                    "yes, no, on and off as truth values; write the name in quotes"
                )
            if isinstance(name, int | float | None):
                value = "null" if name is None else f"the number {name}"
                raise ValueError(
                    f"the name of label {label} is {value}, not text; write the name in quotes"
                )
        # A tuple, because strict mode accepts a list only directly from JSON.
        return tuple(classes) if isinstance(classes, list) else classes

    @model_validator(mode="after")
    def _check_value_range(self) -> Self:
        if self.value_range is None:
            return self
        low, high = self.value_range
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ValueError(
                f"value_range: expected two numbers, the smaller one first, got [{low:g}, {high:g}]"
            )
        return self

    @field_validator("label_map", mode="before")
    @classmethod
    def _read_label_map(cls, mapping: Any) -> Any:
        """Turn the keys into integers: they are text in JSON."""
        if mapping is None:
            return None
        if not isinstance(mapping, dict) or not mapping:
            raise ValueError(
                "allowed is {value in the mask files: label}, such as {255: 1}, or null; "
                f"got {mapping!r}"
            )
        wrong = [
            (key, label)
            for key, label in mapping.items()
            if not VALUE.fullmatch(str(key)) or not _is_label(label)
        ]
        if wrong:
            key, label = wrong[0]
            more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
            # YAML reads `255:1` as one word.
            blank = "; write a blank behind each colon" if label is None else ""
            raise ValueError(
                "allowed are whole numbers as values and labels, and labels of "
                f"0..{MAX_LABEL}, such as {{255: 1}}; got {_entry(key, label)}{more}{blank}"
            )
        return {int(key): label for key, label in mapping.items()}

    @field_validator("palette", mode="before")
    @classmethod
    def _read_palette(cls, palette: Any) -> Any:
        """Turn the colours into tuples: strict mode accepts lists only directly from JSON."""
        if not isinstance(palette, dict):
            return palette
        if not palette:
            raise ValueError("has no colour; allowed is {name: [r, g, b]}, or null")
        for name, colour in palette.items():
            is_colour = isinstance(colour, list | tuple) and len(colour) == 3
            if not (isinstance(name, str) and is_colour):
                raise ValueError(
                    "allowed is {name: [r, g, b]} with names as text and numbers of 0..255, voc, "
                    f"or a file in root; got {{{name!r}: {colour!r}}}"
                )
        return {name: tuple(colour) for name, colour in palette.items()}

    @model_validator(mode="after")
    def _check_translation(self) -> Self:
        if self.label_map and (self.reduces_zero_label or self.palette):
            other = "palette is set" if self.palette else "reduce_zero_label is true"
            way_out = "palette to null" if self.palette else "reduce_zero_label to false"
            raise ValueError(f"label_map cannot be used if {other}; set {way_out}")
        if self.palette and self.reduce_zero_label:
            raise ValueError("palette cannot be used if reduce_zero_label is true")
        return self


def _entry(key: Any, label: Any) -> str:
    """Return an entry of a mapping as the user wrote it, and the way out if it is known."""
    if label is None and (match := re.fullmatch(r"(-?\d+):(\d+)", str(key))):
        return f"{{{key}}}: write a blank after the colon, {{{match[1]}: {match[2]}}}"
    return f"{{{key}: {json.dumps(label)}}}"


def _is_label(value: Any) -> bool:
    is_number = isinstance(value, int) and not isinstance(value, bool)
    return is_number and 0 <= value <= MAX_LABEL
