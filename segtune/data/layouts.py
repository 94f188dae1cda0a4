"""Data set layouts on disk: the (image, mask) files of a split, and the names of the classes.

Reads folder listings and text files only, never an image.
"""

from __future__ import annotations

import itertools
import logging
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from segtune.config.data_config import DataConfig
from segtune.data import layout_hints, near_misses, shapes
from segtune.data.class_lists import check_class_names, read_class_list
from segtune.data.file_names import IMAGE_SUFFIXES, LOSSY_MASK_SUFFIXES, MASK_SUFFIXES, Suffix
from segtune.data.known_classes import NAMED_CLASSES
from segtune.data.known_releases import known_release
from segtune.data.layout_hints import likely_splits
from segtune.data.listing import FileTree
from segtune.data.own_layout import own_pairs
from segtune.data.pairs import Pair, folder_pairs, list_pairs
from segtune.errors import DataError, nearest

log = logging.getLogger(__name__)

ADE20K_FOLDERS = {"train": "training", "val": "validation"}
# Usual names of the training list of VOC plus SBD, 10,582 images.
AUG_LISTS = ("aug", "trainaug", "train_aug")
# Text files beside the split lists that usually have the class names.
CLASS_FILES = ("labels.txt", "classes.txt", "class_names.txt", "labelmap.txt", "readme.txt")
# Other text files that are no split lists: label_colors.txt, README.roboflow.txt, LICENSE.txt.
NO_LIST = re.compile(r"label|class|colou?r|palette|readme|licen[cs]e|attribution", re.IGNORECASE)
# The folders of images and masks under the root, by layout.
FOLDERS = {
    "voc": ("JPEGImages", "SegmentationClass"),
    "shapes": ("JPEGImages", "SegmentationClass"),
    "ade20k": ("images", "annotations"),
    "folder": ("images", "masks"),
}
# What `data.root` has to contain, by layout.
EXPECTED_CONTENT = {
    "voc": "JPEGImages/, SegmentationClass/, ImageSets/Segmentation/train.txt",
    "ade20k": "images/training/, annotations/training/",
    "folder": "images/, masks/, labels.txt",
}


def is_own(config: DataConfig) -> bool:
    """Whether `data.layout` is the import path of a function, not the name of a layout."""
    return config.layout not in FOLDERS


def root_folder(config: DataConfig) -> Path:
    """Return the root folder of the data set; generate the data set there first if it is `shapes`.

    Raises DataError that names the absent folder, the folder beside it with the closest name, and
    what the layout expects.
    """
    root = Path(config.root)
    if config.layout == "shapes":
        shapes.generate_if_needed(root)
        return root
    if is_own(config):
        return root  # its function knows where the files are
    if not root.is_dir():
        raise DataError(
            f"data.root: no folder {config.root!r}; expected the data set, for layout "
            f"{config.layout} with {EXPECTED_CONTENT[config.layout]}"
            f"{layout_hints.nearest_sibling(root, '*/')}"
        )
    return root


def open_split(config: DataConfig, split: str) -> list[Pair]:
    """Return the pairs of split `train` (all its lists joined) or `val`, in the order of the lists.

    A pair that is listed again is left out, with a warning. Raises DataError that names what is
    missing and what was expected.
    """
    listed = [pair for _, pairs in pairs_by_list(config, split) for pair in pairs]
    pairs = listed
    if len({pair.image for pair in listed}) < len(listed):
        pairs = list({(pair.image, pair.mask): pair for pair in listed}.values())
        _check_one_mask_each(pairs)
    if len(pairs) < len(listed):
        log.warning(
            "data.%s: %d of %d listed images repeat an earlier one; each is used once",
            *(split, len(listed) - len(pairs), len(listed)),
        )
    return pairs[: config.num_images] if split == "train" else pairs


def _check_one_mask_each(pairs: Sequence[Pair]) -> None:
    masks: dict[str, str] = {}
    for pair in pairs:
        if masks.setdefault(pair.image, pair.mask) != pair.mask:
            raise DataError(
                f"{pair.image}: is listed with two masks, {masks[pair.image]} and {pair.mask}"
            )


