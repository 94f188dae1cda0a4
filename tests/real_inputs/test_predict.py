"""Every image gets its overlay at its own size, or one line of refusal, and the rest goes on."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from untrained import save_checkpoint

from segtune.__main__ import main as program
from segtune.config.schema import ExperimentConfig
from segtune.data.crop import resize_to_fit
from segtune.data.images import read_image
from segtune.data.label_colours import voc_colours
from segtune.data.loader import normalize
from segtune.training import drawing, evaluation
from segtune.training.drawing import Outputs, draw
from segtune.training.evaluation import label_bands, predict_labels
from segtune.training.prediction import load_model
from segtune.training.tta import AugmentedInference
from segtune.training.windows import Windows

CPU = torch.device("cpu")


@pytest.fixture
def trained(tmp_path: Path, tiny_config: ExperimentConfig) -> Path:
    """Return the folder of a training run with an untrained checkpoint."""
    save_checkpoint(tmp_path / "run", tiny_config)
    return tmp_path / "run"


def noise(width: int, height: int, mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels).convert(mode)


def predict(trained: Path, out: Path, *images: Path) -> int:
    return program(["predict", "--checkpoint", str(trained), "--out", str(out), *map(str, images)])


SIZES = [(1, 1), (900, 3), (3, 900), (20, 10), (31, 33), (101, 67), (2000, 1)]


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_overlay_has_the_size_of_its_image(
    trained: Path, tmp_path: Path, size: tuple[int, int]
) -> None:
    image = tmp_path / "a.png"
    noise(*size).save(image)
    assert predict(trained, tmp_path / "out", image) == 0
    assert Image.open(tmp_path / "out" / "a.png").size == size


def test_overlay_is_the_image_blended_with_the_colours_of_the_whole_prediction(
    trained: Path, tmp_path: Path
) -> None:
    image = tmp_path / "a.png"
    noise(90, 70).save(image)
    assert predict(trained, tmp_path / "out", image) == 0
    model, config, _ = load_model(trained, None, CPU)
    rgb = read_image(image, config.data)
    resized = resize_to_fit(rgb, config.data.resize).transpose(2, 0, 1)
    batch = normalize(torch.from_numpy(np.ascontiguousarray(resized))[None])
    with torch.no_grad():
        labels = predict_labels([model(batch)], rgb.shape[:2])[0].numpy()
    assert len(np.unique(labels)) > 1
    expected = cv2.addWeighted(rgb, 0.5, voc_colours(7)[labels], 0.5, 0)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out" / "a.png")), expected)


def test_padding_below_and_right_leaves_the_logits_of_the_image() -> None:
    # The model looks at each patch of 4x4 pixels alone, so the padding changes no patch inside.
    images = torch.rand(1, 3, 8, 40, generator=torch.Generator().manual_seed(0))
    (logits,) = AugmentedInference().logits(lambda x: torch.nn.functional.avg_pool2d(x, 4), images)
    assert logits.shape == (1, 3, 8, 40)
    patches = torch.nn.functional.avg_pool2d(images, 4)
    expected = torch.nn.functional.interpolate(patches, (8, 40), mode="bilinear")
    # The last two rows lie nearer to the padding than to the centre of their patch.
    torch.testing.assert_close(logits[..., :6, :], expected[..., :6, :])


def test_padding_has_the_colour_of_the_padding_in_training() -> None:
    seen = []

    def model(images: torch.Tensor) -> torch.Tensor:
        seen.append(images)
        return torch.nn.functional.avg_pool2d(images, 4)

    AugmentedInference().logits(model, torch.ones(1, 3, 3, 900))
    assert seen[0].shape == (1, 3, 32, 900)
    assert seen[0][..., :3, :].eq(1).all()
    assert seen[0][..., 3:, :].eq(0).all()  # ImageNet's mean


@pytest.mark.parametrize("mode", ["RGBA", "L", "LA", "P", "1", "CMYK"])
def test_image_of_any_mode_has_an_overlay(trained: Path, tmp_path: Path, mode: str) -> None:
    image = tmp_path / ("ünïcödé 图" + (".jpg" if mode == "CMYK" else ".png"))
    noise(64, 48, mode).save(image)
    assert predict(trained, tmp_path / "out", image) == 0
    assert Image.open(tmp_path / "out" / "ünïcödé 图.png").size == (64, 48)


def test_unreadable_images_are_refused_in_one_line_and_the_rest_goes_on(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    noise(64, 64).save(images / "a.png")
    (images / "b.png").write_bytes(b"")
    (images / "c\nd.png").write_text("<html>")
    noise(64, 64).save(images / "e.png")
    text = tmp_path / "notes.txt"
    text.write_text("no image")
    code = predict(trained, tmp_path / "out", images, text, tmp_path / "absent.jpg")
    captured = capsys.readouterr()
    assert code == 1
    assert "2 overlays in" in captured.out
    assert "4 of 6 inputs refused" in captured.out
    lines = captured.err.splitlines()
    assert len(lines) == 4
    for name in ("b.png", "c\\nd.png", "notes.txt", "absent.jpg: no such image"):
        assert sum(name in line and line.startswith("refused: ") for line in lines) == 1
    assert sorted(os.listdir(tmp_path / "out")) == ["a.png", "e.png"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing/*.jpg", "no file matches this pattern"),
        ("imag", "no such image; did you mean 'image'?"),
        ("image", "a folder without images"),
    ],
)
def test_without_any_image_the_command_ends_with_2_before_a_model_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, message: str
) -> None:
    (tmp_path / "image").mkdir()
    assert predict(tmp_path / "no checkpoint", tmp_path / "out", tmp_path / name) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_class_names_are_not_needed(trained: Path, tmp_path: Path) -> None:
    _, config, _ = load_model(trained, None, CPU)
    folder = save_checkpoint(tmp_path / "moved", config)
    manifest = folder / "manifest.json"
    text = manifest.read_text().replace(f'"{config.data.root}"', '"/gone"')
    manifest.write_text(text.replace('"classes": "shapes"', '"classes": "labels.txt"'))
    model, moved, _ = load_model(tmp_path / "moved", None, CPU)
    assert (moved.data.root, moved.data.classes) == ("/gone", "labels.txt")
    assert model(torch.zeros(1, 3, 64, 64)).shape[1] == 7


def test_large_image_is_predicted_in_windows_and_this_is_said(
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    noise(64, 64).save(tmp_path / "a.png")
    assert predict(trained, tmp_path / "whole", tmp_path / "a.png") == 0
    assert "windows" not in caplog.text
    monkeypatch.setattr(drawing, "WHOLE_PIXELS", 64 * 64 - 1)
    monkeypatch.setattr(drawing, "WINDOW", 32)
    assert predict(trained, tmp_path / "windows", tmp_path / "a.png") == 0
    assert "a.png: predicted in windows of 32 pixels; see --window" in caplog.text
    options = ["--window", "64"]
    command = ["predict", "--checkpoint", str(trained), "--out", str(tmp_path / "one"), *options]
    assert program([*command, str(tmp_path / "a.png")]) == 0
    whole, one = (tmp_path / name / "a.png" for name in ("whole", "one"))
    assert whole.read_bytes() == one.read_bytes()


def test_windows_of_bytes_give_the_same_as_windows_of_normalised_images(trained: Path) -> None:
    model, config, _ = load_model(trained, None, CPU)
    config = config.override({"data.resize": [128, 96]})
    rgb = np.asarray(noise(128, 96))
    batch = torch.from_numpy(rgb.transpose(2, 0, 1).copy())[None]
    with torch.no_grad():
        logits = AugmentedInference(Windows.coarse(64)).logits(model, normalize(batch))
        labels = predict_labels(logits, (96, 128))[0].numpy()
    expected = cv2.addWeighted(rgb, 0.5, voc_colours(7)[labels], 0.5, 0)
    views = AugmentedInference(Windows.coarse(64))
    drawing = draw(model, config, rgb, CPU, Outputs(Path()), views)
    assert drawing.overlay is not None
    assert np.array_equal(drawing.overlay[:, :, ::-1], expected)


def test_window_that_is_impossible_is_refused(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["predict", "--checkpoint", str(trained), "--window", "30", str(tmp_path)]
    assert program(command) == 2
    assert "--window: 30; allowed are multiples of 4 from 32" in capsys.readouterr().err


@pytest.mark.parametrize("limit", [1, 2000, 1 << 27])
@pytest.mark.parametrize("sizes", [((20, 30),), ((20, 30), (9, 14)), ((77, 119),)])
def test_labels_of_a_large_image_do_not_depend_on_how_many_rows_are_held(
    monkeypatch: pytest.MonkeyPatch, limit: int, sizes: tuple[tuple[int, int], ...]
) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = [torch.randn(1, 21, *size, generator=generator) for size in sizes]
    expected = predict_labels(logits, (77, 119))[0]
    monkeypatch.setattr(evaluation, "WIDE_VALUES", limit)
    monkeypatch.setattr("segtune.losses.row_bands.VALUES_PER_BAND", {"cpu": 21 * 119 * 5})
    bands = list(label_bands(logits, (77, 119)))
    assert len(bands) == 16
    labels = torch.cat([band for _, band in bands])
    assert (labels == expected).float().mean() > 0.9999  # a few ties in the last digit
