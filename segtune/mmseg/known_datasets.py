"""What mmsegmentation's data sets have by their types: classes, file names, reduced labels."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class KnownDataset:
    """What mmsegmentation knows about a data set by its type."""

    classes: str | None = None  # the value of data.classes
    num_classes: int | None = None
    reduce_zero_label: bool = False
    image_suffix: str = ".jpg"
    mask_suffix: str = ".png"


KNOWN = {
    "PascalVOCDataset": KnownDataset("voc", 21),
    "ADE20KDataset": KnownDataset("ade20k", 150, reduce_zero_label=True),
    "CityscapesDataset": KnownDataset(
        "cityscapes", 19, False, "_leftImg8bit.png", "_gtFine_labelTrainIds.png"
    ),
    "NightDrivingDataset": KnownDataset(
        "cityscapes", 19, False, "_leftImg8bit.png", "_gtCoarse_labelTrainIds.png"
    ),
    "DarkZurichDataset": KnownDataset(
        "cityscapes", 19, False, "_rgb_anon.png", "_gt_labelTrainIds.png"
    ),
    "PascalContextDataset": KnownDataset(None, 60),
    "PascalContextDataset59": KnownDataset(None, 59, reduce_zero_label=True),
    "COCOStuffDataset": KnownDataset(None, 171, mask_suffix="_labelTrainIds.png"),
    "LoveDADataset": KnownDataset(None, 7, True, ".png"),
    "PotsdamDataset": KnownDataset(None, 6, True, ".png"),
    "ISPRSDataset": KnownDataset(None, 6, True, ".png"),
    "iSAIDDataset": KnownDataset(None, 16, False, ".png", "_instance_color_RGB.png"),
    "LIPDataset": KnownDataset(None, 20),
    "ChaseDB1Dataset": KnownDataset(None, 2, False, ".png", "_1stHO.png"),
    "DRIVEDataset": KnownDataset(None, 2, False, ".png", "_manual1.png"),
    "STAREDataset": KnownDataset(None, 2, False, ".png", ".ah.png"),
    "HRFDataset": KnownDataset(None, 2, False, ".png"),
    # Without data of their own: the config sets the classes.
    "BaseSegDataset": KnownDataset(),
    "CustomDataset": KnownDataset(),
}
# Numbers of training images, by the type of the data set and its lists.
NUM_IMAGES = {
    ("PascalVOCDataset", ("train",)): 1464,
    ("PascalVOCDataset", ("train", "aug")): 10582,
    ("PascalVOCDataset", ("trainaug",)): 10582,
    ("PascalVOCDataset", ("train_aug",)): 10582,
    ("ADE20KDataset", ("train",)): 20210,
    ("CityscapesDataset", ("train",)): 2975,
}
