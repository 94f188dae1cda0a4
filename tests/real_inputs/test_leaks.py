"""`data check` lists images that are in both splits, listed twice, or stored under two names."""

from collections.abc import Callable, Mapping
from pathlib import Path

import cv2
import numpy as np
import pytest

from segtune.api import check_study_data
from segtune.checks.audit import audit
from segtune.config.data_config import DataConfig
from segtune.config.schema import ExperimentConfig
from segtune.config.yaml_io import write_yaml
from segtune.data.layouts import open_split
from segtune.data.leaks import leak_warning
from segtune.runs.rundir import TrialDir
from segtune.training.distributed import Ranks
from segtune.training.trainer import Trainer
from segtune.tuning.study_reader import load_study

MakeDataSet = Callable[..., DataConfig]
MASK = np.repeat(np.array([[0, 1]], np.uint8), 8, 0).repeat(4, 1)


def noise(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (*MASK.shape, 3), dtype=np.uint8)


def writers(
    images: Mapping[str, np.ndarray], masks: Mapping[str, np.ndarray] | None = None
) -> dict[str, Callable[[Path], object]]:
    """Return the writers of images by name; a mask is MASK if `masks` has none."""
    files: dict[str, Callable[[Path], object]] = {}
    for name, pixels in images.items():
        mask = (masks or {}).get(name, MASK)
        files[f"images/{name}.png"] = lambda path, pixels=pixels: cv2.imwrite(str(path), pixels)
        files[f"masks/{name}.png"] = lambda path, mask=mask: cv2.imwrite(str(path), mask)
    return files


def text(*lines: str) -> Callable[[Path], object]:
    return lambda path: path.write_text("\n".join(lines) + "\n")


IMAGES = {name: noise(number) for number, name in enumerate("abcdef")}


def test_validation_names_in_the_training_list_are_counted(make_data_set: MakeDataSet) -> None:
    lists = {"train.txt": text(*"abcd"), "val.txt": text(*"dcef")}
    data = make_data_set({**writers(IMAGES), **lists})
    assert audit(data).problems == [
        "data.val: 2 of 4 validation images are also training images (lists: train 2): d, c; "
        "list each of them in one split only"
    ]
    assert leak_warning(open_split(data, "train"), open_split(data, "val")) == (
        "data.val: 2 of 4 validation images are also training images (first d), so mIoU is too "
        "high; see segtune data check"
    )


