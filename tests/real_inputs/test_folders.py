"""Folders as tools export them: subfolders, other names, other places, links; and their hints."""

import os
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from segtune.config.data_config import DataConfig
from segtune.config.yaml_io import parse_assignments
from segtune.data.layouts import open_split
from segtune.errors import DataError

Writer = Callable[[Path], object]
MakeDataSet = Callable[..., DataConfig]


def touch(*names: str) -> dict[str, Writer]:
    """Return empty files: pairs are found by names alone."""
    return dict.fromkeys(names, Path.touch)


def text(content: str) -> Writer:
    return lambda path: path.write_text(content)


def voc(
    root: str = "", masks: str = "SegmentationClass", split: str = "train"
) -> dict[str, Writer]:
    """Return the files of a data set in VOC layout with one image, `a b`."""
    return touch(f"{root}JPEGImages/a b.jpg", f"{root}{masks}/a b.png") | {
        f"{root}ImageSets/Segmentation/{split}.txt": text("a b\n")
    }


def pairs_of(config: DataConfig, split: str = "train") -> dict[str, tuple[str, str]]:
    """Return {name: (image, mask)}, as paths under the root."""
    root = os.path.abspath(config.root)
    return {
        pair.name: (os.path.relpath(pair.image, root), os.path.relpath(pair.mask, root))
        for pair in open_split(config, split)
    }


def message_of(config: DataConfig, split: str = "train") -> str:
    with pytest.raises(DataError) as caught:
        open_split(config, split)
    return str(caught.value)


def follow(config: DataConfig, split: str = "train") -> DataConfig:
    """Return the config with the settings that the message proposes."""
    settings = message_of(config, split).partition("--set ")[2]
    words = shlex.split(settings.replace("--set ", ""))
    assert words
    changes, _ = parse_assignments([word.removeprefix("data.") for word in words])
    return config.override(changes)


@pytest.mark.parametrize(
    ("layout", "part", "masks"),
    [("folder", "train", "masks"), ("ade20k", "training", "annotations")],
)
def test_images_one_folder_deeper_are_paired_by_their_path(
    layout: str, part: str, masks: str, make_data_set: MakeDataSet
) -> None:
    files = {
        f"{city}/1": (f"images/{part}/{city}/1.png", f"{masks}/{part}/{city}/1.png")
        for city in ("aachen", "bonn")
    }
    config = make_data_set(touch(*files["aachen/1"], *files["bonn/1"]), layout=layout)
    assert pairs_of(config) == files


def test_a_mask_in_another_subfolder_is_not_taken(make_data_set: MakeDataSet) -> None:
    config = make_data_set(
        touch("images/train/a/1.png", "masks/train/b/1.png", "masks/train/1.png")
    )
    message = message_of(config)
    assert "no mask for 'a/1'; 1.png is in " in message


def test_subfolders_beside_images_are_not_read_as_before(
    make_data_set: MakeDataSet, caplog: pytest.LogCaptureFixture
) -> None:
    config = make_data_set(
        touch("images/train/1.png", "masks/train/1.png", "images/train/old/2.png")
    )
    assert list(pairs_of(config)) == ["1"]
    assert "has images itself, so its subfolders are not read (old)" in caplog.text


def test_links_to_a_folder_above_pipes_and_folders_with_suffixes_are_no_images(
    make_data_set: MakeDataSet,
) -> None:
    config = make_data_set(touch("images/train/c/d/1.png", "masks/train/c/d/1.png"))
    folder = Path(config.root, "images", "train")
    (folder / "c" / "loop").symlink_to(folder)
    os.mkfifo(folder / "c" / "d" / "pipe.png")
    (folder / "c" / "d" / "folder.png").mkdir()
    assert list(pairs_of(config)) == ["c/d/1"]


def test_links_to_files_and_folders_are_read(make_data_set: MakeDataSet, tmp_path: Path) -> None:
    config = make_data_set(touch("masks/train/c/1.png"))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "1.png").touch()
    (tmp_path / "elsewhere" / "1.png").symlink_to(tmp_path / "1.png")
    (Path(config.root) / "images" / "train").mkdir(parents=True)
    (Path(config.root) / "images" / "train" / "c").symlink_to(tmp_path / "elsewhere")
    assert pairs_of(config) == {"c/1": ("images/train/c/1.png", "masks/train/c/1.png")}


