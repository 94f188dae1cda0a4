"""Folders as Cityscapes, ADE20K's full release and MVTec AD have them: the complete way out."""

import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segtune.config.data_config import DataConfig
from segtune.config.yaml_io import parse_assignments
from segtune.data.decode import decode_pair
from segtune.data.known_releases import CITYSCAPES_IDS, known_release
from segtune.data.layouts import class_names, open_split
from segtune.errors import DataError

SIZE = (32, 32)


def image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", SIZE, (50, 60, 70)).save(path)


def mask(path: Path, *values: int) -> None:
    """Write a grey mask with one row for each value, and the last value in all other rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    labels = np.full(SIZE, values[-1], np.uint8)
    labels[: len(values)] = np.array(values)[:, None]
    Image.fromarray(labels).save(path)


def message_of(config: DataConfig, split: str = "train") -> str:
    with pytest.raises(DataError) as error:
        open_split(config, split)
    return str(error.value)


def follow(config: DataConfig, message: str) -> DataConfig:
    """Return the config with all settings that a message names with --set."""
    words = shlex.split(message)
    assignments = [words[place + 1] for place, word in enumerate(words) if word == "--set"]
    changes, _ = parse_assignments(assignments)
    return config.override({name.removeprefix("data."): value for name, value in changes.items()})


def labels_of(config: DataConfig, split: str) -> set[int]:
    """Return the labels in the first mask of a split."""
    pair = open_split(config, split)[0]
    labels = decode_pair(pair, config, len(class_names(config))).labels
    return set(np.unique(labels).tolist())


def cityscapes(root: Path, *, converted: bool) -> None:
    for split, city in (("train", "aachen"), ("train", "bochum"), ("val", "frankfurt")):
        name = f"{split}/{city}/{city}_000000_000019"
        image(root / "leftImg8bit" / f"{name}_leftImg8bit.png")
        mask(root / "gtFine" / f"{name}_gtFine_labelIds.png", 7, 33, 3)
        mask(root / "gtFine" / f"{name}_gtFine_instanceIds.png", 7)
        mask(root / "gtFine" / f"{name}_gtFine_color.png", 7)
        if converted:
            mask(root / "gtFine" / f"{name}_gtFine_labelTrainIds.png", 0, 18, 255)


@pytest.mark.parametrize("converted", [True, False])
@pytest.mark.parametrize("place", [".", "cityscapes"])
@pytest.mark.parametrize("layout", ["folder", "voc", "ade20k"])
def test_message_has_all_settings_of_cityscapes(
    tmp_path: Path, layout: str, place: str, converted: bool
) -> None:
    cityscapes(tmp_path / place, converted=converted)
    config = DataConfig.parse({"layout": layout, "root": str(tmp_path)})
    config = follow(config, message_of(config))
    assert len(class_names(config)) == 19
    assert len(open_split(config, "train")) == 2
    for split in ("train", "val"):
        assert labels_of(config, split) == {0, 18, 255}


def test_other_cities_than_those_of_the_split_are_left_out(tmp_path: Path) -> None:
    cityscapes(tmp_path, converted=True)
    config = DataConfig.parse({"layout": "folder", "root": str(tmp_path)})
    config = follow(config, message_of(config))
    names = [pair.name for pair in open_split(config, "val")]
    assert names == ["frankfurt/frankfurt_000000_000019"]
    assert len(CITYSCAPES_IDS) == 19


def full_ade20k_2021(root: Path) -> None:
    for split, part in (("training", "train"), ("validation", "val")):
        folder = root / "ADE20K_2021_17_01/images/ADE" / split / "urban/street"
        image(folder / f"ADE_{part}_00000001.jpg")
        image(folder / f"ADE_{part}_00000001_seg.png")
        mask(folder / f"ADE_{part}_00000001/instance_000_ADE_{part}_00000001.png", 0)


def full_ade20k_2016(root: Path) -> None:
    folder = root / "ADE20K_2016_07_26/images/training/a/abbey"
    image(folder / "ADE_train_00000970.jpg")
    image(folder / "ADE_train_00000970_seg.png")
    image(folder / "ADE_train_00000970_parts_1.png")


@pytest.mark.parametrize(
    ("make", "places"),
    [
        (
            full_ade20k_2021,
            (".", "ADE20K_2021_17_01", "ADE20K_2021_17_01/images/ADE"),
        ),
        (full_ade20k_2016, (".", "ADE20K_2016_07_26", "ADE20K_2016_07_26/images")),
    ],
)
@pytest.mark.parametrize("layout", ["ade20k", "folder", "voc"])
def test_full_release_of_ade20k_is_explained(
    tmp_path: Path, layout: str, make: Callable[[Path], None], places: tuple[str, ...]
) -> None:
    make(tmp_path)
    for place in places:
        config = DataConfig.parse({"layout": layout, "root": str(tmp_path / place)})
        message = message_of(config)
        assert "is a mask of the full ADE20K release" in message
        assert "ADEChallengeData2016.zip" in message
        assert "--set data.layout=ade20k --set data.classes=ade20k" in message
        assert '"ADE20K, full release" in docs/your-data.md' in message


def test_page_has_the_section_that_the_message_names() -> None:
    page = Path(__file__).parents[2] / "docs" / "your-data.md"
    assert "### ADE20K, full release" in page.read_text()


def mvtec(root: Path) -> None:
    for number in range(5):
        image(root / f"train/good/{number:03d}.png")
        image(root / f"test/good/{number:03d}.png")
        for defect in ("broken large", "contamination"):
            image(root / f"test/{defect}/{number:03d}.png")
            mask(root / f"ground_truth/{defect}/{number:03d}_mask.png", 255, 0)


@pytest.mark.parametrize("place", [".", "bottle", "mvtec ad/bottle"])
@pytest.mark.parametrize("layout", ["folder", "voc"])
def test_message_has_the_command_and_the_settings_of_mvtec(
    tmp_path: Path, layout: str, place: str
) -> None:
    mvtec(tmp_path / place)
    config = DataConfig.parse({"layout": layout, "root": str(tmp_path)})
    message = message_of(config)
    assert "this is MVTec AD" in message
    command = message.split("for validation: ")[1].split(", then ")[0]
    subprocess.run(["bash", "-c", command], check=True)
    config = follow(config, message.split(", then ")[1])
    train, val = open_split(config, "train"), open_split(config, "val")
    assert (len(train), len(val)) == (8, 2)
    assert not set(train) & set(val)
    assert class_names(config) == ("good", "defect")
    assert labels_of(config, "train") == {0, 1}


def test_other_folders_have_no_hint(tmp_path: Path) -> None:
    image(tmp_path / "train/good/1.png")
    image(tmp_path / "images/training/ADE_train_00000001.jpg")
    mask(tmp_path / "annotations/training/ADE_train_00000001.png", 1)
    assert known_release(tmp_path) == ""
    assert known_release(tmp_path / "absent") == ""
