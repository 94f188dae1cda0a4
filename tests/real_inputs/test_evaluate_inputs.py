"""`evaluate` on other classes, other folders and tiny images; one rank speaks for all."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from untrained import save_checkpoint

from segtune.__main__ import main as program
from segtune.config.schema import ExperimentConfig
from segtune.data.crop import resize_to_fit
from segtune.data.loader import ValLoader, normalize
from segtune.metrics import ConfusionMatrix
from segtune.training.distributed import Ranks
from segtune.training.evaluation import evaluate
from segtune.training.prediction import load_model
from segtune.training.tta import AugmentedInference
from segtune.training.windows import Windows

CPU = torch.device("cpu")
# Height and width. 1 x 20,000 pixels, resized to fit 64 x 64, has less than half a pixel.
TINY = [(3, 900), (900, 3), (1, 1), (20, 31), (1, 20_000)]


@pytest.fixture
def trained(tmp_path: Path, tiny_config: ExperimentConfig) -> Path:
    """Return the folder of a training run with an untrained checkpoint."""
    save_checkpoint(tmp_path / "run", tiny_config)
    return tmp_path / "run"


@pytest.fixture
def tiny_images(tmp_path: Path, tiny_config: ExperimentConfig) -> ExperimentConfig:
    """Return a config of two classes whose validation images are those of TINY."""
    rng = np.random.default_rng(0)
    for kind in ("images", "masks"):
        (tmp_path / "tiny" / kind / "val").mkdir(parents=True)
    for i, size in enumerate(TINY):
        image = Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8))
        mask = Image.fromarray(rng.integers(0, 2, size, np.uint8))
        image.save(tmp_path / f"tiny/images/val/{i}.png")
        mask.save(tmp_path / f"tiny/masks/val/{i}.png")
    data = {"data.layout": "folder", "data.root": str(tmp_path / "tiny")}
    return tiny_config.override({**data, "data.classes": ["a", "b"], "data.cache": "none"})


def test_every_pixel_of_a_tiny_validation_image_counts_once(
    tmp_path: Path, tiny_images: ExperimentConfig
) -> None:
    model, config, _ = load_model(save_checkpoint(tmp_path / "run", tiny_images), None, CPU)
    matrix = evaluate(model, ValLoader(config, 0, 1), Ranks(), config, 2, torch.float32)
    expected = ConfusionMatrix(2)
    for i, size in enumerate(TINY):
        rgb = np.asarray(Image.open(tmp_path / f"tiny/images/val/{i}.png"))
        mask = np.array(Image.open(tmp_path / f"tiny/masks/val/{i}.png"))
        expected.update(predict_by_hand(model, config, rgb), torch.from_numpy(mask).long()[None])
        assert expected.matrix.sum() == sum(h * w for h, w in TINY[: i + 1]), size
    assert torch.equal(matrix.matrix, expected.matrix)


def predict_by_hand(
    model: torch.nn.Module, config: ExperimentConfig, rgb: np.ndarray
) -> torch.Tensor:
    """Pad the normalised image to 32 pixels, and cut the padding off at pixels of the image."""
    resized = torch.from_numpy(resize_to_fit(rgb, config.data.resize).copy()).permute(2, 0, 1)
    height, width = resized.shape[-2:]
    canvas = torch.zeros(1, 3, max(32, height), max(32, width))
    canvas[..., :height, :width] = normalize(resized[None])
    with torch.no_grad():
        logits = model(canvas)
    if canvas.shape[-2:] != (height, width):
        logits = torch.nn.functional.interpolate(logits, canvas.shape[-2:], mode="bilinear")
        logits = logits[..., :height, :width]
    return torch.nn.functional.interpolate(logits, rgb.shape[:2], mode="bilinear").argmax(1)


@pytest.mark.parametrize("window", [32, 64])
def test_tiny_images_go_through_windows_flips_and_scales(
    tmp_path: Path, tiny_images: ExperimentConfig, window: int
) -> None:
    model, config, _ = load_model(save_checkpoint(tmp_path / "run", tiny_images), None, CPU)
    windows = Windows((window, window), (window // 2, window // 2))
    views = AugmentedInference(windows, flip=True, scales=(0.5, 1.0))
    matrix = evaluate(model, ValLoader(config, 0, 1), Ranks(), config, 2, torch.float32, views)
    assert matrix.matrix.sum() == sum(height * width for height, width in TINY)


@pytest.mark.parametrize("classes", ["[a,b,c]", "[a,b,c,d,e,f,g,h,i]"])
def test_another_number_of_classes_is_refused_with_both_counts(
    trained: Path, capsys: pytest.CaptureFixture[str], classes: str
) -> None:
    command = ["evaluate", "--checkpoint", str(trained), "--set", f"data.classes={classes}"]
    assert program(command) == 2
    error = capsys.readouterr().err
    assert f"data.classes: {classes.count(',') + 1} classes (a, b, c" in error
    assert "predicts 7 classes (background, disc, box and 4 more)" in error
    assert not list(trained.rglob("evaluation.csv"))


def test_other_names_of_the_same_number_are_warned_of(
    trained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    command = ["evaluate", "--checkpoint", str(trained), "--csv", str(tmp_path / "e.csv")]
    assert program(command) == 0
    assert "names differ" not in caplog.text
    names = "data.classes=[background,box,disc,triangle,ring,line,dot]"
    assert program([*command, "--set", names]) == 0
    assert "names differ from those that" in caplog.text
    assert "label 1 is 'box' here and 'disc' there" in caplog.text


@pytest.mark.parametrize("place", ["folder", "file/table.csv"])
def test_table_that_cannot_be_written_is_refused_before_the_evaluation(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], place: str
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("x")
    command = ["evaluate", "--checkpoint", str(trained), "--csv", str(tmp_path / place)]
    assert program(command) == 2
    captured = capsys.readouterr()
    assert f"--csv: {tmp_path / place} " in captured.err
    assert captured.out == ""


def test_show_dir_never_replaces_a_file_of_the_user(trained: Path, tmp_path: Path) -> None:
    show = tmp_path / "show"
    show.mkdir()
    (show / "val_00000.png").write_bytes(b"mine")
    command = ["evaluate", "--checkpoint", str(trained), "--csv", str(tmp_path / "e.csv")]
    assert program([*command, "--show-dir", str(show)]) == 1
    assert (show / "val_00000.png").read_bytes() == b"mine"
    assert len(list(show.glob("*.png"))) == 7


@pytest.mark.slow
def test_two_ranks_print_and_write_once(trained: Path, tmp_path: Path) -> None:
    single, double = tmp_path / "1.csv", tmp_path / "2.csv"
    assert program(["evaluate", "--checkpoint", str(trained), "--csv", str(single)]) == 0
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", "-m", "segtune.evaluate", "--checkpoint", str(trained)]
    command += ["--csv", str(double), "--show-dir", str(tmp_path / "show")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    out = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert out.returncode == 0, out.stderr
    assert out.stdout.count("per class results") == 1
    assert out.stdout.count("table: ") == 1
    assert out.stdout.count("7 overlays in") == 1
    assert double.read_text() == single.read_text()
    assert len(list((tmp_path / "show").glob("*.png"))) == 7