def test_a_folder_per_split_may_hold_images_and_masks(make_data_set: MakeDataSet) -> None:
    config = make_data_set(touch("train/images/1.jpg", "train/masks/1.png"))
    assert pairs_of(config) == {"1": ("train/images/1.jpg", "train/masks/1.png")}


def test_several_folders_may_have_images_of_one_name(make_data_set: MakeDataSet) -> None:
    parts = ("Train/Rural", "Train/Urban")
    files = {f"{p}/0": (f"{p}/images_png/0.png", f"{p}/masks_png/0.png") for p in parts}
    config = make_data_set(
        touch(*files["Train/Rural/0"], *files["Train/Urban/0"]),
        images="images_png",
        masks="masks_png",
        train=list(parts),
    )
    assert pairs_of(config) == files


FOLDERS = {
    "mmseg": ("img_dir/train/1.jpg", "ann_dir/train/1.png"),
    "cityscapes names": ("leftImg8bit/train/1.png", "gtFine/train/1.png"),
    "labels": ("images/train/1.jpg", "labels/train/1.png"),
    "upper case": ("Images/train/1.jpg", "Masks/train/1.png"),
    "supervisely": ("ds0/img/1.jpg", "ds0/masks_machine/1.png"),
    "kaggle": ("train/image/1.jpg", "train/label/1.png"),
    "duts": ("DUTS-TR/DUTS-TR-Image/1.jpg", "DUTS-TR/DUTS-TR-Mask/1.png"),
    "roboflow": ("train/1.jpg", "train/1_mask.png"),
    "deepglobe": ("train/1_sat.jpg", "train/1_mask.png"),
}


@pytest.mark.parametrize("case", FOLDERS)
def test_the_message_for_other_folders_has_the_settings_that_read_them(
    case: str, make_data_set: MakeDataSet
) -> None:
    config = follow(make_data_set(touch(*FOLDERS[case])))
    assert pairs_of(config) == {"1": FOLDERS[case]}


def test_three_messages_lead_to_images_and_masks_in_two_folders(
    make_data_set: MakeDataSet,
) -> None:
    names = ("f_01", "f_02")
    files = touch(*(f"train/{n}.jpg" for n in names), *(f"train_masks/{n}_mask.gif" for n in names))
    config = follow(make_data_set(files))
    subprocess.run(message_of(config).partition("validation: ")[2], shell=True, check=True)
    config = follow(config)
    assert (config.images, config.masks, config.mask_suffix) == ("train", "train_masks", "_mask")
    (paired,) = pairs_of(config).values()
    assert paired[1] == paired[0].replace("train/", "train_masks/").replace(".jpg", "_mask.gif")


@pytest.mark.parametrize("name", ["valid", "validation", "test"])
@pytest.mark.parametrize("as_list", [False, True])
def test_the_message_for_an_absent_val_names_the_other_split(
    name: str, as_list: bool, make_data_set: MakeDataSet
) -> None:
    files = touch("images/1.jpg", "masks/1.png") | {f"{name}.txt": text("1\n")}
    if not as_list:
        files = touch(f"images/{name}/1.jpg", f"masks/{name}/1.png")
    config = make_data_set(files)
    assert message_of(config, "val").endswith(f"--set data.val={name}")
    assert list(pairs_of(follow(config, "val"), "val")) == ["1"]


@pytest.mark.parametrize("layout", ["folder", "voc"])
def test_the_message_without_a_split_has_a_command_that_draws_one(
    layout: str, make_data_set: MakeDataSet
) -> None:
    folders = {"folder": ("images", "masks"), "voc": ("JPEGImages", "SegmentationClass")}[layout]
    names = [f"{folder}/scan {i:02d}.png" for folder in folders for i in range(10)]
    config = make_data_set(touch(*names, f"{folders[0]}/._scan 00.png"), layout=layout)
    command = message_of(config).partition("validation: ")[2]
    subprocess.run(command, shell=True, check=True)
    train, val = pairs_of(config), pairs_of(config, "val")
    assert (len(train), len(val)) == (8, 2)
    assert sorted([*train, *val]) == [f"scan {i:02d}" for i in range(10)]


