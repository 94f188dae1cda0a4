"""The names of the classes from a text file: plain lines, numbered lines, or a table.

Every form that gives the labels of the names is brought into the order of the labels.
"""

from __future__ import annotations

import csv
import logging
import re
from collections.abc import Sequence
from pathlib import Path

from segtune.data.text_files import Line, read_lines
from segtune.errors import DataError

log = logging.getLogger(__name__)

# LabelMe writes this name first, for the label -1.
LABELME_IGNORED = "__ignore__"
NUMBER_FIRST = re.compile(r"(\d+)(?:\s*[:,;=\t]\s*|\s+|\.\s+)(\S.*)$")
NUMBER_LAST = re.compile(r"(.*\S)\s*[:,;=\t]\s*(\d+)$")
# labelmap.txt of CVAT: name:red,green,blue:parts:actions
CVAT_LINE = re.compile(r"([^:]+):(\d+,\d+,\d+)?:[^:]*:[^:]*$")
# Lists of CamVid and others: the colour of a class before its name, or behind it.
COLOUR = r"\d{1,3}[\s,;]+\d{1,3}[\s,;]+\d{1,3}"
COLOUR_FIRST = re.compile(rf"{COLOUR}[\s,;]+(\S.*)$")
COLOUR_LAST = re.compile(rf"(\S.*?)[\s,;:]+{COLOUR}$")
NAME_COLUMNS = ("name", "class", "class_name", "classname", "category", "label_name", "label")
NUMBER_COLUMNS = ("pixel value", "id", "idx", "index", "value", "label_id", "class_id", "label")
# A table without a column of numbers has the colours of the masks instead.
COLOUR_COLUMNS = ("r", "g", "b", "red", "green", "blue", "rgb", "color", "colour")


def read_class_list(path: Path, ignore_index: int, *, first_label: int = 0) -> tuple[str, ...]:
    """Return the names of the classes in the order of their labels.

    `first_label` is the smallest label in the mask files: 1 with data.reduce_zero_label. Raises
    DataError that names the line if the order is unclear or a name occurs twice.
    """
    lines = [line for line in read_lines(path) if not re.match(r"#($|[\s#])", line.text)]
    _check_is_a_list(path, lines)
    names = (
        _table(lines, path, ignore_index, first_label)
        or _with_colours(lines)
        or _numbered(lines, path, ignore_index, first_label)
        or [(line, _plain(line.text)) for line in lines]
    )
    names = _without_labelme_ignore(names, path)
    first_lines: dict[str, Line] = {}
    for line, name in names:
        if name in first_lines:
            raise DataError(
                f"{line.place}: class {name!r} is also on line {first_lines[name].number}; each "
                "class needs a name of its own"
            )
        first_lines[name] = line
    if len(names) < 2:
        raise DataError(
            f"{path}: expected two or more class names, one per line, found {len(names)}"
        )
    return tuple(first_lines)


def _check_is_a_list(path: Path, lines: Sequence[Line]) -> None:
    if lines and lines[0].text[0] in "[{<":
        raise DataError(
            f"{lines[0].place}: begins like JSON, XML or a list of a programming language; "
            "expected one class name per line"
        )
    if len(lines) == 1 and lines[0].text.strip(",;").count(","):
        raise DataError(f"{path}: has all names on one line; expected one class name per line")


def _plain(text: str) -> str:
    """Return a line without a comma at its end, without quotes, and as a name of CVAT's list."""
    if match := CVAT_LINE.match(text):
        return match[1].strip()
    text = text.rstrip(",; \t") or text
    return text[1:-1] if len(text) > 2 and text[0] == text[-1] and text[0] in "\"'" else text


Names = list[tuple[Line, str]]


def _with_colours(lines: Sequence[Line]) -> Names | None:
    """Return the names in the order of the lines if every line has a colour."""
    for pattern in (COLOUR_FIRST, COLOUR_LAST):
        found = [match for line in lines if (match := pattern.match(line.text.rstrip(",; \t")))]
        # `0 background 0 0 0` has a label, too, and is left to the numbered lists.
        if found and len(found) == len(lines) and not all(NUMBER_FIRST.match(m[1]) for m in found):
            return [(line, _plain(match[1])) for line, match in zip(lines, found, strict=True)]
    return None


def _numbered(
    lines: Sequence[Line], path: Path, ignore_index: int, first_label: int
) -> Names | None:
    """Return the names by label if every line has a number before its name, or behind it."""
    texts = [line.text.rstrip(",; \t") for line in lines]
    for pattern, number, name in ((NUMBER_FIRST, 1, 2), (NUMBER_LAST, 2, 1)):
        matches = [pattern.match(text) for text in texts]
        found = [match for match in matches if match]
        if found and len(found) == len(matches):
            rows = [
                (line, int(match[number]), _plain(COLOUR_LAST.sub(r"\1", match[name])))
                for line, match in zip(lines, found, strict=True)
            ]
            return _by_label(rows, path, ignore_index, first_label)
    return None