def complete_pairs(config: DataConfig, split: str) -> tuple[list[Pair], list[str]]:
    """Return the pairs of a split, and the images without a mask.

    Raises DataError as `open_split` does; for images without a mask only if they are half of all
    images or more.
    """
    unpaired: list[str] = []
    by_list = pairs_by_list(config, split, unpaired)
    return list(dict.fromkeys(pair for _, pairs in by_list for pair in pairs)), unpaired


def pairs_by_list(
    config: DataConfig, split: str, unpaired: list[str] | None = None
) -> list[tuple[str, list[Pair]]]:
    """Return the name and the pairs of each list or folder of `train` or `val`.

    A pair that is listed twice is there twice. If there is a list `unpaired`, images without a mask
    are added to it: see `complete_pairs`. Raises DataError as `open_split` does.
    """
    root = root_folder(config)
    names = config.train if split == "train" else (config.val,)
    if config.layout == "ade20k" and len(names) > 1:
        log.warning("data.train: the layout ade20k uses only the first split, %s", names[0])
        names = names[:1]
    splits = None if is_own(config) else _Splits(root, config, split, unpaired)
    by_list = [
        (name, splits.pairs(name) if splits else own_pairs(config, split, name)) for name in names
    ]
    if not any(pairs for _, pairs in by_list):
        raise DataError(
            f"data.{split}: the split {', '.join(names)} of {config.root} is empty"
            f"{splits.content_hint() if splits else f'; {config.layout} returns no files'}"
        )
    for image, mask, _ in itertools.chain.from_iterable(pairs for _, pairs in by_list):
        if image == mask:
            raise DataError(
                f"{image}: is an image and its own mask; set data.masks to the folder of the "
                "masks, or data.mask_suffix to the text behind their names"
            )
    if splits:
        splits.say_what_was_ignored()
    return by_list


