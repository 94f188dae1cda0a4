"""Two machines see the same data set, or the difference is named."""

import shutil
from pathlib import Path

import pytest

from segtune.config.data_config import DataConfig
from segtune.data.same_data import DataContent, data_content
from segtune.errors import DataError


def content(root: Path) -> DataContent:
    tree = {"layout": "voc", "root": str(root), "classes": "shapes"}
    return data_content(DataConfig.parse(tree))


@pytest.fixture
def copy(shapes_root: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(shapes_root, tmp_path / "copy"))


def differences(copy: Path, original: Path) -> list[str]:
    return list(content(copy).differences(content(original), "a"))


def test_copy_of_a_data_set_is_the_same(copy: Path, shapes_root: Path) -> None:
    assert content(copy) == content(shapes_root)
    assert content(copy).train.num_pairs == 24
    assert differences(copy, shapes_root) == []


def test_shorter_list_differs(copy: Path, shapes_root: Path) -> None:
    split = copy / "ImageSets" / "Segmentation" / "train.txt"
    split.write_text("\n".join(split.read_text().splitlines()[:-1]))
    assert differences(copy, shapes_root) == ["data.train: 23 images, 24 on a"]


def test_other_names_differ(copy: Path, shapes_root: Path) -> None:
    split = copy / "ImageSets" / "Segmentation" / "val.txt"
    split.write_text(split.read_text().replace("val_00000", "train_00000"))
    (difference,) = differences(copy, shapes_root)
    assert difference == ("data.val: other files than on a, for example JPEGImages/train_00000.jpg")


def test_other_size_of_a_file_differs(copy: Path, shapes_root: Path) -> None:
    image = copy / "JPEGImages" / "train_00003.jpg"
    size = image.stat().st_size
    image.write_bytes(image.read_bytes()[:-7])
    assert differences(copy, shapes_root) == [
        f"data.train: JPEGImages/train_00003.jpg has {size - 7} bytes, {size} on a"
    ]


def test_absent_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no folder"):
        content(tmp_path / "absent")
