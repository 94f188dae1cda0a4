"""The colours of the classes in masks of colours: `data.palette`, and VOC's own colours."""

from __future__ import annotations

import functools
import json
import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from segtune.config.data_config import DataConfig
from segtune.config.yaml_io import parse_yaml
from segtune.data.known_classes import class_colours, voc_colours
from segtune.data.layouts import class_names, root_folder
from segtune.data.refused import RefusedPair
from segtune.data.text_files import read_lines, read_text
from segtune.errors import DataError, SegtuneError, first_of, nearest, setting

log = logging.getLogger(__name__)

VOC_BORDER = (224, 224, 192)  # of the objects in PASCAL VOC's masks; these pixels are ignored
MAX_SHOWN = 8
_GAP = r"[\s,;]+"
_RGB = rf"(\d+){_GAP}(\d+){_GAP}(\d+)"
COLOUR_FIRST = re.compile(rf"{_RGB}(?:{_GAP}(.*))?")
COLOUR_LAST = re.compile(rf"(.*?)[\s,;:=]+{_RGB}[\s,;]*")
CVAT = re.compile(r"([^:]*):(\d+),(\d+),(\d+)(?::.*)?")
HEX_FIRST = re.compile(rf"#([0-9a-fA-F]{{6}})(?:{_GAP}(.*))?")
HEX_LAST = re.compile(r"(.*?)[\s,;:=]+#([0-9a-fA-F]{6})")
# Lists of classes in JSON: CVAT's labels, Supervisely's meta.json, Mapillary's config.
LISTS = ("labels", "classes")
NAME_KEYS, COLOUR_KEYS = ("name", "title", "label", "value"), ("color", "colour", "background")
# Files that may have colours, and usual words in their names.
COLOUR_FILES = (".txt", ".csv", ".json", ".yaml", ".yml")
FILE_WORDS = re.compile(r"label|class|colou?r|palette", re.IGNORECASE)

Colour = tuple[int, int, int]
Entry = tuple[str, Colour]  # the name is empty if the file has only colours


@dataclass(frozen=True)
class LabelColours:
    """The label of each known colour; both arrays are in ascending order of `packed`."""

    packed: np.ndarray  # red * 65536 + green * 256 + blue, int32 [K]
    labels: np.ndarray  # int64 [K]
    source: str  # for messages

    @classmethod
    def of(cls, labels: dict[Colour, int], source: str) -> LabelColours:
        """Sort {colour: label}."""
        packed = pack(np.array(list(labels), np.uint8))
        order = packed.argsort()
        return cls(packed[order], np.array(list(labels.values()))[order], source)

    @property
    def rgb(self) -> np.ndarray:
        """The colours as uint8 [K, 3]."""
        return unpack(self.packed)


def pack(rgb: np.ndarray) -> np.ndarray:
    """Return colours uint8 [..., 3] as one int32 each."""
    red, green, blue = (rgb[..., channel].astype(np.int32) for channel in range(3))
    return (red << 16) | (green << 8) | blue


def unpack(packed: np.ndarray) -> np.ndarray:
    """Return the colours uint8 [..., 3] of `pack`."""
    return np.stack([packed >> 16, packed >> 8 & 255, packed & 255], -1).astype(np.uint8)


def drawing_colours(config: DataConfig, names: Sequence[str], num_classes: int) -> np.ndarray:
    """Return a colour for each class to draw it in, uint8 [num_classes, 3].

    It is the class's first colour in `data.palette`, or, without a palette or a colour in it, that
    of `known_classes.class_colours`.
    """
    colours = class_colours(names, num_classes)
    if config.palette is None:
        return colours
    known = read_label_colours(config, num_classes)
    # In reverse: the first colour of a class replaces its others.
    for label, colour in zip(known.labels[::-1], known.rgb[::-1], strict=True):
        if label < num_classes:
            colours[label] = colour
    return colours