class _Splits:
    """The named parts of `train` or `val` in a data set, and the folders that were listed."""

    def __init__(
        self, root: Path, config: DataConfig, split: str, unpaired: list[str] | None
    ) -> None:
        # Absolute, so that paths in lists can be compared with it.
        self.root = os.path.abspath(root)
        self.config = config
        self.split = split
        self._unpaired = unpaired
        images, masks = FOLDERS[config.layout]
        # SegmentationClassAug holds the masks of VOC and of SBD. So validation uses this folder,
        # too, if the training uses it.
        if masks == "SegmentationClass" and any(name in AUG_LISTS for name in config.train):
            masks = "SegmentationClassAug"
        self.images = config.images or images
        self.masks = config.masks or masks
        if (
            config.mask_suffix.lower().endswith(LOSSY_MASK_SUFFIXES)
            and not config.allow_lossy_masks
        ):
            raise DataError(
                f"data.mask_suffix: {config.mask_suffix!r} are JPEG files, which change the labels "
                "along every edge; save the masks as PNG, or --set data.allow_lossy_masks=true"
            )
        lossy = LOSSY_MASK_SUFFIXES if config.allow_lossy_masks else ()
        self._image_suffix = Suffix.parse(config.image_suffix, IMAGE_SUFFIXES)
        self._mask_suffix = Suffix.parse(config.mask_suffix, (*MASK_SUFFIXES, *lossy))
        self._trees: dict[tuple[str, str], tuple[FileTree, FileTree]] = {}

    def pairs(self, name: str) -> list[Pair]:
        """Return the pairs of one split of the lists or folders."""
        match self.config.layout:
            case "voc" | "shapes":
                lists = os.path.join(self.root, "ImageSets", "Segmentation")
                return self._of_list(Path(lists, f"{name.removesuffix('.txt')}.txt"))
            case "ade20k":
                return folder_pairs(*self._open(*self._ade20k_folders(name)), self._unpaired)
            case _:
                return self._of_folder_layout(name)

    def _of_folder_layout(self, name: str) -> list[Pair]:
        split_list = Path(self.root, f"{name.removesuffix('.txt')}.txt")
        if split_list.is_file():
            return self._of_list(split_list)
        places = (
            (os.path.join(self.images, name), os.path.join(self.masks, name)),
            (os.path.join(name, self.images), os.path.join(name, self.masks)),
        )
        there = [[os.path.isdir(os.path.join(self.root, path)) for path in pair] for pair in places]
        best = max((0, 1), key=lambda place: (sum(there[place]), -place))
        if there[best][0]:
            pairs = folder_pairs(*self._open(*places[best]), self._unpaired)
            # Several folders may have images of one name.
            several = self.split == "train" and len(self.config.train) > 1
            return [p._replace(relative=f"{name}/{p.name}") if several else p for p in pairs]
        raise DataError(
            f"data.{self.split}: no split {name!r} in {self.root}; expected {name}.txt with one "
            f"image per line, or {self.images}/{name}/ and {self.masks}/{name}/"
            f"{self._split_hint(name)}"
        )

    def _split_hint(self, name: str) -> str:
        root, images = Path(self.root), Path(self.root, self.images)
        wanted = (self.images, self.masks)
        if hint := known_release(root):
            return hint
        if not images.is_dir() or self.images == ".":
            used = (self.config.val,) if self.split == "train" else self.config.train
            return (
                layout_hints.other_root(root, wanted)
                or layout_hints.other_layout(root, self.config.layout)
                or layout_hints.folders_beside(root)
                or layout_hints.other_folders(root, wanted)
                or layout_hints.split_first(root, self.split, wanted, used)
                or layout_hints.content(root)
            )
        lists = self._lists(root)
        available = [*layout_hints.folder_names(images), *lists]
        if hint := layout_hints.inner_folder(images, self.images, self.split, available):
            return hint
        if not layout_hints.likely_splits(self.split, available):
            command = layout_hints.only_list(self.split, root / "x", lists)
            if command := command or layout_hints.list_of_images(root, self.images):
                return command
        return layout_hints.other_split(self.split, name, available)

    def _lists(self, root: Path) -> list[str]:
        """Return the names of the lists in the root, and those of splits in its folders."""
        paths = [path.relative_to(root) for path in (*root.glob("*.txt"), *root.glob("*/*.txt"))]
        texts = (*CLASS_FILES, self.config.classes, self.config.palette)
        names = [
            str(path.with_suffix(""))
            for path in sorted(paths)
            if path.name not in texts and not NO_LIST.search(path.name)
        ]
        either = [name for split in ("train", "val") for name in likely_splits(split, names)]
        return [name for name in names if "/" not in name or name in either]

    def _ade20k_folders(self, name: str) -> tuple[str, str]:
        part = ADE20K_FOLDERS.get(name, name)
        folders = layout_hints.folder_names(Path(self.root, self.images))
        part = name if part not in folders and name in folders else part
        return os.path.join(self.images, part), os.path.join(self.masks, part)

    def _of_list(self, path: Path) -> list[Pair]:
        if not path.is_file():
            raise DataError(f"{path}: no such split list{self._list_hint(path)}")
        trees = self._trees_of(self.images, self.masks)
        try:
            return list_pairs(path, *trees, self._unpaired)
        except DataError:
            # A list that names files from the root on needs none of these folders.
            self._check_folders(*trees)
            raise

    def _list_hint(self, path: Path) -> str:
        root = Path(self.root)
        if not path.parent.is_dir():
            return (
                known_release(root)
                or layout_hints.other_root(root, (self.images, "ImageSets"))
                or layout_hints.other_root(root, (self.images, self.masks))
                or layout_hints.other_layout(root, self.config.layout)
                or layout_hints.list_of_images(root, self.images, "ImageSets/Segmentation")
                or layout_hints.nearest_sibling(path.parent)
            )
        available = sorted(other.stem for other in path.parent.glob("*.txt"))
        return layout_hints.only_list(self.split, path, available) or (
            layout_hints.other_split(self.split, path.stem, available)
        )

    def _open(self, images: str, masks: str) -> tuple[FileTree, FileTree]:
        """Return the files of two folders under the root. Raises DataError if one is absent."""
        trees = self._trees_of(images, masks)
        self._check_folders(*trees)
        return trees

    def _check_folders(self, *trees: FileTree) -> None:
        for tree in trees:
            try:
                tree.listing(tree.folder)
            except OSError as error:
                raise DataError(self._absent_folder(tree, error)) from None

    def _trees_of(self, images: str, masks: str) -> tuple[FileTree, FileTree]:
        if (images, masks) not in self._trees:
            image_folder = os.path.normpath(os.path.join(self.root, images))
            mask_folder = os.path.normpath(os.path.join(self.root, masks))
            # In one folder, a file that ends like a mask is no image.
            excluded = self._mask_suffix if self.config.mask_suffix else None
            shared = excluded if image_folder == mask_folder else None
            if image_folder == mask_folder and not (excluded or self.config.image_suffix):
                raise DataError(
                    f"{image_folder}: is the folder of images and of masks. If the masks are in "
                    "another folder, set data.masks; otherwise data.mask_suffix must say which "
                    f"files are masks{layout_hints.ends_of_masks(Path(image_folder))}"
                )
            self._trees[images, masks] = (
                FileTree("image", image_folder, self.root, self._image_suffix, shared),
                FileTree("mask", mask_folder, self.root, self._mask_suffix),
            )
        return self._trees[images, masks]

    def _absent_folder(self, tree: FileTree, error: OSError) -> str:
        root, path = Path(self.root), Path(tree.folder)
        name = self.images if tree.kind == "image" else self.masks
        if hint := known_release(root):
            return f"{path}: {error.strerror or 'not readable'}{hint}"
        hint = layout_hints.other_root(root, (self.images, self.masks))
        hint = hint or layout_hints.other_layout(root, self.config.layout)
        # The folder of the kind is in the root, or in the folder of a split.
        base = path.parent if path.name == name else root
        is_mask = tree.kind == "mask"
        setting = layout_hints.other_folder(base, tree.kind, name, deeper=is_mask)
        if not (base / name).is_dir():
            hint = hint or (f"; there is another folder: {setting}" if setting else "")
            hint = hint or (layout_hints.polygons(root) if is_mask else "")
        if not is_mask and not hint and not setting:
            near = layout_hints.nearest_sibling(path).replace("; did you mean 'ImageSets'?", "")
            hint = f"{near}; if {root} has no images, copy them there"
        hint = hint or layout_hints.nearest_sibling(path)
        return f"{path}: {error.strerror or 'not readable'}{hint}"

    def content_hint(self) -> str:
        """Return a hint on what the folders hold if they hold no images."""
        empty = [images for images, _ in self._trees.values() if not images.has_files()]
        return near_misses.content_without_files(empty[0]) if empty else ""

    def say_what_was_ignored(self) -> None:
        """Log the number of files that tools have left in the folders."""
        count = sum(tree.num_stray for trees in self._trees.values() for tree in trees)
        if count:
            log.info(
                "data.%s: ignored %d file%s of tools (hidden files, Thumbs.db and the like) in %s",
                *(self.split, count, "" if count == 1 else "s", self.root),
            )


def class_names(config: DataConfig) -> tuple[str, ...]:
    """Return the names of the classes, in the order of their labels.

    Reads the data set only if `data.classes` is a file in it. Raises DataError if `data.root` or
    the file is absent, if the file has fewer than two names, or if a name occurs twice.
    """
    if not isinstance(config.classes, str):
        return check_class_names(config.classes)
    if config.classes in NAMED_CLASSES:
        return NAMED_CLASSES[config.classes]
    path = root_folder(config) / config.classes
    if not path.is_file():
        raise DataError(
            f"data.classes: no file {path}{nearest(config.classes, NAMED_CLASSES)}; allowed are "
            f"{', '.join(NAMED_CLASSES)}, a text file in data.root, or a list of names"
        )
    first_label = 1 if config.reduces_zero_label else 0
    return read_class_list(path, config.ignore_index, first_label=first_label)


def known_class_names(config: DataConfig) -> tuple[str, ...]:
    """Return the names of the classes; empty if this machine does not have their file."""
    with suppress(DataError, OSError, UnicodeError):
        return class_names(config)
    return ()