@pytest.mark.parametrize("sub", ["VOCdevkit/VOC2012/", "VOC2012/", "dataset/"])
def test_a_root_above_the_data_set_is_corrected(sub: str, make_data_set: MakeDataSet) -> None:
    config = make_data_set(voc(sub), layout="voc")
    corrected = follow(config)
    assert corrected.root == f"{config.root}/{sub.rstrip('/')}"
    assert list(pairs_of(corrected)) == ["a b"]


def test_a_root_inside_the_data_set_is_corrected(make_data_set: MakeDataSet) -> None:
    config = make_data_set(voc(), layout="voc")
    inside = config.override({"root": f"{config.root}/JPEGImages"})
    assert follow(inside).root == config.root


@pytest.mark.parametrize(
    ("layout", "image", "mask"),
    [
        ("ade20k", "images/training/1.jpg", "annotations/training/1.png"),
        ("folder", "images/train/1.jpg", "masks/train/1.png"),
    ],
)
def test_a_root_above_is_corrected_for_the_other_layouts(
    layout: str, image: str, mask: str, make_data_set: MakeDataSet
) -> None:
    files = touch(f"ADEChallengeData2016/{image}", f"ADEChallengeData2016/{mask}")
    corrected = follow(make_data_set(files, layout=layout))
    assert pairs_of(corrected) == {"1": (image, mask)}


def test_another_layout_is_proposed(make_data_set: MakeDataSet) -> None:
    files = touch("images/train/1.jpg", "masks/train/1.png")
    config = follow(make_data_set(files, layout="voc"))
    assert config.layout == "folder"
    assert list(pairs_of(config)) == ["1"]


def test_masks_of_labelme_in_the_folder_of_png_files_are_proposed(
    make_data_set: MakeDataSet,
) -> None:
    files = voc(masks="SegmentationClassPNG") | touch("SegmentationClass/a b.npy")
    # Instances are no classes.
    files |= touch("SegmentationObjectPNG/a b.png", "SegmentationObject/a b.png")
    config = follow(make_data_set(files, layout="voc"))
    assert pairs_of(config) == {"a b": ("JPEGImages/a b.jpg", "SegmentationClassPNG/a b.png")}


def test_instance_masks_are_never_proposed(make_data_set: MakeDataSet) -> None:
    files = voc(masks="SegmentationObject") | touch("SegmentationClass/other.png")
    assert "--set" not in message_of(make_data_set(files, layout="voc"))


def test_the_list_of_a_cvat_export_is_proposed(make_data_set: MakeDataSet) -> None:
    config = make_data_set(voc(split="default"), layout="voc")
    config = follow(config)
    assert config.train == ("default",)
    assert list(pairs_of(config)) == ["a b"]


def test_ade20k_accepts_a_folder_named_train(make_data_set: MakeDataSet) -> None:
    files = touch("images/train/1.jpg", "annotations/train/1.png")
    config = make_data_set(files, layout="ade20k")
    assert pairs_of(config) == {"1": ("images/train/1.jpg", "annotations/train/1.png")}


def test_a_folder_with_other_case_is_proposed(make_data_set: MakeDataSet) -> None:
    files = touch("jpegimages/a.jpg", "SegmentationClass/a.png")
    files["ImageSets/Segmentation/train.txt"] = text("a\n")
    config = follow(make_data_set(files, layout="voc"))
    assert pairs_of(config) == {"a": ("jpegimages/a.jpg", "SegmentationClass/a.png")}


def test_a_link_to_itself_beside_the_images_is_no_folder(make_data_set: MakeDataSet) -> None:
    config = make_data_set(touch("images/train/c/1.png", "masks/train/c/1.png"))
    for folder in ("", "images", "images/train", "masks/train"):
        Path(config.root, folder, "loop").symlink_to("loop")
    assert list(pairs_of(config)) == ["c/1"]
    assert "there is train" in message_of(config.override({"val": "test"}), "val")


def test_a_subfolder_that_cannot_be_read_is_named(make_data_set: MakeDataSet) -> None:
    files = touch("images/1.png", "masks/1.png") | {"train.txt": text("1\nloop/2\n")}
    config = make_data_set(files)
    Path(config.root, "images/loop").symlink_to("loop")
    assert "images/loop: this symbolic link points to itself" in message_of(config)