def read_label_colours(config: DataConfig, num_classes: int) -> LabelColours:
    """Return the colours of `data.palette`, which is not null.

    Raises DataError if the file is absent or unclear, or has no colour for a class.
    """
    assert config.palette
    if config.palette == "voc":
        labels: dict[Colour, int] = {VOC_BORDER: config.ignore_index}
        for label, (red, green, blue) in enumerate(voc_colours(num_classes).tolist()):
            labels[red, green, blue] = label
        return LabelColours.of(labels, "data.palette voc")
    names = class_names(config)
    if not isinstance(config.palette, str):
        entries = tuple(config.palette.items())
        return _of_entries(entries, names, "data.palette", config.ignore_index)
    path = palette_file(config)
    return _read_cached(str(path), path.stat().st_mtime_ns, names, config.ignore_index)


def palette_file(config: DataConfig) -> Path:
    """Return the path of `data.palette`. Raises DataError if it is absent or outside the root."""
    root = root_folder(config)
    path = root / str(config.palette)
    if not path.resolve().is_relative_to(root.resolve()):
        raise DataError(f"data.palette: {config.palette!r} is outside data.root ({root})")
    if not path.is_file():
        near = nearest(path.name, [entry.name for entry in path.parent.glob("*.*")])
        raise DataError(
            f"data.palette: no file {path}{near}; allowed are voc and a file in data.root with one "
            "line per class, such as 'road 128 64 128', or CVAT's labelmap.txt"
        )
    return path


@functools.lru_cache(maxsize=8)  # every mask needs it
def _read_cached(
    path: str, modified_ns: int, names: tuple[str, ...], ignore_index: int
) -> LabelColours:
    """Read and match the file; `modified_ns` makes a changed file a new entry of the cache."""
    return _of_entries(tuple(read_colour_file(Path(path))), names, path, ignore_index)


@functools.lru_cache(maxsize=8)
def _of_entries(
    entries: tuple[Entry, ...], names: tuple[str, ...], source: str, ignore_index: int
) -> LabelColours:
    """Return the label of each colour; `source` is the file or the setting, for messages."""
    labels: dict[Colour, int] = {}
    for label, colour in _labelled(entries, names, source, ignore_index):
        if labels.setdefault(colour, label) != label:
            raise DataError(
                f"{source}: the colour {colour} belongs to two classes; use two colours"
            )
    return LabelColours.of(labels, source)


def _labelled(
    entries: Sequence[Entry], names: Sequence[str], path: str, ignore_index: int
) -> Iterator[tuple[int, Colour]]:
    """Yield the label of each colour, and its colour; names that are no class are ignored."""
    if not any(name for name, _ in entries):
        if len(entries) != len(names):
            raise DataError(
                f"{path}: has {len(entries)} colours without names, and there are {len(names)} "
                "classes; write one colour per class, or 'name r g b'"
            )
        yield from enumerate(colour for _, colour in entries)
        return
    # The exact name comes first: classes may differ in upper and lower case only.
    of_key = {_key(name): label for label, name in enumerate(names)}
    exact = {name: label for label, name in enumerate(names)}
    labels = [exact.get(name, of_key.get(_key(name))) for name, _ in entries]
    absent = [name for label, name in enumerate(names) if label not in labels]
    if absent:
        more = f" and {len(absent) - 1} other classes" if len(absent) > 1 else ""
        near = nearest(absent[0], [name for name, _ in entries])
        raise DataError(f"{path}: no colour for class {absent[0]!r}{more}{near}")
    others = [name for (name, _), label in zip(entries, labels, strict=True) if label is None]
    if others:
        log.warning(
            "data.palette: %s: %d names are no class of data.classes, so their pixels are ignored: "
            "%s",
            path,
            len(others),
            first_of(others, MAX_SHOWN),
        )
    for (_, colour), label in zip(entries, labels, strict=True):
        yield ignore_index if label is None else label, colour


def _key(name: str) -> str:
    return " ".join(name.casefold().replace("_", " ").split())


