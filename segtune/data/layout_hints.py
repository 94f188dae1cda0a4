"""Hints for an absent folder of the data set: the probable folder, and the setting for it."""

from __future__ import annotations

import difflib
import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from segtune.data.file_names import IMAGE_SUFFIXES, is_folder, is_stray
from segtune.data.text_files import read_lines
from segtune.errors import nearest, setting

IMAGE_FOLDERS = (
    *("images", "JPEGImages", "image", "img", "imgs", "img_dir", "leftImg8bit", "imagesTr"),
    *("rgb", "train_images", "images_png", "Images", "jpg", "top"),
)
MASK_FOLDERS = (
    *("masks", "SegmentationClassPNG", "SegmentationClass", "annotations", "labels", "ann_dir"),
    # The folder `mask` of DRIVE has the field of view, beside the labels in `1st_manual`.
    *("gtFine", "1st_manual", "manual1", "mask", "label", "masks_machine", "annotation", "gt"),
    *("GT", "ground_truth", "groundtruth", "labelsTr", "masks_png", "segmentations"),
    *("segmentation", "targets", "trimaps", "gts_for_participants"),
)
# Words in the names of other folders, and words in names that are no folders of labels.
IMAGE_WORDS = ("image", "img")
MASK_WORDS = ("mask", "label", "annot", "truth", "segm")
NOT_MASK_WORDS = ("object", "instance", "visual", "colo", "human")
# Other names of the splits.
SPLIT_NAMES = {
    "train": ("train", "training", "Train", "trainval"),
    "val": ("val", "valid", "validation", "Val", "test", "testing", "dev"),
}
# Words in other names of splits, such as train2017, stage1_train or TEST.
SPLIT_WORDS = {"train": ("train", "training", "trainval"), "val": ("val", "valid", "test", "dev")}
# Usual ends of the names of masks that lie beside their images.
MASK_ENDS = ("_mask", "_masks", "-mask", "_label", "_seg", "_segmentation", "_gt", "_L", "_anno")
# At most this many folders below a root are looked at.
MAX_FOLDERS = 200
# At most this many names of masks are compared with all other names of a folder.
MAX_NAMES = 20
MAX_SHOWN = 6


