"""`predict` and `evaluate`: label images, scores as tables and JSON, and windows."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from segtune.__main__ import main as program
from segtune.config.schema import ExperimentConfig
from segtune.data.crop import resize_to_fit
from segtune.data.images import read_image
from segtune.data.known_classes import colours_of, voc_colours
from segtune.data.layouts import class_names
from segtune.data.loader import normalize
from segtune.data.masks import read_mask
from segtune.errors import ConfigError
from segtune.models.build import build_model
from segtune.training import checkpoint
from segtune.training.evaluation import predict_labels
from segtune.training.label_images import (
    colours_of_classes,
    label_dtype,
    label_offset,
    write_label_image,
)
from segtune.training.overlays import is_overlay
from segtune.training.prediction import load_model

CPU = torch.device("cpu")


def save_model(run: Path, config: ExperimentConfig) -> Path:
    """Write a checkpoint of random weights into the folder of a training run; return the folder."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build_model(config.model, len(class_names(config.data)))
    manifest = checkpoint.Manifest(1, step=1, lr=1e-3, miou=0.5, config=config.dump())
    checkpoint.save(run / "checkpoints", "best", model.state_dict(), None, manifest)
    return run


@pytest.fixture
def trained(tmp_path: Path, tiny_config: ExperimentConfig) -> Path:
    return save_model(tmp_path / "run", tiny_config)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Return a folder with two images of different sizes."""
    rng = np.random.default_rng(0)
    (tmp_path / "photos" / "sub").mkdir(parents=True)
    for name, size in (("a.jpg", (48, 70)), ("sub/b.png", (101, 67))):
        Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(tmp_path / "photos" / name)
    return tmp_path / "photos"


def predict(run: Path, *arguments: str | Path) -> int:
    return program(["predict", "--checkpoint", str(run), *map(str, arguments)])


def evaluate(run: Path, *arguments: str | Path) -> int:
    return program(["evaluate", "--checkpoint", str(run), *map(str, arguments)])


def labels_by_hand(run: Path, image: Path) -> np.ndarray:
    model, config, _ = load_model(run, None, CPU)
    rgb = read_image(image, config.data)
    resized = resize_to_fit(rgb, config.data.resize).transpose(2, 0, 1)
    with torch.no_grad():
        logits = model(normalize(torch.from_numpy(np.ascontiguousarray(resized))[None]))
    return predict_labels([logits], rgb.shape[:2])[0].numpy()


def test_label_images_hold_the_predicted_labels_and_the_colours_of_the_classes(
    trained: Path,
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert predict(trained, "--labels", tmp_path / "labels", photos) == 0
    expected = f"2 label images in {tmp_path / 'labels'}: the first class has the value 0\n"
    assert capsys.readouterr().out == expected
    for name in ("a.jpg", "sub/b.png"):
        image = Image.open(tmp_path / "labels" / Path(name).with_suffix(".png"))
        assert image.mode == "P"
        labels = np.asarray(image)
        assert len(np.unique(labels)) > 1
        assert np.array_equal(labels, labels_by_hand(trained, photos / name))
        colours = np.asarray(image.convert("RGB"))
        assert np.array_equal(colours, voc_colours(7)[labels])
    assert not (tmp_path / "predictions").exists()  # no overlays if only labels are asked for


def test_labels_and_overlays_are_written_together_and_read_as_masks(
    trained: Path, photos: Path, tmp_path: Path, tiny_config: ExperimentConfig
) -> None:
    out, labels = tmp_path / "out", tmp_path / "labels"
    assert predict(trained, "--show-dir", out, "--labels", labels, photos / "a.jpg") == 0
    assert sorted(path.name for path in (*out.iterdir(), *labels.iterdir())) == ["a.png"] * 2
    assert Image.open(out / "a.png").mode == "RGB"
    mask = read_mask(labels / "a.png", tiny_config.data, 7)
    assert np.array_equal(mask, labels_by_hand(trained, photos / "a.jpg"))


def test_label_image_never_replaces_a_file_of_the_user_but_an_earlier_label_image(
    trained: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = tmp_path / "labels"
    labels.mkdir()
    (labels / "a.png").write_bytes(b"mine")
    for _ in range(2):
        assert predict(trained, "--labels", labels, photos) == 1
        captured = capsys.readouterr()
        assert "its label image would replace" in captured.err
        assert "choose another folder for the label images" in captured.err
        assert "1 label images in" in captured.out
        assert (labels / "a.png").read_bytes() == b"mine"
        assert is_overlay(labels / "sub" / "b.png")
    # They are no images to predict, either.
    shutil.copytree(labels / "sub", photos / "labels")
    assert predict(trained, "--labels", tmp_path / "again", photos) == 0
    assert len(list((tmp_path / "again").rglob("*.png"))) == 2


@pytest.mark.parametrize("option", ["--out", "--show-dir"])
def test_labels_and_overlays_have_two_folders(
    trained: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    out = tmp_path / "out"
    assert predict(trained, option, out, "--labels", f"{out}/../out", photos) == 2
    assert "is the folder of --out too" in capsys.readouterr().err
    assert predict(trained, "--label-offset", "1", photos) == 2
    assert "--label-offset: needs --labels DIR" in capsys.readouterr().err


def test_labels_of_ade20k_begin_with_1_as_in_its_mask_files(
    tmp_path: Path, photos: Path, tiny_config: ExperimentConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = {"data.classes": "ade20k", "data.reduce_zero_label": True}
    run = save_model(tmp_path / "run", tiny_config.override(changes))
    expected = labels_by_hand(run, photos / "a.jpg")
    for options, first in (([], 1), (["--label-offset", "0"], 0)):
        folder = tmp_path / f"from{first}"
        assert predict(run, "--labels", folder, *options, photos / "a.jpg") == 0
        out = capsys.readouterr().out
        image = Image.open(folder / "a.png")
        assert np.array_equal(np.asarray(image), expected + first)
        assert np.array_equal(np.asarray(image.convert("RGB")), colours_of("ade20k")[expected])
        hint = "as in the mask files; --label-offset 0" if first else "in the mask files it has 1"
        assert f"the first class has the value {first}" in out
        assert hint in out
    # With the offset, the label image is a mask of the same data set.
    data = tiny_config.override(changes).data
    assert np.array_equal(read_mask(tmp_path / "from1" / "a.png", data, 150), expected)


@pytest.mark.parametrize(
    ("num_classes", "offset", "dtype"),
    [(2, 0, np.uint8), (256, 0, np.uint8), (256, 1, np.uint16), (257, 0, np.uint16)],
)
def test_labels_above_255_take_16_bits(
    tmp_path: Path, num_classes: int, offset: int, dtype: type
) -> None:
    assert label_dtype(num_classes, offset) is dtype
    labels = (np.arange(num_classes).reshape(1, -1) + offset).astype(dtype)
    write_label_image(tmp_path / "a.png", labels, voc_colours(num_classes), offset)
    image = Image.open(tmp_path / "a.png")
    assert image.mode == ("P" if dtype is np.uint8 else "I;16")
    assert np.array_equal(np.asarray(image), labels)
    assert is_overlay(tmp_path / "a.png")


def test_palette_has_256_entries_and_8_bits_per_pixel(tmp_path: Path) -> None:
    write_label_image(tmp_path / "a.png", np.array([[1, 2]], np.uint8), voc_colours(2) + 1, 1)
    assert (tmp_path / "a.png").read_bytes()[24] == 8  # bit depth in IHDR
    palette = Image.open(tmp_path / "a.png").getpalette() or []
    assert palette[:12] == [0, 0, 0, 1, 1, 1, 129, 1, 1, 0, 0, 0]
    assert len(palette) == 768


def test_offset_that_no_png_can_hold_is_refused(
    trained: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigError, match=r"--label-offset: 65530 .* the largest offset is 65529"):
        label_dtype(7, 65_530)
    options = ["--labels", tmp_path / "l", "--label-offset", "65530"]
    assert predict(trained, *options, photos) == 2
    assert "the largest of 7 labels 65536" in capsys.readouterr().err


def test_colours_are_those_of_the_palette_of_the_data_set(
    tmp_path: Path, tiny_config: ExperimentConfig
) -> None:
    (tmp_path / "colours.txt").write_text("10 20 30 sky\n40 50 60 road\n")
    changes = {
        "data.root": str(tmp_path),
        "data.layout": "folder",
        "data.classes": ["sky", "road"],
        "data.palette": "colours.txt",
    }
    data = tiny_config.override(changes).data
    colours = colours_of_classes(data, ("sky", "road"), 2)
    assert colours.tolist() == [[10, 20, 30], [40, 50, 60]]
    (tmp_path / "colours.txt").unlink()  # the data set is gone
    assert np.array_equal(colours_of_classes(data, ("sky", "road"), 2), voc_colours(2))


def test_offset_follows_the_data_set_unless_it_is_chosen(tiny_config: ExperimentConfig) -> None:
    ade20k = ExperimentConfig().override({"data.layout": "ade20k"}).data
    assert [label_offset(ade20k, chosen) for chosen in (None, 0, 7)] == [1, 0, 7]
    assert label_offset(tiny_config.data, None) == 0


def test_evaluate_writes_labels_from_which_its_scores_follow(
    trained: Path, tmp_path: Path, tiny_config: ExperimentConfig
) -> None:
    folder, scores = tmp_path / "labels", tmp_path / "s.json"
    options = ["--window", "40,48", "--stride", "21,13", "--flip"]
    assert evaluate(trained, "--labels", folder, "--json", scores, *options) == 0
    root = Path(tiny_config.data.root)
    right = total = 0
    for path in folder.glob("*.png"):
        mask = np.asarray(Image.open(root / "SegmentationClass" / path.name))
        valid = mask != 255
        right += int((np.asarray(Image.open(path)) == mask)[valid].sum())
        total += int(valid.sum())
    assert len(list(folder.glob("*.png"))) == 7
    assert json.loads(scores.read_text())["means"]["aAcc"] == pytest.approx(right / total)


def test_metrics_are_columns_of_the_table_and_keys_of_the_json(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, scores = tmp_path / "t.csv", tmp_path / "s.json"
    files = ["--csv", table, "--json", scores]
    assert evaluate(trained, *files, "--metrics", "iou", "mDice", "mFscore", "--beta", "2") == 0
    out = capsys.readouterr().out
    columns = ["IoU", "Acc", "Dice", "Fscore", "Precision", "Recall"]
    rows = list(csv.reader(table.open()))
    assert rows[0] == ["Class", *columns]
    tree = json.loads(scores.read_text())
    assert tree["beta"] == 2.0
    assert list(tree["means"]) == ["aAcc", *(f"m{column}" for column in columns)]
    for row, scores_of_class in zip(rows[1:-2], tree["classes"], strict=True):
        assert list(scores_of_class)[:7] == ["name", *columns]
        assert row[0] == scores_of_class["name"]
        values = [scores_of_class[column] for column in columns]
        assert row[1:] == ["nan" if v is None else f"{100 * v:.2f}" for v in values]
        if scores_of_class["labelled_pixels"]:
            recall = scores_of_class["Recall"] * scores_of_class["labelled_pixels"]
            precision = scores_of_class["Precision"] or 0
            assert recall == pytest.approx(precision * scores_of_class["predicted_pixels"])
    assert rows[-2][1:] == [f"{100 * tree['means'][f'm{column}']:.2f}" for column in columns]
    header = next(line for line in out.splitlines() if "Class" in line)
    assert [cell.strip() for cell in header.strip("|").split("|")] == ["Class", *columns]
    assert "mFscore leaves out" in out


def test_default_table_has_iou_and_acc_alone(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(trained, "--csv", tmp_path / "t.csv") == 0
    out = capsys.readouterr().out
    assert next(csv.reader((tmp_path / "t.csv").open())) == ["Class", "IoU", "Acc"]
    assert "mDice" not in out
    assert "leaves out" not in out
    assert not list(tmp_path.glob("*.json"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--beta", "2"], "--beta: only the F-score has it"),
        (["--window", "31"], "val.window.0: allowed is"),
        (["--window", "64", "--stride", "65"], "stride [65, 65] is larger than window [64, 64]"),
        (["--stride", "40"], "stride [40, 40] needs a window"),
        (["--json", "."], "--json: . is a folder; expected a file, as in table.json"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    trained: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert evaluate(trained, *options) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--metrics", "iuo"], "invalid choice: 'iuo' (choose from"),
        (["--metrics", "fscore", "--beta", "0"], "0: expected a number above 0"),
        (["--window", "wide"], "wide: expected a number of pixels, or height and width"),
        (["--labels", "x", "--label-offset", "-1"], "expected"),
    ],
)
def test_words_that_no_option_takes_are_refused(
    trained: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as stop:
        evaluate(trained, *options)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_options_for_windows_are_the_settings_of_val(trained: Path, tmp_path: Path) -> None:
    by_options, by_settings, whole = (tmp_path / name for name in ("o", "s", "w"))
    options = ["--window", "40x48", "--stride", "21"]
    settings = ["val.mode=slide", "val.window=[40, 48]", "val.stride=[21, 21]"]
    assert evaluate(trained, "--csv", by_options, *options) == 0
    sets = [word for setting in settings for word in ("--set", setting)]
    assert evaluate(trained, "--csv", by_settings, *sets) == 0
    assert evaluate(trained, "--csv", whole) == 0
    assert by_options.read_text() == by_settings.read_text() != whole.read_text()


def test_windows_of_the_config_are_those_of_evaluate_unless_an_option_overrides_them(
    tmp_path: Path, tiny_config: ExperimentConfig, trained: Path
) -> None:
    changes = {"val.mode": "slide", "val.window": [40, 48], "val.stride": [21, 21]}
    run = save_model(tmp_path / "slides", tiny_config.override(changes))
    tables = {name: tmp_path / name for name in ("slide", "same", "whole", "plain", "other")}
    assert evaluate(run, "--csv", tables["slide"]) == 0
    assert evaluate(trained, "--csv", tables["same"], "--window", "40,48", "--stride", "21") == 0
    assert evaluate(run, "--csv", tables["whole"], "--set", "val.mode=whole") == 0
    assert evaluate(trained, "--csv", tables["plain"]) == 0
    assert evaluate(run, "--csv", tables["other"], "--window", "33") == 0
    text = {name: path.read_text() for name, path in tables.items()}
    assert text["slide"] == text["same"] != text["plain"]
    assert text["whole"] == text["plain"]
    assert text["other"] not in (text["slide"], text["plain"])
