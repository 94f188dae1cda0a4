"""The settings of the data set: where its files lie, and what is read from them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from segtune.config.settings import PathText, Settings

IGNORE_INDEX = 255

Side = Annotated[int, Field(ge=32)]  # in pixels


class DataConfig(Settings):
    """The images, masks and classes, and the size of the images."""

    layout: Literal["shapes", "voc", "ade20k", "folder"] = Field(
        default="voc",
        description="How the files lie on disk. voc: JPEGImages/, SegmentationClass/ and lists in "
        "ImageSets/Segmentation/. ade20k: images/ and annotations/, each with training/ and "
        "validation/. folder: images/, masks/ and labels.txt. shapes: a data set that segtune "
        "generates, stored like voc.",
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
    masks: PathText | None = Field(
        default=None,
        description="Folder of the masks under root, for the layouts voc and shapes. null: "
        "SegmentationClassAug if data.train contains aug, trainaug or train_aug, otherwise "
        "SegmentationClass.",
    )
    classes: str | tuple[str, ...] = Field(
        default="voc",
        description="Class names in the order of their labels: voc, ade20k or shapes for the "
        "names of that data set, or a text file in root with one name per line, or a list of "
        "names.",
    )
    ignore_index: int = Field(
        default=IGNORE_INDEX,
        ge=0,
        le=255,
        description="Label of the pixels that count neither in the loss nor in mIoU.",
    )
    reduce_zero_label: bool | None = Field(
        default=None,
        description="Turn the labels 0 and 255 of the mask files into ignore_index and lower all "
        "others by 1. null: true for the layout ade20k, otherwise false.",
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