def test_start_of_a_training_run_and_of_a_search_warns_once_of_leaks(
    make_data_set: MakeDataSet, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lists = {"train.txt": text(*"abcd"), "val.txt": text(*"dcef")}
    data = make_data_set({**writers(IMAGES), **lists})
    config = ExperimentConfig.parse({"data": data.dump(), "model": {"encoder": "mit_nano"}})
    config = config.override({"schedule.batch_size": 2, "schedule.val_every": 1})
    path = tmp_path / "config.yaml"
    path.write_text(write_yaml(config.dump()))
    space = tmp_path / "space.yaml"
    space.write_text("optim.lr: {loguniform: [1.0e-5, 1.0e-3]}\n")
    check_study_data(load_study(space, path))
    Trainer.start(config, TrialDir(tmp_path / "run"), Ranks())
    leaks = [r for r in caplog.records if "2 of 4 validation images are also" in r.message]
    assert [record.levelname for record in leaks] == ["WARNING"] * 2


def test_images_that_num_images_leaves_out_do_not_leak(make_data_set: MakeDataSet) -> None:
    lists = {"train.txt": text(*"abcd"), "val.txt": text(*"dcef")}
    data = make_data_set({**writers(IMAGES), **lists}, num_images=2)
    assert audit(data).problems == []
    assert leak_warning(open_split(data, "train"), open_split(data, "val")) == ""


def test_training_list_of_sbd_with_images_of_the_validation_is_named(tmp_path: Path) -> None:
    root = tmp_path / "VOC2012"
    lists = root / "ImageSets" / "Segmentation"
    folders = ["JPEGImages", "SegmentationClass", "SegmentationClassAug"]
    for folder in [lists, *(root / name for name in folders)]:
        folder.mkdir(parents=True)
    for name, pixels in IMAGES.items():
        cv2.imwrite(str(root / "JPEGImages" / f"{name}.png"), pixels)
        cv2.imwrite(str(root / "SegmentationClassAug" / f"{name}.png"), MASK)
    (lists / "train.txt").write_text("a\nb\n")
    (lists / "aug.txt").write_text("b\nc\nd\ne\n")
    (lists / "val.txt").write_text("d\ne\nf\n")
    tree = {"layout": "voc", "root": str(root), "train": ["train", "aug"], "cache": "none"}
    problems = audit(DataConfig.parse({**tree, "classes": ["bg", "fg"]})).problems
    assert problems == [
        "data.val: 2 of 3 validation images are also training images (lists: aug 2): d, e; list "
        "each of them in one split only"
    ]


def test_name_that_is_listed_twice_is_a_problem(make_data_set: MakeDataSet) -> None:
    lists = {"train.txt": text("a", "b", "a", "c", "c"), "val.txt": text("d")}
    problems = audit(make_data_set({**writers(IMAGES), **lists})).problems
    assert problems == [
        "data.train: 2 names of the list train are in it more than once: a, c; remove the repeated "
        "lines"
    ]


def test_name_with_and_without_its_suffix_is_listed_twice_and_a_comment_is_not(
    make_data_set: MakeDataSet,
) -> None:
    train = "# mine\r\n# mine\r\na\r\nb\r\na.png\r\n".encode("utf-16")
    lists = {"train.txt": lambda path: path.write_bytes(train), "val.txt": text("d")}
    problems = audit(make_data_set({**writers(IMAGES), **lists})).problems
    assert problems == [
        "data.train: 1 name of the list train is in it more than once: a; remove the repeated lines"
    ]


def test_same_pixels_under_another_name_leak(make_data_set: MakeDataSet) -> None:
    images = {"train/a": noise(1), "train/b": noise(2), "val/x": noise(2), "val/y": noise(3)}
    data = make_data_set(writers(images))
    assert audit(data).problems == [
        "data.val: 1 of 2 validation images have the same pixels as a training image of another "
        f"name: first {data.root}/images/val/x.png and {data.root}/images/train/b.png; list each "
        "of them in one split only"
    ]


def test_symbolic_link_to_a_training_image_leaks(make_data_set: MakeDataSet) -> None:
    data = make_data_set(writers({"train/a": noise(1), "val/y": noise(3)}))
    for kind in ("images", "masks"):
        Path(data.root, kind, "val", "z.png").symlink_to(Path(data.root, kind, "train", "a.png"))
    (problem,) = audit(data).problems
    assert problem.startswith("data.val: 1 of 2 validation images have the same pixels")


def test_one_name_in_the_folders_of_both_splits_is_no_leak(make_data_set: MakeDataSet) -> None:
    data = make_data_set(writers({"train/001": noise(1), "val/001": noise(2)}))
    content = audit(data)
    assert (content.problems, content.notes) == ([], [])


@pytest.mark.parametrize("has_other_mask", [False, True])
def test_same_image_in_one_split_is_a_note_unless_its_masks_differ(
    has_other_mask: bool, make_data_set: MakeDataSet
) -> None:
    images = {"train/a": noise(1), "train/b": noise(1), "train/c": noise(2), "val/y": noise(3)}
    masks = {"train/b": MASK[:, ::-1]} if has_other_mask else {}
    data = make_data_set(writers(images, masks))
    content = audit(data)
    kind = "different" if has_other_mask else "equal"
    way_out = "the file with the right mask" if has_other_mask else "one file of each, unless "
    line = (
        f"data.train: 1 image with several names and {kind} masks: first {data.root}/images/train/"
        f"a.png and {data.root}/images/train/b.png; keep {way_out}"
        f"{'' if has_other_mask else 'this is meant'}"
    )
    found = (content.problems, content.notes)
    assert found == (([line], []) if has_other_mask else ([], [line]))


def test_images_of_a_single_colour_are_not_compared(make_data_set: MakeDataSet) -> None:
    blank = np.full((*MASK.shape, 3), 7, np.uint8)
    data = make_data_set(writers({"train/a": blank, "train/b": blank, "val/y": blank}))
    content = audit(data)
    assert (content.problems, content.notes) == ([], [])
