"""Rules over the number of pixels and images of each class: which classes can be learnt and scored.

Pure functions over counts. Reads no file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from segtune.checks.findings import Severity
from segtune.checks.label_findings import LabelFinding, split_way_out
from segtune.config.data_config import DataConfig
from segtune.data.class_coverage import (
    MAX_NAMES,
    MIN_CLASSES,
    LabelCounts,
    ignored_class_note,
    ignored_hint,
    percent,
    too_few_classes,
)
from segtune.errors import first_of

# A share of ignored pixels that is worth a warning: most of each crop then trains nothing. The
# borders of objects in PASCAL VOC are 5 % of its pixels.
MUCH_IGNORED = 0.5
# With fewer images, one image is more than a fifth of all images of the class.
MIN_IMAGES = 5
# In a split of fewer images, few images of a class are no surprise.
MIN_SPLIT = 50
# 1 in 10,000 valid pixels is a patch of 5 x 5 pixels in a crop of 512 x 512.
MIN_PIXEL_SHARE = 1e-4

NOT_LEARNT = "a class without a training pixel is never learnt"
NEVER_LEARNT = (
    f"{NOT_LEARNT}, so its IoU stays 0 and lowers mIoU, whatever the settings of the search"
)
NOT_MEASURED = (
    "mIoU leaves the class out while the model predicts it in no validation pixel, and counts it "
    "as 0 as soon as one pixel is predicted, so the scores of two models may be means over "
    "different classes"
)
FEW_TRAINED = "the model learns these images by heart, and seeds differ much in this class"
FEW_MEASURED = "the IoU of the class depends on single images, and it is one share of mIoU"
FEW_PIXELS = "most crops have no pixel of the class, and a loss without weights hardly sees it"
ONE_CLASS = "with one class, every model is right everywhere and nothing is learnt"
IGNORED = "ignored pixels count neither in the loss nor in mIoU"


def class_findings(
    config: DataConfig, classes: Sequence[str], train: LabelCounts, val: LabelCounts
) -> list[LabelFinding]:
    """Return the findings on classes that are absent or rare, and on ignored pixels."""
    if not train.pixels.sum():  # no mask could be read
        return []
    findings = [
        *_absent_findings(config, classes, train, val),
        *_rare_findings(config, classes, train, "train"),
        *_rare_findings(config, classes, val, "val"),
        *_ignored_findings(config, classes, train, val),
    ]
    if note := ignored_class_note(config, classes):
        key, _, problem = note.partition(": ")
        findings.append(LabelFinding("note", "ignored-class", key, problem, IGNORED, ""))
    return findings


def _absent_findings(
    config: DataConfig, classes: Sequence[str], train: LabelCounts, val: LabelCounts
) -> Iterator[LabelFinding]:
    absent, absent_in_val = train.absent(len(classes)), val.absent(len(classes))
    if len(classes) - len(absent) < MIN_CLASSES:
        text = too_few_classes(config, classes, train)
        problem, way_out = split_way_out(text.removeprefix("data.train: "))
        yield LabelFinding("error", "one-class", "data.train", problem, ONE_CLASS, way_out)
    in_val_only = [label for label in absent if val.images[label]]
    in_neither = [label for label in absent if label in absent_in_val]
    # If there are fewer than two classes, that finding names these classes.
    in_neither = in_neither if len(absent) <= len(classes) - MIN_CLASSES else []
    in_train_only = [label for label in absent_in_val if label not in absent]
    if in_val_only:
        yield _on_classes(
            *("error", "untrained-class", "in the validation images and in no training image"),
            *(classes, in_val_only, NEVER_LEARNT),
            "move images of it to data.train, or leave it out: map its label to data.ignore_index "
            "with data.label_map",
        )
    if in_train_only and val.pixels.sum():
        yield _on_classes(
            *("warning", "unmeasured-class", "in no validation image"),
            *(classes, in_train_only, NOT_MEASURED),
            "choose data.val so that each class is in it",
        )
    if in_neither:
        yield _on_classes(
            *("note", "absent-class", "in no image of either split", classes, in_neither),
            *(f"{NOT_LEARNT}; subsets of a data set lack classes", ""),
        )
    if in_neither == [0] and not config.reduces_zero_label and len(classes) > MIN_CLASSES:
        yield _starts_at_1(classes)


def _starts_at_1(classes: Sequence[str]) -> LabelFinding:
    return LabelFinding(
        *("warning", "reduce-zero-label", "data.reduce_zero_label"),
        f"no mask has the label 0 ({classes[0]!r}), and all other labels occur",
        "if the masks number the classes from 1, every class is trained under the name of the next",
        "compare names and colours with segtune data show; if they are shifted, --set "
        "data.reduce_zero_label=true",
    )


def _on_classes(
    severity: Severity,
    rule: str,
    where: str,
    classes: Sequence[str],
    labels: Sequence[int],
    reason: str,
    way_out: str,
) -> LabelFinding:
    """Return one finding on all classes of a kind."""
    names = [f"{classes[label]!r} (label {label})" for label in labels]
    if len(names) == 1:
        problem = f"class {names[0]} is {where}"
    else:
        problem = f"{len(names)} classes are {where}: {first_of(names, MAX_NAMES)}"
    return LabelFinding(severity, rule, "", problem, reason, way_out, len(labels))


def _rare_findings(
    config: DataConfig, classes: Sequence[str], counts: LabelCounts, split: str
) -> Iterator[LabelFinding]:
    labels = [label for label in range(len(classes)) if label != config.ignore_index]
    few = [label for label in labels if 0 < counts.images[label] < MIN_IMAGES]
    if few and counts.num_images >= MIN_SPLIT:
        names = [f"{classes[label]!r} ({counts.images[label]})" for label in few]
        yield LabelFinding(
            *("warning", "few-images", f"data.{split}"),
            f"{_classes(few)} in fewer than {MIN_IMAGES} of {counts.num_images} images: "
            f"{first_of(names, MAX_NAMES)}",
            FEW_TRAINED if split == "train" else FEW_MEASURED,
            f"add images of it to data.{split}",
            len(few),
        )
    shares = _valid_shares(config, counts, len(classes))
    small = [label for label in labels if 0 < shares[label] < MIN_PIXEL_SHARE]
    if small and split == "train":
        names = [f"{classes[label]!r} ({100 * shares[label]:.2g} %)" for label in small]
        yield LabelFinding(
            *("warning", "few-pixels", "data.train"),
            f"{_classes(small)} in less than {percent(MIN_PIXEL_SHARE)} of the valid training "
            f"pixels: {first_of(names, MAX_NAMES)}",
            FEW_PIXELS,
            "try --set loss.class_weights=balanced, or search loss.dice.weight",
            len(small),
        )


def _classes(labels: Sequence[int]) -> str:
    return "1 class is" if len(labels) == 1 else f"{len(labels)} classes are"


def _valid_shares(config: DataConfig, counts: LabelCounts, num_classes: int) -> np.ndarray:
    """Return the fraction of each class in the pixels that are not ignored, float64."""
    pixels = counts.pixels[:num_classes].astype(np.float64)
    if config.ignore_index < num_classes:
        pixels[config.ignore_index] = 0
    return pixels / max(1.0, pixels.sum())


def _ignored_findings(
    config: DataConfig, classes: Sequence[str], train: LabelCounts, val: LabelCounts
) -> Iterator[LabelFinding]:
    hint = _value_is_a_class(config, classes, train)
    if hint:
        yield hint
    for split, counts in (("train", train), ("val", val)):
        share = counts.pixel_share(config.ignore_index)
        if share == 1 and split == "val":
            yield LabelFinding(
                *("error", "ignored-split", "data.val", "every pixel of its masks is ignored"),
                f"{IGNORED}, so no model has a score",
                "check data.val, data.ignore_index and the values of its masks",
                counts.num_images,
            )
        elif MUCH_IGNORED <= share < 1 and not (hint and split == "train"):
            name = "training" if split == "train" else "validation"
            yield LabelFinding(
                *("warning", "ignored-share", ""),
                f"{percent(share)} of all pixels of the {name} masks are ignored",
                f"{IGNORED}; the borders of objects are about 5 % in PASCAL VOC",
                "if these pixels have a class, map their value with data.label_map; otherwise "
                "there is nothing to do",
            )


def _value_is_a_class(
    config: DataConfig, classes: Sequence[str], train: LabelCounts
) -> LabelFinding | None:
    """Return the finding that the value of an absent class is probably read as ignored."""
    absent = train.absent(len(classes))
    much = train.pixel_share(config.ignore_index) >= MUCH_IGNORED
    # A subset of a data set with many classes lacks several of them, whatever is ignored.
    is_last = config.reduces_zero_label and len(classes) - 1 in absent
    text = ignored_hint(config, classes, train)
    if not text or len(absent) > len(classes) - MIN_CLASSES:
        return None
    if len(absent) > 1 and not much and not is_last:
        return None
    rule = "reduce-zero-label" if config.reduces_zero_label else "ignored-value"
    return LabelFinding(
        *("warning", rule, ""),
        f"the training masks lack class {classes[absent[-1]]!r}",
        f"{IGNORED}; if the value means this class, the class is never trained",
        text.removeprefix("; "),
    )
