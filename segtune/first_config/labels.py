"""The classes of a data set from the values and colours of its masks: the settings that read them.

Proposes; the user may decide otherwise where the masks leave a choice (`Answers`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from segtune.config.data_config import IGNORE_INDEX, MAX_LABEL
from segtune.data.class_lists import read_class_list
from segtune.data.known_classes import NAMED_CLASSES, colours_of, voc_colours
from segtune.data.label_colours import pack, read_colour_file
from segtune.data.layouts import CLASS_FILES
from segtune.errors import DataError, SegtuneError, first_of
from segtune.first_config.survey import Survey

# More values than this without names are numbers of objects, or edges that were smoothed.
MAX_UNNAMED = 64
# If more of the pixels have the value 0, it is the background, which has to be learnt.
BACKGROUND_SHARE = 0.2
LISTS_OF_NAMES = (*CLASS_FILES, "label_colors.txt", "class_dict.csv", "_classes.csv")
VOID = re.compile(r"(void|unlabel+ed|unknown|ignored?|__ignore__)$", re.IGNORECASE)
KNOWN_INDICES = ("voc", "camvid", "cityscapes", "ade20k")
ZERO, WHITE = "zero", "255"  # the values that a question may be about

Meaning = Literal["class", "ignored"]


@dataclass(frozen=True)
class Choice:
    """What the masks leave open: whether a value is a class or ignored."""

    value: str  # ZERO or WHITE
    proposal: Meaning
    reason: str


@dataclass(frozen=True)
class Labels:
    """Settings of `data` that turn the masks into labels, and how they were found."""

    settings: Mapping[str, Any]
    names: Sequence[str]
    reasons: Sequence[str]  # a sentence for each thing that was concluded
    choices: Sequence[Choice] = field(default=())

    def renamed(self, names: Sequence[str]) -> Labels:
        """Return the same with other names. Raises DataError if it is another number of names."""
        if len(names) != len(self.names):
            raise DataError(
                f"--classes: {len(names)} names, and the masks have {len(self.names)} classes: "
                f"{first_of(self.names, 8)}; name each of them, in this order"
            )
        settings = {**self.settings, "classes": list(names)}
        if isinstance(palette := settings.get("palette"), dict):
            new = dict(zip(self.names, names, strict=True))
            settings["palette"] = {new.get(name, name): rgb for name, rgb in palette.items()}
        return Labels(settings, names, [*self.reasons, "--classes names them"], self.choices)


def labels_of_values(root: Path, found: Survey, meanings: Mapping[str, Meaning]) -> Labels:
    """Return how masks of values are read; `meanings` are the user's answers by value.

    Raises DataError if the masks cannot be masks of classes.
    """
    return _of_values(list_of_names(root) or _known_names(found), found, meanings)


def list_of_names(root: Path) -> tuple[Sequence[str], str] | None:
    """Return the names in the first readable list of classes, and its path under the root."""
    for name in LISTS_OF_NAMES:
        for path in (root / name, *sorted(root.glob(f"*/{name}"))):
            for read in (_names_in_list, _names_in_colours):
                try:
                    return read(path), str(path.relative_to(root))
                except (SegtuneError, OSError):
                    continue
    return None


def _names_in_list(path: Path) -> Sequence[str]:
    return read_class_list(path, IGNORE_INDEX)


def _names_in_colours(path: Path) -> Sequence[str]:
    names = list(dict.fromkeys(name for name, _ in read_colour_file(path) if name))
    if len(names) < 2:
        raise DataError(f"{path}: no names")
    return names


def _known_names(found: Survey) -> tuple[Sequence[str], str] | None:
    """Return the names of a well-known data set if palette images have its colours."""
    colours = {
        index: colour for index, (colour,) in found.palettes.items() if index != IGNORE_INDEX
    }
    for data_set in KNOWN_INDICES if len(colours) > 2 else ():
        names = NAMED_CLASSES[data_set]
        known = pack(voc_colours(len(names)) if data_set == "voc" else colours_of(data_set))
        # Every palette that starts like VOC's is VOC's; so all of its classes have to be there.
        is_complete = max(colours) < len(names) and len(colours) >= len(names) * 0.8
        if is_complete and all(known[index] == colour for index, colour in colours.items()):
            return names, data_set
    return None


def _of_values(
    names_and_source: tuple[Sequence[str], str] | None,
    found: Survey,
    meanings: Mapping[str, Meaning],
) -> Labels:
    values = sorted(found.values)
    if values[0] < 0 or values[-1] > MAX_LABEL:
        raise DataError(
            f"the masks have values from {values[0]} to {values[-1]}; labels are whole numbers of "
            f"0..{MAX_LABEL}: convert the masks"
        )
    if len(values) == 1:
        raise DataError(f"all masks have the single value {values[0]}; two classes are needed")
    choices: list[Choice] = []
    inner = _without_white(values, meanings, choices)
    if names_and_source:
        labels = _with_names(*names_and_source, inner, found, meanings, choices)
    else:
        labels = _without_names(inner, choices)
    if inner != values:
        text = f"the value {IGNORE_INDEX} is ignored: it marks pixels without a label"
        labels = Labels(labels.settings, labels.names, [*labels.reasons, text], choices)
    return labels


def _without_white(
    values: list[int], meanings: Mapping[str, Meaning], choices: list[Choice]
) -> list[int]:
    """Return the values without 255 if it marks pixels without a label."""
    inner = [value for value in values if value != IGNORE_INDEX]
    if inner == values or len(inner) < 2:
        return values
    is_dense = inner[-1] < 2 * len(inner) + 2
    proposal: Meaning = "ignored" if is_dense else "class"
    reason = "the other values are small numbers" if is_dense else "the others are grey levels"
    choices.append(Choice(WHITE, proposal, reason))
    return inner if meanings.get(WHITE, proposal) == "ignored" else values


def _with_names(
    names: Sequence[str],
    source: str,
    values: list[int],
    found: Survey,
    meanings: Mapping[str, Meaning],
    choices: list[Choice],
) -> Labels:
    """Return the labels of values for a list of names."""
    num = len(names)
    is_known = source in NAMED_CLASSES
    reasons = [f"the class names are those of {source}"]
    settings: dict[str, Any] = {"classes": source if is_known else list(names)}
    if num > IGNORE_INDEX:
        settings["ignore_index"] = MAX_LABEL
    if values[-1] < num:
        return Labels(settings, names, reasons, choices)
    if values[-1] == num and values[0] > 0:
        reasons.append("the values begin with 1, so they are lowered by 1")
        return Labels({**settings, "reduce_zero_label": True}, names, reasons, choices)
    if values[-1] == num:
        share = found.values[0] / found.values.total()
        proposal: Meaning = "class" if share > BACKGROUND_SHARE else "ignored"
        reason = f"{share:.0%} of the pixels have the value 0, and there is one name too few"
        choices.append(Choice(ZERO, proposal, reason))
        if meanings.get(ZERO, proposal) == "ignored":
            reasons.append("the value 0 is ignored, and all others are lowered by 1")
            return Labels({**settings, "reduce_zero_label": True}, names, reasons, choices)
        names = ["background", *names]
        reasons.append("the value 0 is the background")
        return Labels({**settings, "classes": list(names)}, names, reasons, choices)
    if len(values) == num:
        reasons.append("the values are not 0, 1, 2, …, so data.label_map numbers them")
        return Labels({**settings, "label_map": _numbered(values)}, names, reasons, choices)
    raise DataError(
        f"{source} has {num} names, and the masks have the {len(values)} values "
        f"{first_of([str(value) for value in values], 12)}; give the names with --classes, or say "
        "what the values mean with --set data.label_map"
    )


def _without_names(values: list[int], choices: list[Choice]) -> Labels:
    """Return labels with names by value."""
    if len(values) > MAX_UNNAMED:
        raise DataError(
            f"the masks have {len(values)} different values, and no list names classes; if the "
            "values number objects, save the masks with the class of each pixel; otherwise put a "
            "file classes.txt with a name per line into the folder"
        )
    if len(values) == 2:
        names = ("background", "foreground")
        settings: dict[str, Any] = {"classes": list(names)}
        if values != [0, 1]:
            settings["label_map"] = _numbered(values)
        return Labels(settings, names, [f"two values, {values[0]} and {values[1]}"], choices)
    text = "no list has class names, so the classes are named by their values: rename them"
    if values[0] == 1 and values[-1] == len(values):
        names = [f"class_{value}" for value in values]
        settings = {"classes": names, "reduce_zero_label": True}
        reason = "the values begin with 1, so they are lowered by 1"
        return Labels(settings, names, [text, reason], choices)
    if values[-1] < 2 * len(values):  # few gaps: classes that no mask of these has
        names = [f"class_{value}" for value in range(values[-1] + 1)]
        return Labels({"classes": names}, names, [text], choices)
    names = [f"class_{value}" for value in values]
    settings = {"classes": names, "label_map": _numbered(values)}
    reason = "the values are not 0, 1, 2, …, so data.label_map numbers them"
    return Labels(settings, names, [text, reason], choices)


def _numbered(values: Sequence[int]) -> dict[int, int]:
    """Return a label for each value that is not its own label."""
    return {value: label for label, value in enumerate(values) if value != label}