def read_colour_file(path: Path) -> list[Entry]:
    """Return the names and colours in a file, in its order.

    Text: CVAT's `name:r,g,b:parts:actions`, `name r g b`, `r g b name`, `name #rrggbb` or `r g b`,
    separated by blanks, tabs, commas or semicolons; `# ` begins a comment. JSON or YAML: {name:
    [r, g, b]}, {name: "#rrggbb"} or [{name: NAME, color: COLOUR}]. Raises DataError with the line
    that is none of these, and if the encoding is not certain.
    """
    match path.suffix.lower():
        case ".json":
            entries = _entries_of_tree(path, _read_json(path))
        case ".yaml" | ".yml":
            entries = _entries_of_tree(path, parse_yaml(read_text(path), str(path))[0])
        case _:
            content = [line for line in read_lines(path) if not _is_comment(line.text)]
            if content and _is_header(content[0].text):
                del content[0]
            entries = [_entry_of_line(line.place, line.text) for line in content]
    if not entries:
        raise DataError(f"{path}: has no colours; expected lines such as 'road 128 64 128'")
    return entries


def _read_json(path: Path) -> Any:
    def unique(items: list[tuple[str, Any]]) -> dict[str, Any]:
        tree = dict(items)
        for name in tree:
            if sum(other == name for other, _ in items) > 1:
                raise DataError(f"{path}: {name!r} occurs twice; remove one of them")
        return tree

    try:
        return json.loads(read_text(path), object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno}: not readable as JSON: {error}") from None


def _is_comment(line: str) -> bool:
    return line.startswith(("#", "//")) and not HEX_FIRST.fullmatch(line)


def _is_header(line: str) -> bool:
    """Return whether a line names columns: `name,r,g,b` or `class_name,class_color`."""
    return bool(re.search(r"[\t,;:]", line)) and not re.search(r"\d|#", line)


def _entry_of_line(place: str, line: str) -> Entry:
    if match := CVAT.fullmatch(line) or COLOUR_LAST.fullmatch(line):
        name, *colour = match.groups()
    elif match := COLOUR_FIRST.fullmatch(line):
        *colour, name = match.groups()
    elif match := HEX_FIRST.fullmatch(line):
        colour, name = [f"#{match[1]}"], match[2]
    elif match := HEX_LAST.fullmatch(line):
        name, colour = match[1], [f"#{match[2]}"]
    else:
        name, colour = "", []
    name = (name or "").strip(" \t\"'")
    if not colour or re.match(r"\d+([\s,;]|$)", name):
        raise DataError(
            f"{place}: {line!r}: expected a class and three numbers, such as 'road 128 64 128', "
            "'128 64 128 road' or CVAT's 'road:128,64,128::'"
        )
    return name, _colour(place, colour[0] if len(colour) == 1 else [int(v) for v in colour])


def _entries_of_tree(path: Path, tree: Any) -> list[Entry]:
    if isinstance(tree, dict):
        classes = next((tree[key] for key in LISTS if _are_objects(tree.get(key))), None)
        if classes is None:
            return [(str(name), _colour(f"{path}: {name}", value)) for name, value in tree.items()]
        tree = classes
    if not _are_objects(tree):
        raise DataError(
            f"{path}: expected names and colours: {{name: [r, g, b], ...}}, or a list of "
            "{name: NAME, color: [r, g, b]}"
        )
    entries = []
    for number, of_class in enumerate(tree, 1):
        name = next((of_class[key] for key in NAME_KEYS if key in of_class), None)
        colour = next((of_class[key] for key in COLOUR_KEYS if key in of_class), None)
        if not isinstance(name, str):
            raise DataError(f"{path}: entry {number} has no name; allowed are {NAME_KEYS}")
        entries.append((name, _colour(f"{path}: {name}", colour)))
    return entries


def _are_objects(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(v, dict) for v in value)


