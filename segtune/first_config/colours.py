"""The classes of masks of colours: from a file, of a well-known data set, or named by colour."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from segtune.data.known_classes import NAMED_CLASSES, colours_of, voc_colours
from segtune.data.label_colours import VOC_BORDER, find_colour_file, pack, read_colour_file, unpack
from segtune.errors import DataError
from segtune.first_config.labels import MAX_UNNAMED, VOID, Labels
from segtune.first_config.survey import Survey

Rgb = tuple[int, int, int]
BLACK = (0, 0, 0)
MAX_VOC = 21  # classes of PASCAL VOC


def labels_of_palette(root: Path, found: Survey) -> Labels:
    """Return the settings for masks of colours. Raises DataError if there are too many colours."""
    colours = [_rgb(packed) for packed in found.colours]
    if named := _of_file(root, colours) or _of_known(colours):
        return named
    if len(colours) > MAX_UNNAMED:
        raise DataError(
            f"the masks have {len(colours)} colours, and no file names them; smoothed edges make "
            "colours of no class: export the masks without smoothing, or put a file with lines "
            "such as 'road 128 64 128' into the folder"
        )
    # Black is the background, if it occurs.
    ordered = sorted(colours)
    names = ["background" if not any(rgb) else f"colour_{bytes(rgb).hex()}" for rgb in ordered]
    palette = {name: list(rgb) for name, rgb in zip(names, ordered, strict=True)}
    reason = "no file names the colours, so the classes are named by them: rename them"
    return Labels({"classes": names, "palette": palette}, names, [reason])


def _rgb(packed: int) -> Rgb:
    red, green, blue = unpack(np.array(packed)).tolist()
    return red, green, blue


def _of_file(root: Path, colours: Sequence[Rgb]) -> Labels | None:
    """Return the classes of a file that names most of the colours."""
    file = find_colour_file(root, np.array(colours, np.uint8))
    if file is None:
        return None
    entries = read_colour_file(root / file)
    names = list(dict.fromkeys(name for name, _ in entries if name and not VOID.match(name)))
    if len(names) < 2:
        return None
    reasons = [f"the class names and colours are those of {file}"]
    known = {colour for _, colour in entries}
    others = [colour for colour in colours if colour not in known]
    settings: dict[str, Any] = {"classes": names, "palette": file}
    several = len({name for name, _ in entries}) < len(entries)
    if others and not several:
        settings["palette"] = _with_void({name: list(rgb) for name, rgb in entries}, others)
        reasons.append(f"{len(others)} colours are not in it, so their pixels are ignored")
    return Labels(settings, names, reasons)


def _of_known(colours: Sequence[Rgb]) -> Labels | None:
    """Return the classes of a well-known data set, if nearly all colours are its own."""
    packed = pack(np.array(colours, np.uint8)).tolist()
    of_voc = pack(voc_colours(MAX_VOC)).tolist()
    border = int(pack(np.array(VOC_BORDER, np.uint8)))
    indices = [of_voc.index(colour) for colour in packed if colour in of_voc]
    if all(colour in of_voc or colour == border for colour in packed):
        names: Sequence[str] = NAMED_CLASSES["voc"]
        if border in packed or len(indices) > MAX_VOC / 2:
            return Labels({"classes": "voc", "palette": "voc"}, names, ["PASCAL VOC's colours"])
    for data_set in ("camvid", "cityscapes"):  # ADE20K gives one colour to two classes
        of_set = [_rgb(colour) for colour in pack(colours_of(data_set)).tolist()]
        others = [colour for colour in colours if colour not in of_set]
        is_known = others in ([], [BLACK]) and len(colours) - len(others) > len(of_set) / 2
        if is_known:
            names = NAMED_CLASSES[data_set]
            palette = {name: list(rgb) for name, rgb in zip(names, of_set, strict=True)}
            settings = {"classes": data_set, "palette": _with_void(palette, others)}
            return Labels(settings, names, [f"the colours are those of {data_set}"])
    return None


def _with_void(palette: dict[str, list[int]], others: Sequence[Rgb]) -> dict[str, list[int]]:
    """Add colours of no class, whose pixels are ignored."""
    return palette | {f"ignored_{bytes(rgb).hex()}": list(rgb) for rgb in others}
