"""`segtune init`: folders as users have them become configs that train, and nothing is guessed."""

import io
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segtune import init, train
from segtune.config.schema import ExperimentConfig, load_config
from segtune.data.known_classes import NAMED_CLASSES, colours_of
from segtune.data.layouts import class_names, open_split
from segtune.data.masks import read_mask
from segtune.first_config.training import image_settings, space_settings
from segtune.tuning.study_reader import load_study

ROOT = Path(__file__).parents[2]
SHAPE = (76, 100)
RED, GREEN, BLACK = (200, 30, 30), (30, 180, 40), (0, 0, 0)


def labels_of(number: int) -> np.ndarray:
    """Return labels [76, 100] of 0, 1 and 2: a background with two rectangles."""
    labels = np.zeros(SHAPE, np.uint8)
    top, left = 5 + number % 20, 4 + 2 * (number % 15)
    labels[top : top + 24, left : left + 30] = 1
    labels[45:70, 60 - number % 20 : 90 - number % 20] = 2
    return labels


def image_of(labels: np.ndarray, number: int) -> Image.Image:
    """Return a noisy picture in which each label has its own brightness and colour."""
    noise = np.random.default_rng(number).integers(0, 40, (*labels.shape, 3))
    colours = np.array([[40, 40, 60], [190, 60, 60], [60, 170, 90]])[labels]
    return Image.fromarray((colours + noise).astype(np.uint8))


def coloured(labels: np.ndarray) -> Image.Image:
    return Image.fromarray(np.array([BLACK, RED, GREEN], np.uint8)[labels])


def save(root: Path, image: str, mask: str, number: int, write: Callable = coloured) -> None:
    labels = labels_of(number)
    for name, picture in ((image, image_of(labels, number)), (mask, write(labels))):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        picture.save(root / name)


def grey(values: list[int]) -> Callable[[np.ndarray], Image.Image]:
    return lambda labels: Image.fromarray(np.array(values, np.uint8)[labels])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "my cells"


def started(root: Path, *options: str, code: int = 0) -> ExperimentConfig:
    """Run init, and return the config that it has written."""
    out = root.parent / "out"
    assert init.main([str(root), "--out", str(out), "--name", "x", "--no-check", *options]) == code
    return load_config(out / "x.yaml")


def read_labels(config: ExperimentConfig, split: str = "train") -> set[int]:
    data = config.data
    num_classes = len(class_names(data))
    masks = [read_mask(pair.mask, data, num_classes) for pair in open_split(data, split)]
    return set(np.unique(np.stack(masks)).tolist())