def _colour(place: str, value: Any) -> Colour:
    """Return a colour from [r, g, b] or "#rrggbb"."""
    if isinstance(value, str) and re.fullmatch(r"#?[0-9a-fA-F]{6}", value):
        red, green, blue = bytes.fromhex(value.removeprefix("#"))
        return red, green, blue
    if isinstance(value, list) and len(value) == 3:
        red, green, blue = value
        if all(type(v) is int and 0 <= v <= 255 for v in value):  # True is an int, too
            return red, green, blue
    hint = ', or "#rrggbb" in quotes (# begins a comment in YAML)' if value is None else ""
    raise DataError(f"{place}: {value!r} is no colour; expected three numbers of 0..255{hint}")


def labels_of_colours(path: str, rgb: np.ndarray, known: LabelColours) -> np.ndarray:
    """Return the labels int64 [H, W] of colours uint8 [H, W, 3].

    Raises DataError if a colour is not known.
    """
    packed = pack(rgb)
    index = np.searchsorted(known.packed, packed).clip(max=len(known.packed) - 1)
    unknown = packed[known.packed[index] != packed]
    if unknown.size:
        colours, counts = np.unique(unknown, return_counts=True)
        first = unpack(colours[counts.argmax()])
        distances = ((known.rgb.astype(int) - first) ** 2).sum(1)
        raise RefusedPair(
            f"{path}: {unknown.size} of {packed.size} pixels have {_number_of(colours.size)} in no "
            "class; "
            f"most have {first.tolist()}, the nearest colour in {known.source} is "
            f"{known.rgb[distances.argmin()].tolist()}; add a line 'name {_numbers(first)}' to the "
            "file, or save the mask without smoothing and loss",
            "colour-mask",
        )
    return known.labels[index]


def _number_of(num_colours: int) -> str:
    return "a colour" if num_colours == 1 else f"{num_colours} colours"


def _numbers(colour: np.ndarray) -> str:
    return " ".join(map(str, colour.tolist()))


def describe_colours(path: str | Path, rgb: np.ndarray, config: DataConfig) -> str:
    """Return why a mask of colours is refused if `data.palette` is null, and the way out."""
    colours, counts = np.unique(pack(rgb), return_counts=True)
    most_first = unpack(colours[counts.argsort()[::-1]])
    shown = ", ".join(str(tuple(colour)) for colour in most_first[:MAX_SHOWN].tolist())
    more = f" and {colours.size - MAX_SHOWN} more" if colours.size > MAX_SHOWN else ""
    if Path(path).stem.endswith("_seg") and not (most_first[:, 0] % 10).any():
        return (
            "is a mask of the full ADE20K release, with classes in red / 10 * 256 + green; use "
            "the release with 150 classes (ADEChallengeData2016), or convert it to a 16-bit PNG"
        )
    file = find_colour_file(Path(config.root), most_first)
    way_out = (
        f"{file} has colours of classes: {setting('data.palette', file)}"
        if file
        else "set data.palette to a file in data.root with a line such as 'road 128 64 128' for "
        "each class; for PASCAL VOC's colours, --set data.palette=voc"
    )
    return (
        f"a mask must have one channel of labels, this one has {colours.size} colours: "
        f"{shown}{more}; {way_out}"
    )


def find_colour_file(root: Path, colours: np.ndarray) -> str | None:
    """Return the file in the root, or in a folder of it, that names most of the colours.

    `colours` is uint8 [K, 3]. Return None if no file names two of them.
    """
    known = set(map(tuple, colours.tolist()))
    best: tuple[int, str] | None = None
    for path in sorted((*root.glob("*.*"), *root.glob("*/*.*"))):
        if path.suffix.lower() not in COLOUR_FILES or not FILE_WORDS.search(path.name):
            continue
        try:
            number = len(known & {colour for _, colour in read_colour_file(path)})
        except (SegtuneError, OSError):
            continue
        if number > 1 and (best is None or number > best[0]):
            best = (number, str(path.relative_to(root)))
    return best[1] if best else None
