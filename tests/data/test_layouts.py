"""Layouts find the right pairs and classes; an error names the file or folder that is missing."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pytest

from segtune.config.data_config import DataConfig
from segtune.data.layouts import class_names, open_split
from segtune.data.pairs import Pair
from segtune.errors import DataError


def names(pairs: Sequence[Pair]) -> list[str]:
    return [pair.name for pair in pairs]


def touch(root: Path, *files: str) -> None:
    """Create empty files: layouts never read an image."""
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()


def message_of(config: DataConfig, split: str = "train") -> str:
    with pytest.raises(DataError) as caught:
        open_split(config, split)
    return str(caught.value)


def test_voc_lists_are_joined_without_duplicates_and_blank_lines(voc_config: DataConfig) -> None:
    assert names(open_split(voc_config, "train")) == ["a", "b"]
    joined = voc_config.override({"train": ["train", "aug"]})
    assert names(open_split(joined, "train")) == ["a", "b", "c"]
    assert names(open_split(voc_config.override({"num_images": 1}), "train")) == ["a"]


def test_aug_list_uses_the_aug_masks_for_validation_too(voc_config: DataConfig) -> None:
    with_aug = voc_config.override({"train": ["train", "aug"]})
    assert "SegmentationClassAug" in open_split(with_aug, "val")[0].mask
    assert "SegmentationClassAug" not in open_split(voc_config, "val")[0].mask


def test_ade20k_splits_are_its_folders(tmp_path: Path) -> None:
    for part in ("training", "validation"):
        touch(tmp_path, f"images/{part}/{part}.jpg", f"annotations/{part}/{part}.png")
    config = DataConfig.parse({"layout": "ade20k", "root": str(tmp_path), "classes": "ade20k"})
    assert names(open_split(config, "train")) == ["training"]
    assert names(open_split(config, "val")) == ["validation"]
    assert len(class_names(config)) == 150


def test_folder_layout_pairs_any_suffixes(tmp_path: Path) -> None:
    touch(tmp_path, "images/train/x.jpeg", "masks/train/x.png")
    touch(tmp_path, "images/val/y.PNG", "masks/val/y.bmp")
    (tmp_path / "labels.txt").write_text("sky\nroad\n")
    config = DataConfig.parse({"layout": "folder", "root": str(tmp_path), "classes": "labels.txt"})
    assert names(open_split(config, "train")) == ["x"]
    assert names(open_split(config, "val")) == ["y"]
    assert class_names(config) == ("sky", "road")


def test_folder_layout_joins_lists(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{folder}/{name}.png" for folder in ("images", "masks") for name in "xyz"))
    (tmp_path / "day.txt").write_text("y.png\n")
    (tmp_path / "night.txt").write_text("x\nz\n")
    config = DataConfig.parse(
        {"layout": "folder", "root": str(tmp_path), "train": ["day", "night"], "val": "dusk"}
    )
    assert names(open_split(config, "train")) == ["y", "x", "z"]
    assert "no split 'dusk'" in message_of(config, "val")


def test_every_missing_file_is_named(voc_config: DataConfig, voc_root: Path) -> None:
    message = message_of(voc_config.override({"train": ["trian"]}))
    assert "trian.txt: no such split list; there are" in message
    assert message.endswith(": --set 'data.train=[train]'")
    (voc_root / "SegmentationClass" / "b.png").unlink()
    assert "SegmentationClass: no mask for 'b'" in message_of(voc_config)
    (voc_root / "JPEGImages" / "c.jpg").unlink()
    assert "JPEGImages: no image for 'c'" in message_of(voc_config, "val")
    (voc_root / "JPEGImages").rename(voc_root / "JPEGImage")
    assert message_of(voc_config).endswith(
        "JPEGImages: No such file or directory; there is another folder: "
        "--set data.images=JPEGImage"
    )


def test_unusable_lists_are_named(voc_config: DataConfig, voc_root: Path) -> None:
    val_list = voc_root / "ImageSets" / "Segmentation" / "val.txt"
    val_list.write_text("\n")
    assert "data.val: the split val of" in message_of(voc_config, "val")
    val_list.write_text("../../etc/passwd\n")
    assert "val.txt:1: '../../etc/passwd' is outside" in message_of(voc_config, "val")


@pytest.mark.parametrize("lookup", [class_names, partial(open_split, split="train")])
def test_an_absent_root_is_named_whatever_is_looked_up_first(
    lookup: Callable[[DataConfig], object], tmp_path: Path
) -> None:
    (tmp_path / "camvid").mkdir()
    (tmp_path / "camvd.zip").touch()  # more similar, but not a folder
    config = DataConfig.parse(
        {"layout": "folder", "root": str(tmp_path / "camvd"), "classes": "labels.txt"}
    )
    with pytest.raises(DataError) as caught:
        lookup(config)
    assert str(caught.value) == (
        f"data.root: no folder '{tmp_path}/camvd'; expected the data set, for layout folder "
        "with images/, masks/, labels.txt; did you mean 'camvid'?"
    )


def test_classes_that_are_not_in_a_file_need_no_data_set() -> None:
    absent = DataConfig.parse({"root": "/nowhere/at/all", "classes": ["sky", "road"]})
    assert class_names(absent) == ("sky", "road")
    assert class_names(absent.override({"classes": "voc"}))[:2] == ("background", "aeroplane")


def test_unusable_class_files_are_named(voc_config: DataConfig, voc_root: Path) -> None:
    with pytest.raises(DataError, match=r"data\.classes: no file .*vocc; did you mean 'voc'"):
        class_names(voc_config.override({"classes": "vocc"}))
    (voc_root / "labels.txt").write_text("\nsky\n")
    with pytest.raises(DataError, match=r"labels\.txt: expected two or more class names"):
        class_names(voc_config.override({"classes": "labels.txt"}))
