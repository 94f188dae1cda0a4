"""SBD's masks in PASCAL VOC 2012: the folder SegmentationClassAug and the list trainaug.

Source of the rule: mmsegmentation's tools/dataset_converters/voc_aug.py. trainaug is VOC's train
and SBD's train and val, without VOC's val: 1,464 + 9,118 = 10,582 images. An image that VOC has
annotated keeps VOC's own mask.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from segtune.config.data_config import IGNORE_INDEX, DataConfig
from segtune.data.image_files import open_header
from segtune.data.known_classes import NAMED_CLASSES, voc_colours
from segtune.data.layout_hints import folder_names, nearest_sibling
from segtune.data.masks import read_mask
from segtune.data.mat_files import MatError, read_struct_field
from segtune.data.text_files import read_lines
from segtune.errors import DataError, nearest
from segtune.runs.atomic import naming, temporary_beside, write_atomic

NUM_TRAINAUG = 10_582  # images of the full data sets
OUT = "SegmentationClassAug"
NUM_CLASSES = len(NAMED_CLASSES["voc"])
# Where the folder cls/ lies under a folder that users name.
SBD_PLACES = (".", "dataset", "benchmark_RELEASE/dataset", "benchmark/benchmark_RELEASE/dataset")
VOC_PLACES = (".", "VOC2012", "VOCdevkit/VOC2012")
SBD_SITE = "the archive benchmark.tgz of the Semantic Boundaries Dataset"
OVERWRITE = "move it away, or replace it: --overwrite"


@dataclass(frozen=True)
class AugPlan:
    """The files to read, and the masks to write."""

    cls: Path  # folder of SBD's .mat files
    voc: Path  # folder with JPEGImages/ and SegmentationClass/
    train: tuple[str, ...]  # VOC's train
    val: tuple[str, ...]  # VOC's val
    aug: tuple[str, ...]  # of SBD alone: in none of VOC's lists
    num_sbd: int  # images in SBD's train and val

    @property
    def out(self) -> Path:
        """The folder of the masks."""
        return self.voc / OUT

    @property
    def lists(self) -> dict[Path, tuple[str, ...]]:
        """The names in each list to write. `trainaug` has the order of `train` and `aug`."""
        folder = _list_folder(self.voc)
        return {folder / "aug.txt": self.aug, folder / "trainaug.txt": self.train + self.aug}


@dataclass
class Progress:
    """What became of the masks."""

    num_written: int = 0
    num_kept: int = 0  # they were there, with the right labels
    refused: list[str] = field(default_factory=list)


def plan_aug(sbd: Path, voc: Path) -> AugPlan:
    """Read the lists of both data sets. Raises DataError that names the absent folder or file."""
    voc = _find_voc(voc, sbd)
    dataset = _find_sbd(sbd)
    if not any((dataset / "cls").glob("*.mat")):
        raise DataError(f"--sbd: no .mat files in {dataset / 'cls'}; unpack {SBD_SITE}")
    lists = _list_folder(voc)
    train, val = (_names(lists / f"{split}.txt") for split in ("train", "val"))
    of_sbd = dict.fromkeys(
        name for split in ("train", "val") for name in _names(dataset / f"{split}.txt")
    )
    both = [name for name in train if name in set(val)]
    if both:
        raise DataError(
            f"{lists / 'train.txt'}: {len(both)} images are also in val.txt, the first is "
            f"{both[0]}; use the lists that came with VOC 2012"
        )
    known = set(train) | set(val)
    aug = tuple(name for name in of_sbd if name not in known)
    if not aug:
        raise DataError(
            f"{dataset}: all {len(of_sbd)} images of train.txt and val.txt are in VOC's lists "
            "already; use the lists that came with SBD (8,498 and 2,857 images)"
        )
    return AugPlan(dataset / "cls", voc, train, val, aug, len(of_sbd))


def _find_sbd(folder: Path) -> Path:
    for place in SBD_PLACES:
        if (folder / place / "cls").is_dir():
            return folder / place
    if not folder.is_dir():
        raise DataError(f"--sbd: no folder {folder}{nearest_sibling(folder, '*/')}")
    if (folder / "JPEGImages").is_dir() or (folder / "VOC2012").is_dir():
        raise DataError(f"--sbd: {folder} is PASCAL VOC; expected SBD, with dataset/cls/*.mat")
    below = folder_names(folder)
    deeper = [folder / name for name in below if _has_cls(folder / name)]
    if folder.name == "cls" or any(folder.glob("*.mat")):
        deeper = [folder.parent]
    archive = next(iter(sorted(folder.glob("*.tgz"))), None)
    hint = f"; {archive.name} is there: unpack it" if archive else ""
    hint = f"; did you mean {deeper[0]}?" if deeper else hint
    raise DataError(
        f"--sbd: no folder cls in {folder}, nor in {SBD_PLACES[2]} or dataset below it; expected "
        f"{SBD_SITE}, unpacked{hint}"
    )


def _has_cls(folder: Path) -> bool:
    return any((folder / place / "cls").is_dir() for place in SBD_PLACES)


def _find_voc(folder: Path, sbd: Path) -> Path:
    for place in VOC_PLACES:
        if (folder / place / "JPEGImages").is_dir():
            return folder / place
    if not folder.is_dir():
        raise DataError(f"--voc: no folder {folder}{nearest_sibling(folder, '*/')}")
    if _has_cls(folder):
        swapped = any((sbd / place / "JPEGImages").is_dir() for place in VOC_PLACES)
        hint = f"; did you mean --sbd {folder} --voc {sbd}?" if swapped else ""
        raise DataError(f"--voc: {folder} is SBD; expected VOC2012, with JPEGImages/{hint}")
    near = nearest("VOC2012", folder_names(folder))
    raise DataError(
        f"--voc: no JPEGImages in {folder}; expected the folder VOC2012 with JPEGImages/, "
        f"SegmentationClass/ and ImageSets/Segmentation/{near}"
    )


def _list_folder(voc: Path) -> Path:
    return voc / "ImageSets" / "Segmentation"


def _names(path: Path) -> tuple[str, ...]:
    """Return the names in a list, each once."""
    if not path.is_file():
        raise DataError(f"{path}: no such list{nearest_sibling(path, '*.txt')}")
    names = dict.fromkeys(line.text for line in read_lines(path))
    if not names:
        raise DataError(f"{path}: the list is empty")
    return tuple(names)


def check_lists(plan: AugPlan, *, overwrite: bool) -> None:
    """Raise DataError if a list that would be written exists with other names in it."""
    for path, names in plan.lists.items():
        if path.exists() and not overwrite and set(_names(path)) != set(names):
            raise DataError(
                f"{path}: exists and lists {len(_names(path))} other images; VOC and SBD give "
                f"{len(names)}; {OVERWRITE}"
            )


def write_masks(plan: AugPlan, progress: Progress, *, overwrite: bool) -> Iterator[str]:
    """Write SegmentationClassAug, one mask after the other; count them in `progress`.

    Yields an empty text for each mask that is there in the end, otherwise why it is not. A mask is
    written whole or not at all. A mask that exists with the right labels is kept, and one with
    other labels is refused without `overwrite`. OSErrors name the file.
    """
    config = DataConfig.parse({"root": str(plan.voc), "classes": "voc"})
    plan.out.mkdir(exist_ok=True)
    of_sbd = set(plan.aug)
    for name in (*plan.train, *plan.val, *plan.aug):
        try:
            png, labels = _sbd_mask(plan, name) if name in of_sbd else _voc_mask(plan, name, config)
            _check_image(plan.voc / "JPEGImages" / f"{name}.jpg", labels, config)
            kept = _write(plan.out / f"{name}.png", png, labels, config, overwrite=overwrite)
        except DataError as error:
            progress.refused.append(name)
            yield str(error)
            continue
        progress.num_kept += kept
        progress.num_written += not kept
        yield ""


def _voc_mask(plan: AugPlan, name: str, config: DataConfig) -> tuple[bytes, np.ndarray]:
    """Return the file and the labels of VOC's own mask."""
    path = plan.voc / "SegmentationClass" / f"{name}.png"
    labels = read_mask(path, config, NUM_CLASSES)
    with naming(path):
        return path.read_bytes(), labels