def test_twenty_images_with_colours_and_an_odd_file_train_an_epoch(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(20):
        save(root, f"pictures_img/{number:02}.jpg", f"masks/{number:02}.png", number)
    (root / "pictures_img" / "07.jpg").write_bytes(b"\xff\xd8 damaged")
    (root / "pictures_img" / "notes.txt").write_text("taken in May")
    out = root.parent / "out"
    assert init.main([str(root), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "07.jpg" in printed
    assert "15 training and 4 validation images (a proposed split of the only set)" in printed
    config_file = out / "my_cells.yaml"
    config = load_config(config_file)
    names = ["background", f"colour_{bytes(GREEN).hex()}", f"colour_{bytes(RED).hex()}"]
    assert list(class_names(config.data)) == names
    study = load_study(out / "my_cells_study.yaml")
    assert study.config.data.resize == config.data.resize
    assert study.config.get("optim.lr") == study.points()[0]["optim.lr"]
    short = ["--set", "schedule.epochs=1", "--set", "schedule.warmup_epochs=0.5"]
    words = ["--config", str(config_file), "--out", str(root.parent / "run"), *short]
    assert train.main(words) == 0
    # The data set is as it was.
    assert sorted(p.name for p in root.iterdir()) == ["masks", "pictures_img"]


@pytest.mark.parametrize(
    ("values", "settings", "classes"),
    [
        ([0, 1, 2], {}, ("class_0", "class_1", "class_2")),
        ([0, 0, 255], {"label_map": {255: 1}}, ("background", "foreground")),
        ([1, 2, 3], {"reduce_zero_label": True}, ("class_1", "class_2", "class_3")),
        ([0, 1, 255], {}, ("background", "foreground")),
        ([0, 120, 240], {"label_map": {120: 1, 240: 2}}, ("class_0", "class_120", "class_240")),
    ],
)
def test_values_of_masks_become_labels(
    values: list[int], settings: dict[str, Any], classes: tuple[str, ...], root: Path
) -> None:
    for number in range(4):
        save(root, f"images/{number}.png", f"masks/{number}.png", number, grey(values))
    config = started(root)
    assert class_names(config.data) == classes
    assert {name: getattr(config.data, name) for name in settings} == settings
    assert read_labels(config) - {255} == set(range(len(classes)))


@pytest.mark.parametrize("split", [("train", "val"), ("training", "test"), ("Train", "Valid")])
@pytest.mark.parametrize("form", ["{kind}/{split}/{name}.png", "{split}/{kind}/{name}.png"])
def test_splits_of_the_data_set_are_used(form: str, split: tuple[str, str], root: Path) -> None:
    for number, part in enumerate((split[0], split[0], split[0], split[1], split[1])):
        place = [form.format(kind=kind, split=part, name=number) for kind in ("img", "labels")]
        save(root, place[0], place[1], number, grey([0, 1, 2]))
    config = started(root)
    assert (config.data.train, config.data.val) == ((split[0],), split[1])
    assert len(open_split(config.data, "train")) == 3
    assert len(open_split(config.data, "val")) == 2


def test_images_and_masks_in_one_folder_are_told_apart(root: Path) -> None:
    for number in range(5):
        save(root, f"{number}.jpg", f"{number}_mask.png", number, grey([0, 1, 2]))
    config = started(root)
    pairs = [*open_split(config.data, "train"), *open_split(config.data, "val")]
    assert len(pairs) == 5
    assert all(pair.mask == pair.image.replace(".jpg", "_mask.png") for pair in pairs)


def test_images_without_a_mask_are_left_out_or_refused(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(5):
        save(root, f"images/{number}.png", f"masks/{number}.png", number, grey([0, 1, 2]))
    (root / "masks" / "3.png").unlink()
    config = started(root)
    assert len(open_split(config.data, "train")) + len(open_split(config.data, "val")) == 4
    out = root.parent / "strict"
    assert init.main([str(root), "--out", str(out), "--leave-out", "no"]) == 2
    assert "1 image cannot be used" in capsys.readouterr().err
    assert not out.exists()


def test_voc_with_its_names_in_a_file_keeps_layout_and_names(root: Path) -> None:
    for number in range(4):
        place = f"JPEGImages/{number}.jpg", f"SegmentationClass/{number}.png"
        save(root, place[0], place[1], number, grey([0, 1, 255]))
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("0\n1\n2\n")
    (lists / "val.txt").write_text("3\n")
    (root / "labels.txt").write_text("tissue\nnucleus\n")
    config = started(root)
    assert config.data.layout == "voc"
    assert class_names(config.data) == ("tissue", "nucleus")
    assert read_labels(config) == {0, 1, 255}


def test_a_class_list_without_the_background_leaves_a_choice(root: Path) -> None:
    for number in range(4):
        save(root, f"images/{number}.png", f"masks/{number}.png", number, grey([0, 1, 2]))
    (root / "classes.txt").write_text("car\ntree\n")
    assert class_names(started(root).data) == ("background", "car", "tree")  # 0 is in most pixels
    for file in (root.parent / "out").iterdir():
        file.unlink()
    ignored = started(root, "--zero", "ignored")
    assert (class_names(ignored.data), ignored.data.reduce_zero_label) == (("car", "tree"), True)
    assert read_labels(ignored) == {0, 1, 255}


def test_cityscapes_is_recognised_by_its_names(root: Path) -> None:
    for split in ("train", "val"):
        for number in range(2):
            name = f"{split}/aachen/a_{number}"
            image = f"leftImg8bit/{name}_leftImg8bit.png"
            save(root, image, f"gtFine/{name}_gtFine_labelIds.png", number, grey([0, 7, 26]))
    config = started(root)
    assert class_names(config.data) == NAMED_CLASSES["cityscapes"]
    assert read_labels(config) == {0, 13, 255}


def test_colours_of_a_known_data_set_have_its_names(root: Path) -> None:
    colours = colours_of("camvid")
    stripes = np.arange(11).repeat(8)[:, None].repeat(64, 1)
    for number in range(3):
        for folder, pixels in (("images", stripes * 20), ("masks", colours[stripes])):
            (root / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(root / folder / f"{number}.png")
    config = started(root)
    assert class_names(config.data) == NAMED_CLASSES["camvid"]
    assert read_labels(config) == set(range(11))


def test_palettes_that_differ_are_read_by_their_colours(root: Path) -> None:
    def with_own_palette(labels: np.ndarray) -> Image.Image:
        order = [0, 2, 1] if labels[20, 20] else [0, 1, 2]
        palette = np.array([BLACK, RED, GREEN], np.uint8)
        image = Image.fromarray(np.argsort(order).astype(np.uint8)[labels], "P")
        image.putpalette(palette[order].tobytes())
        return image

    for number in range(8):
        place = f"images/{number}.png", f"masks/{number}.png"
        save(root, *place, 5 * number, with_own_palette)
    config = started(root, "--classes", "nothing,leaf,berry")
    assert config.data.dump()["palette"] == {
        "nothing": list(BLACK),
        "leaf": list(GREEN),
        "berry": list(RED),
    }
    assert read_labels(config) == {0, 1, 2}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--classes", "a,b"], "2 names, and the masks have 3 classes"),
        (["--val-share", "1.5"], "--val-share: allowed is a number between 0 and 1"),
        (["--name", "a/b"], "expected a name without a folder"),
        (["--set", "optim.lrr=1"], "optim.lrr: no such setting; did you mean 'optim.lr'"),
        (["--set", "data.masks=nowhere"], "nowhere"),
    ],
)
def test_wrong_options_are_one_message_and_nothing_is_written(
    options: list[str], message: str, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(4):
        save(root, f"images/{number}.png", f"masks/{number}.png", number, grey([0, 1, 2]))
    out = root.parent / "out"
    assert init.main([str(root), "--out", str(out), *options]) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_masks_that_number_objects_are_refused(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    numbers = np.arange(80 * 100, dtype=np.uint16).reshape(80, 100)
    for folder, pixels in (("images", np.zeros((80, 100), np.uint8)), ("masks", numbers)):
        (root / folder).mkdir(parents=True)
        for name in "ab":
            Image.fromarray(pixels).save(root / folder / f"{name}.png")
    assert init.main([str(root), "--out", str(root.parent / "out")]) == 2
    assert "number objects" in capsys.readouterr().err


def test_files_are_never_replaced(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(4):
        save(root, f"images/{number}.png", f"masks/{number}.png", number, grey([0, 1, 2]))
    out = root.parent / "out"
    out.mkdir()
    (out / "my_cells_study.yaml").write_text("mine")
    assert init.main([str(root), "--out", str(out)]) == 2
    assert "no file is replaced" in capsys.readouterr().err
    assert [path.name for path in out.iterdir()] == ["my_cells_study.yaml"]
    assert (out / "my_cells_study.yaml").read_text() == "mine"


def test_without_a_folder_it_is_the_generated_data_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert init.main([]) == 0
    study = load_study("shapes_study.yaml")
    shipped = ROOT / "configs" / "shapes_segformer_b0.yaml"
    changes = {"data.root": study.config.data.root}
    assert study.config == load_config(shipped).override(changes)
    printed = capsys.readouterr().out
    assert "segtune train --config shapes.yaml" in printed


def test_the_space_is_the_shipped_one_with_the_learning_rate() -> None:
    shipped = ROOT / "search_spaces" / "loss_weights.yaml"
    ours = space_settings(1e-3)
    plain = {
        name: {key: value for key, value in body.items() if key not in ("prior", "confidence")}
        for name, body in ours.items()
    }
    dimensions = load_study(shipped).space.dump()
    assert {name: plain[name] for name in dimensions} == dimensions
    assert ours["optim.lr"] == {"loguniform": [1e-4, 1e-2], "prior": 1e-3, "confidence": "medium"}


def test_image_sizes_follow_from_the_images_and_the_machine() -> None:
    assert image_settings({(480, 360): 9}, has_gpu=False) == ([256, 192], 160)
    assert image_settings({(480, 360): 9}, has_gpu=True) == ([480, 360], 352)
    assert image_settings({(2048, 1024): 9}, has_gpu=True) == ([1024, 512], 512)
    assert image_settings({(500, 375): 5, (375, 375): 4}, has_gpu=True) == ([1500, 375], 352)
    assert image_settings({(20, 20): 2}, has_gpu=True) == ([32, 32], 32)


@pytest.mark.parametrize(
    ("options", "zero", "names"),
    [
        ([], "ignored\n", ("car", "tree")),
        ([], "\n", ("background", "car", "tree")),
        (["--yes"], "ignored\n", ("background", "car", "tree")),
    ],
)
def test_a_terminal_is_asked_what_the_masks_leave_open(
    options: list[str], zero: str, names: tuple[str, ...], root: Path
) -> None:
    for number in range(4):
        save(root, f"images/{number}.png", f"masks/{number}.png", number, grey([0, 1, 2]))
    (root / "classes.txt").write_text("car\ntree\n")
    controller, terminal = pty.openpty()
    os.write(controller, zero.encode())
    words = [sys.executable, "-m", "segtune.init", str(root), "--name", "x", "--no-check", *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    options = {"cwd": root.parent, "env": environment, "check": True}
    subprocess.run(words, stdin=terminal, stdout=terminal, **options)
    assert class_names(load_config(root.parent / "x.yaml").data) == names


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--weights", "absent.pth"], "--weights"),
        (["--set", "model.weights.x=1"], "--set: model.weights"),
    ],
)
def test_what_cannot_be_in_a_config_is_one_message(
    options: list[str], message: str, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(4):
        save(root, f"images/{number}.png", f"masks/{number}.png", number, grey([0, 1, 2]))
    assert init.main([str(root), "--out", str(root.parent), "--no-check", *options]) == 2
    assert f"error: {message}" in capsys.readouterr().err
    assert not list(root.parent.glob("*.yaml"))


@pytest.mark.parametrize("options", [["--classes", "a,b"], ["--weights", "hub"], ["--seed", "1"]])
def test_answers_about_data_need_the_data(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert init.main(["--out", str(tmp_path), "--no-check", *options]) == 2
    assert f"{options[0]}: needs DATA" in capsys.readouterr().err


def test_end_of_input_instead_of_an_answer_is_one_message(
    monkeypatch: pytest.MonkeyPatch, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(4):
        save(root, f"images/{number}.png", f"masks/{number}.png", number, grey([0, 1, 2]))
    (root / "classes.txt").write_text("car\ntree\n")
    monkeypatch.setattr(init, "_asks", lambda arguments: True)
    monkeypatch.setattr("sys.stdin", io.StringIO())
    assert init.main([str(root), "--out", str(root.parent), "--no-check"]) == 2
    assert "--yes takes all proposals" in capsys.readouterr().err