def _table(lines: Sequence[Line], path: Path, ignore_index: int, first_label: int) -> Names | None:
    """Return the names of a table such as Roboflow's _classes.csv; None if it is no table."""
    delimiter = next((mark for mark in "\t;," if lines and mark in lines[0].text), None)
    if delimiter is None:
        return None
    cells = [
        [cell.strip() for cell in next(csv.reader([line.text], delimiter=delimiter))]
        for line in lines
    ]
    header = [cell.lower() for cell in cells[0]]
    name = next((header.index(column) for column in NAME_COLUMNS if column in header), None)
    numbers = [header.index(c) for c in NUMBER_COLUMNS if c in header]
    number = next((column for column in numbers if column != name), None)
    if name is None or (number is None and not set(header) & set(COLOUR_COLUMNS)):
        return None
    rows = []
    for line, row in zip(lines[1:], cells[1:], strict=True):
        if len(row) < len(header) or (number is not None and not row[number].isdigit()):
            raise DataError(f"{line.place}: {line.text!r} does not fit the columns {cells[0]}")
        rows.append((line, len(rows) if number is None else int(row[number]), row[name]))
    return _by_label(rows, path, ignore_index, 0 if number is None else first_label)


def _by_label(
    rows: Sequence[tuple[Line, int, str]], path: Path, ignore_index: int, first_label: int
) -> Names:
    """Return the names in the order of their numbers, which must have no gap."""
    lines: dict[int, Line] = {}
    names: dict[int, str] = {}
    for line, label, name in rows:
        if label in lines:
            raise DataError(
                f"{line.place}: label {label} is also on line {lines[label].number}; each class "
                "needs a label of its own"
            )
        lines[label], names[label] = line, name
    if ignore_index in names and ignore_index != len(names) - 1 + first_label:
        log.warning(
            "%s: %r has the label of data.ignore_index, so it is no class",
            *(lines[ignore_index].place, names.pop(ignore_index)),
        )
    for expected, label in enumerate(sorted(names), first_label):
        if label != expected:
            raise DataError(_gap(path, expected, label, first_label))
    return [(lines[label], names[label]) for label in sorted(names)]


def _gap(path: Path, expected: int, label: int, first_label: int) -> str:
    if (expected, label) == (0, 1):
        return (
            f"{path}: the labels begin with 1. If the masks have 0 for pixels of no class, set "
            "data.reduce_zero_label=true; if 0 is a class, add it, for example `0 background`; if "
            "the first name is that of label 0, remove the numbers"
        )
    if (expected, label) == (1, 0):
        return (
            f"{path}: has a name for label 0, but data.reduce_zero_label ignores it; remove the "
            "name, or set data.reduce_zero_label=false"
        )
    return (
        f"{path}: has no name for label {expected}, the next one is {label}; expected the labels "
        f"from {first_label} on, without a gap"
    )


def _without_labelme_ignore(names: Names, path: Path) -> Names:
    place = next((i for i, (_, name) in enumerate(names) if name == LABELME_IGNORED), None)
    if place is None:
        return names
    if place > 0:
        raise DataError(
            f"{names[place][0].place}: {LABELME_IGNORED} must be the first name; LabelMe gives it "
            "the label -1, and 0 to the name behind it"
        )
    log.warning(
        "%s: %s is no class: LabelMe gives it the label -1, so %r has the label 0",
        *(path, LABELME_IGNORED, names[1][1] if len(names) > 1 else ""),
    )
    return names[1:]


def check_class_names(names: Sequence[str]) -> tuple[str, ...]:
    """Return the names of `data.classes`, without LabelMe's first one.

    Raises DataError if a name occurs twice or is blank.
    """
    if names and names[0] == LABELME_IGNORED:
        log.warning(
            "data.classes: %s is no class: LabelMe gives it the label -1, so the next name has the "
            "label 0",
            LABELME_IGNORED,
        )
        names = names[1:]
    if len(names) < 2:
        raise DataError(f"data.classes: expected two or more class names, found {len(names)}")
    label_of: dict[str, int] = {}
    for label, name in enumerate(names):
        if not name.strip():
            raise DataError(f"data.classes: the name of label {label} is blank")
        if name in label_of:
            raise DataError(
                f"data.classes: {name!r} is the name of the labels {label_of[name]} and "
                f"{label}; each class needs a name of its own"
            )
        label_of[name] = label
    return tuple(names)