def _sbd_mask(plan: AugPlan, name: str) -> tuple[bytes, np.ndarray]:
    """Return SBD's mask as a PNG with VOC's palette, and its labels."""
    labels = read_mat(plan.cls / f"{name}.mat")
    image = Image.fromarray(labels, mode="P")
    image.putpalette(voc_colours(256).ravel().tolist())
    png = io.BytesIO()
    image.save(png, format="PNG")
    return png.getvalue(), labels


def _check_image(path: Path, labels: np.ndarray, config: DataConfig) -> None:
    if not path.is_file():
        raise DataError(f"{path}: no such image; VOC 2012 has 17,125 images in JPEGImages")
    width, height = open_header(path, config.max_megapixels).size
    if (height, width) != labels.shape:
        raise DataError(
            f"{path}: has {width} x {height} pixels, its mask has {labels.shape[1]} x "
            f"{labels.shape[0]}; use the images of VOC 2012 as they were downloaded"
        )


def _write(
    target: Path, png: bytes, labels: np.ndarray, config: DataConfig, *, overwrite: bool
) -> bool:
    """Write a mask; return whether an earlier one with equal labels was kept instead."""
    if os.path.lexists(target):
        problem = "has other labels than VOC or SBD give this image"
        try:
            if np.array_equal(read_mask(target, config, NUM_CLASSES), labels):
                return True
        except DataError as error:
            problem = f"is no mask of VOC's classes ({error})"
        if not overwrite:
            raise DataError(f"{target}: exists and {problem}; {OVERWRITE}")
    # Without a sync of each of 12,031 files: `write_lists` comes after one sync of all.
    copy = temporary_beside(target)
    try:
        with naming(target):
            copy.write_bytes(png)
            os.replace(copy, target)
    finally:
        copy.unlink(missing_ok=True)
    return False