def folder_names(folder: Path) -> list[str]:
    """Return the names of the folders in a folder; an empty list if it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return sorted(e.name for e in entries if not is_stray(e.name) and is_folder(e))
    except OSError:
        return []


def nearest_sibling(path: Path, pattern: str = "*") -> str:
    """Return `; did you mean 'x'?` for the entry beside an absent `path` with the closest name.

    Returns an empty string if no entry has a similar name.
    """
    siblings = [sibling.name for sibling in path.parent.glob(pattern)]
    for sibling in siblings:
        if sibling.casefold() == path.name.casefold() and sibling != path.name:
            return f"; did you mean '{sibling}'? (upper and lower case differ)"
    return nearest(path.name, siblings)


def other_root(root: Path, wanted: tuple[str, str]) -> str:
    """Return a hint if the folders `wanted` (images, masks) lie below `root` or beside it.

    Several such folders side by side are splits, or images with a folder each.
    """
    children = folder_names(root)[:MAX_FOLDERS]
    below = [root / name for name in children]
    deeper = [child / name for child in below for name in folder_names(child)[:MAX_FOLDERS]]
    for candidates in (below, deeper, [root.parent]):
        found = [c for c in candidates if all((c / name).is_dir() for name in wanted)]
        if len(found) == 1:
            candidate = found[0]
            return (
                f"; {candidate} has {wanted[0]}/ and {wanted[1]}/: "
                f"{setting('data.root', str(candidate))}"
            )
        if found:
            return ""
    return ""


def likely_splits(split: str, names: Sequence[str]) -> list[str]:
    """Return the names of folders or lists that may be the split, the likeliest first."""
    usual = [name for name in SPLIT_NAMES[split] if name in names]
    others = [name for name in names if name not in usual and _is_like_split(split, name)]
    return [*usual, *others]


def _is_like_split(split: str, name: str) -> bool:
    last = os.path.basename(name).lower()
    is_mask = _has_word(last, MASK_WORDS)
    return not is_mask and any(word in SPLIT_WORDS[split] for word in re.findall("[a-z]+", last))


def other_folder(root: Path, kind: str, wanted: str, *, deeper: bool = False) -> str:
    """Return a setting for a folder under `root` that may hold the images or masks, or "".

    `kind`: image or mask. The folder `wanted` is absent. `deeper`: also one level deeper, as in
    v1.2/labels.
    """
    names = folder_names(root)
    same = [name for name in names if name.casefold() == wanted.casefold()]
    folder = same[0] if same else usual_folder(names, kind)
    if not folder and kind == "image" and usual_folder(names, "mask"):
        # Images in `train`, masks in `train_masks`.
        others = [name for name in names if not _has_word(name, MASK_WORDS + NOT_MASK_WORDS)]
        folder = next((name for name in others if _image_files(root / name)), "")
    if deeper and not folder:
        below = [f"{name}/{child}" for name in names for child in folder_names(root / name)]
        folder = usual_folder(below[:MAX_FOLDERS], kind)
    return setting(f"data.{kind}s", folder) if folder else ""


def usual_folder(names: list[str], kind: str) -> str:
    """Return the name that most likely is the folder of the images or of the masks, or ""."""
    if kind == "image":
        likely = _in_order(IMAGE_FOLDERS, names)
        others = [name for name in names if _has_word(name, IMAGE_WORDS) and name != "ImageSets"]
    else:
        likely = _in_order(MASK_FOLDERS, names)
        others = [name for name in names if _has_word(name, MASK_WORDS)]
        others = [name for name in others if not _has_word(name, NOT_MASK_WORDS)]
    return next(iter((*likely, *others)), "")


def _in_order(usual: Sequence[str], names: Sequence[str]) -> list[str]:
    """Return the names of which the last part is a usual one, in the order of the usual ones."""
    last = {os.path.basename(name): name for name in names}
    return [last[name] for name in usual if name in last]


def _has_word(name: str, words: tuple[str, ...]) -> bool:
    return any(word in name.lower() for word in words)


def other_folders(root: Path, wanted: tuple[str, str]) -> str:
    """Return a hint with the settings for the folders of images and masks that are absent."""
    settings = [
        other_folder(root, kind, name)
        for kind, name in zip(("image", "mask"), wanted, strict=True)
        if not (root / name).is_dir()
    ]
    return "; there are other folders: " + " ".join(settings) if all(settings) and settings else ""


def other_layout(root: Path, layout: str) -> str:
    """Return a hint if the folders fit another layout."""
    names = set(folder_names(root))
    if layout != "voc" and {"JPEGImages", "ImageSets"} <= names:
        return "; this looks like --set data.layout=voc"
    if layout == "voc" and "images" in names and names & {"masks", "annotations", "labels"}:
        parts = set(folder_names(root / "images"))
        ade20k = "annotations" in names and "training" in parts
        return f"; this looks like --set data.layout={'ade20k' if ade20k else 'folder'}"
    return ""


def other_split(split: str, name: str, available: list[str]) -> str:
    """Return a hint for a split that is absent. `split`: train or val."""
    if not available:
        return ""
    listed = f"; there {'is' if len(available) == 1 else 'are'} {', '.join(available[:6])}"
    # A name with a slip (`trian`) is nearer than a likely split of another name.
    near = difflib.get_close_matches(name, available, n=1, cutoff=0.75)
    for other in (*near, *likely_splits(split, available)):
        return f"{listed}: {split_setting(split, [other])}"
    near = difflib.get_close_matches(name, available, n=1, cutoff=0.5)
    if split == "train" and len(available) == 1:
        near = available
    return f"{listed}: {split_setting(split, near)}" if near else listed


def split_setting(split: str, names: Sequence[str]) -> str:
    """Return the setting for the splits to train on, or for the first one to validate on."""
    return setting(f"data.{split}", names if split == "train" else names[0])


def inner_folder(folder: Path, name: str, split: str, available: Sequence[str]) -> str:
    """Return a hint if all that is in the folder of images is a folder that has the splits."""
    if len(available) != 1 or not likely_splits(split, folder_names(folder / available[0])):
        return ""
    inner = f"{name}/{available[0]}"
    return f"; the splits are in {inner}: {setting('data.images', inner)}"


def only_list(split: str, path: Path, available: Sequence[str]) -> str:
    """Return the command that makes two lists of the only one beside `path`, or ""."""
    if len(available) != 1 or (split == "train" and likely_splits("train", available) != []):
        return ""
    lines = read_lines(path.parent / f"{available[0]}.txt")
    if len(lines) < 2:
        return ""
    command = draw_lists(path.parent, f"cat {shlex.quote(available[0])}.txt", len(lines))
    return (
        f"; the only list is {available[0]}.txt with {len(lines)} lines. To draw a fifth of them "
        f"for validation: {command}, then {split_setting('train', ['train'])} --set data.val=val"
    )


def draw_lists(folder: Path, lines: str, count: int, prefix: str = "") -> str:
    """Return the command that divides the lines of a command in `folder` into two lists."""
    num_val = max(1, count // 5)
    return (
        f"cd {shlex.quote(str(folder))} && {lines} | sort -R > all.tmp && "
        f"head -n {num_val} all.tmp > {prefix}val.txt && "
        f"tail -n +{num_val + 1} all.tmp > {prefix}train.txt && rm all.tmp"
    )


def list_of_images(root: Path, images: str, lists: str = "") -> str:
    """Return the command that makes train.txt and val.txt of a folder with images, or "".

    `images` and `lists` are folders under the root.
    """
    files = _image_files(root / images)
    if len(files) < 2:
        return ""
    extensions = sorted({os.path.splitext(file)[1][1:].lower() for file in files})
    # Other files in the folder (licences, Thumbs.db) are no images.
    only_images = f"grep -iE '\\.({'|'.join(extensions)})$'"
    make = f"mkdir -p {lists} && " if lists else ""
    command = f"{make}ls {shlex.quote(images)} | {only_images}"
    return (
        f"; {root / images} has {len(files)} images without a split. To draw a fifth of them for "
        f"validation: {draw_lists(root, command, len(files), f'{lists}/' if lists else '')}"
    )


def _image_files(folder: Path) -> list[str]:
    try:
        names = os.listdir(folder)
    except OSError:
        return []
    return [
        name
        for name in names
        if not is_stray(name) and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES
    ]


def split_first(root: Path, split: str, wanted: tuple[str, str], used: Sequence[str] = ()) -> str:
    """Return a hint for a root with a folder per split, which holds the images and masks.

    They lie in two folders (`train/img`, `train/gt`) or in one (`train/a.jpg`, `train/a_mask.png`),
    also one level deeper (`Train/Rural/img`). The folders `used` belong to the other split.
    """
    names = [name for name in folder_names(root)[:MAX_FOLDERS] if name not in used]
    likely = likely_splits(split, names)
    for name in (*likely, *(name for name in names if name not in likely)):
        deeper = [f"{name}/{child}" for child in folder_names(root / name)[:MAX_FOLDERS]]
        for splits in ([name], deeper):
            splits = [part for part in splits if _pair_of_folders(root / part, wanted)[0]]
            if splits:
                return _of_folders(root, split, splits, wanted)
        if ends := ends_of_masks(root / name):
            return (
                f"; {root / name} has images and masks together: {split_setting(split, [name])} "
                f"--set data.images=. --set data.masks=.{ends.removeprefix(':')}"
            )
    return ""


def _pair_of_folders(folder: Path, wanted: tuple[str, str]) -> tuple[str, str]:
    """Return the folders of images and of masks in a folder; each may be empty."""
    below = folder_names(folder)
    images, masks = (
        usual if (folder / usual).is_dir() else usual_folder(below, kind)
        for kind, usual in zip(("image", "mask"), wanted, strict=True)
    )
    return images, masks


def _of_folders(root: Path, split: str, splits: Sequence[str], wanted: tuple[str, str]) -> str:
    images, masks = _pair_of_folders(root / splits[0], wanted)
    num_images, num_masks = (
        len(_image_files(root / splits[0] / name)) if name else 0 for name in (images, masks)
    )
    if num_images == 1 < num_masks:
        return (
            f"; {root / splits[0]} has 1 image and {num_masks} masks, one for each object: draw "
            "the masks of an image into one file with the label of each pixel, and save the images "
            "in one folder and the masks in another one, with equal names"
        )
    settings = [split_setting(split, splits)]
    settings += [setting("data.images", images)] if images != wanted[0] else []
    settings += [setting("data.masks", masks)] if masks and masks != wanted[1] else []
    return f"; {root / splits[0] / images} is there: {' '.join(settings)}"


def folders_beside(root: Path) -> str:
    """Return the command that pairs folders such as train and train_labels with lists, or ""."""
    for base in (root, *(root / name for name in folder_names(root)[:MAX_FOLDERS])):
        names = folder_names(base)
        for train in likely_splits("train", names):
            masks = [n for n in names if n.startswith(train) and _has_word(n, MASK_WORDS)]
            end = masks[0].removeprefix(train) if masks else ""
            val = [n for n in likely_splits("val", names) if f"{n}{end}" in names and end]
            if val and _image_files(base / train):
                # The lists lie in the root, and the names in them begin there.
                under = "" if base == root else f"{shlex.quote(base.name)}/"
                line = f'printf \'%s\\t%s\\n\' "$f" {under}"${{s}}{end}/${{f##*/}}"'
                return (
                    f"; {base} has {train}/ and {masks[0]}/. To write lists of the pairs: cd "
                    f"{shlex.quote(str(root))} && for s in {train} {val[0]}; do for f in "
                    f"{under}$s/*; do {line}; done > $s.txt; done, then "
                    f"{split_setting('train', [train])} {split_setting('val', val)}"
                )
    return ""


def content(root: Path) -> str:
    """Return what the root has, for a message that knows no better way out."""
    names = folder_names(root)
    more = ", …" if len(names) > MAX_SHOWN else ""
    folders = f"the folders {', '.join(names[:MAX_SHOWN])}{more}" if names else "no folders"
    return f"; it has {folders}: name them with data.images and data.masks"


def polygons(root: Path) -> str:
    """Return a hint if the masks are absent and a file of annotations is there."""
    places = ("*.json", "*.xml", "annotations/*.json", "annotations/*.xml", "labels/*.txt")
    file = next((file for place in places for file in sorted(root.glob(place))), None)
    if file is None:
        return ""
    return (
        f"; {file.relative_to(root)} may have the annotations as polygons or boxes, and segtune "
        "reads masks: export them as masks (PNG) from the tool that made them"
    )


def ends_of_masks(folder: Path) -> str:
    """Return `: --set …` with the suffixes that tell masks from images in one folder, or ""."""
    files = _image_files(folder)
    extensions: dict[str, set[str]] = {}
    for file in files:
        stem, extension = os.path.splitext(file)
        extensions.setdefault(stem, set()).add(extension)
    for end in MASK_ENDS:
        if any(f"{stem}{end}" in extensions for stem in extensions):
            return f": {setting('data.mask_suffix', end)}"
        names = [stem.removesuffix(end) for stem in extensions if stem.endswith(end)]
        others = {
            stem[len(name) :]
            for name in names[:MAX_NAMES]
            for stem in extensions
            if stem.startswith(name) and not stem[len(name) :][:1].isalnum()
        }
        if len(others) == 2:  # the end of masks, and that of images: 100_mask.png, 100_sat.jpg
            image_end = min(others - {end})
            return f": {setting('data.mask_suffix', end)} {setting('data.image_suffix', image_end)}"
    if any({".png", ".jpg"} <= both for both in extensions.values()):
        return ": --set data.mask_suffix=.png --set data.image_suffix=.jpg"
    return ""
