"""Data sets that need more than the setting of a folder: the complete way to read them.

They are found by the names of their folders, at `data.root` or below it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from segtune.data.layout_hints import draw_lists, folder_names
from segtune.errors import setting

# The mask of ADE20K's full release: red and green say the class, blue says the object.
FULL_ADE20K_MASK = re.compile(r"ADE_(train|val|frame)_\w+_seg\.png")
ADE20K_150 = "http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip (150 classes)"
# The ids in *_labelIds.png of the training labels 0..18 (cityscapesscripts/helpers/labels.py).
CITYSCAPES_IDS = (7, 8, 11, 12, 13, 17, *range(19, 29), 31, 32, 33)
# At most so many folders of a folder are looked at, and so many levels below the root.
MAX_FOLDERS, MAX_DEPTH = 3, 6


def known_release(root: Path) -> str:
    """Return a hint that begins with `; ` if the root has a data set of this file, or ""."""
    return _cityscapes(root) or _full_ade20k(root) or _mvtec(root)


def _root_and_below(root: Path, levels: int) -> Iterator[Path]:
    yield root
    if levels:
        for name in folder_names(root)[:20]:
            yield from _root_and_below(root / name, levels - 1)


def _as_options(settings: Mapping[str, str]) -> str:
    return " ".join(setting(f"data.{name}", value) for name, value in settings.items())


def cityscapes_label_map() -> dict[int, int]:
    """Return the label of each of Cityscapes' 34 ids; those of no class are 255."""
    labels = {value: label for label, value in enumerate(CITYSCAPES_IDS)}
    return {value: labels.get(value, 255) for value in range(34)}


def _cityscapes(root: Path) -> str:
    base = next(filter(_is_cityscapes, _root_and_below(root, 1)), None)
    if base is None:
        return ""
    settings = {"layout": "folder", "images": "leftImg8bit", "masks": "gtFine"}
    if base != root:
        settings["root"] = str(base)
    settings |= {"classes": "cityscapes", "image_suffix": "_leftImg8bit.png"}
    is_converted = any(base.glob("gtFine/*/*/*_gtFine_labelTrainIds.png"))
    ids = "labelTrainIds" if is_converted else "labelIds"
    settings["mask_suffix"] = f"_gtFine_{ids}.png"
    options = _as_options(settings)
    if not is_converted:
        options += " " + setting("data.label_map", cityscapes_label_map())
    return f"; this is Cityscapes: {options}"


def _is_cityscapes(folder: Path) -> bool:
    images = folder.glob("leftImg8bit/*/*/*_leftImg8bit.png")
    return (folder / "gtFine").is_dir() and any(images)


def _full_ade20k(root: Path) -> str:
    mask = next(_full_masks(root, MAX_DEPTH), None)
    if mask is None:
        return ""
    return (
        f"; {mask.relative_to(root)} is a mask of the full ADE20K release, with more than 3,000 "
        "names of objects in colours, images and masks in one folder, and a folder for each kind "
        f"of scene. The benchmark with 150 classes is another archive: download {ADE20K_150}, "
        "unpack it, and --set data.layout=ade20k --set data.classes=ade20k "
        "--set data.root=ADEChallengeData2016. To train on objects of the full release, convert "
        'its masks: see "ADE20K, full release" in docs/your-data.md'
    )


def _full_masks(folder: Path, levels: int) -> Iterator[Path]:
    """Yield masks of the full release in a folder, or below its first folders."""
    try:
        yield from (path for path in folder.iterdir() if FULL_ADE20K_MASK.fullmatch(path.name))
    except OSError:
        return
    if levels:
        for name in folder_names(folder)[:MAX_FOLDERS]:
            yield from _full_masks(folder / name, levels - 1)


def _mvtec(root: Path) -> str:
    categories = [f for f in _root_and_below(root, 2) if _is_mvtec(f)]
    if not categories:
        return ""
    base = categories[0]
    of_root = "" if base == root else f" {setting('data.root', str(base))}"
    others = f"; it has {len(categories)} such folders, one is {base}" if of_root else ""
    lines = (
        "(for f in test/*/*.png; do m=${f%.png}_mask.png; m=ground_truth/${m#test/}; "
        'if [ -f "$m" ]; then printf \'%s\\t%s\\n\' "$f" "$m"; fi; done)'
    )
    num_masks = sum(1 for _ in base.glob("ground_truth/*/*_mask.png"))
    settings = {"layout": "folder", "train": "[train]", "val": "val"}
    settings |= {"images": "test", "masks": "ground_truth"}
    return (
        f"; this is MVTec AD{others}: its training images have no defects and no masks, so "
        "segmentation can only learn from the test images with a defect. To draw a fifth of them "
        f"for validation: {draw_lists(base, lines, num_masks)}, then {_as_options(settings)}"
        f"{of_root} {setting('data.label_map', {255: 1})} "
        f"{setting('data.classes', ['good', 'defect'])}"
    )


def _is_mvtec(folder: Path) -> bool:
    return all((folder / name).is_dir() for name in ("train/good", "test", "ground_truth"))