def write_lists(plan: AugPlan, refused: Sequence[str]) -> dict[Path, int]:
    """Write aug.txt and trainaug.txt without the `refused` names; return how many each has.

    A list that holds these names already stays as it is, with its order.
    """
    os.sync()
    counts = {}
    for path, names in plan.lists.items():
        kept = [name for name in names if name not in set(refused)]
        if not path.exists() or set(_names(path)) != set(kept):
            write_atomic(path, "\n".join(kept) + "\n")
        counts[path] = len(kept)
    return counts


def read_mat(path: Path) -> np.ndarray:
    """Return the labels uint8 [H, W] of one of SBD's .mat files: GTcls.Segmentation.

    Raises DataError with the reason if it is no such file.
    """
    try:
        values = read_struct_field(path.read_bytes(), "GTcls", "Segmentation")
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; copy it from {SBD_SITE}") from None
    except OSError as error:
        raise DataError(f"{path}: not readable: {error.strerror}") from None
    except MatError as error:
        reason = str(error) if path.stat().st_size else "it is empty"
        raise DataError(f"{path}: not readable: {reason}; copy it again from {SBD_SITE}") from None
    if values is None:
        raise DataError(
            f"{path}: has no field GTcls.Segmentation; expected a file of dataset/cls (the files "
            "in dataset/inst have objects, not classes)"
        )
    if values.ndim != 2 or not values.size:
        raise DataError(f"{path}: GTcls.Segmentation is no image of labels")
    allowed = np.isin(values, (*range(NUM_CLASSES), IGNORE_INDEX))
    if not allowed.all():
        others = np.unique(values[~allowed])
        raise DataError(
            f"{path}: {np.count_nonzero(~allowed)} pixels have labels that VOC does not have "
            f"({', '.join(f'{value:g}' for value in others[:5])}); allowed are 0..20 and 255"
        )
    return values.astype(np.uint8)
