"""Laws of the pictures that the report shows of the best trial and the config itself."""

import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from segtune.__main__ import main as program
from segtune.api import run_training
from segtune.config.schema import ExperimentConfig
from segtune.config.yaml_io import write_yaml
from segtune.runs.atomic import write_atomic
from segtune.runs.rundir import SearchDir
from segtune.training.comparison import (
    Chosen,
    Compared,
    Packed,
    Predicted,
    comparison_is_due,
    small_labels,
    write_comparison,
)
from segtune.tuning.preparation import prepare_study
from segtune.tuning.study_reader import load_study


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_config: ExperimentConfig) -> Path:
    """Return a search run of two trials: the config itself, hardly trained, and a better one."""
    folder = tmp_path_factory.mktemp("comparison")
    config = tiny_config.override({"optim.lr": 1e-6})
    space = {"optim.lr": {"loguniform": [1e-6, 1e-1]}}
    tree = {"config": config.dump(), "space": space, "search": {"trials": 2}}
    (folder / "s.yaml").write_text(write_yaml(tree))
    run = SearchDir(folder / "run")
    study = load_study(folder / "s.yaml")
    prepare_study(run, study)
    for number, lr in enumerate((1e-6, 3e-3)):
        params = {"optim.lr": lr}
        run_training(study.trial_config(params), run.trial(number).path)
        write_atomic(run.trial(number).params, json.dumps(params))
    return run.path


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> SearchDir:
    return SearchDir(shutil.copytree(trained, tmp_path / "run"))


def record_of(run: SearchDir) -> dict[str, Any]:
    record = run.read_pictures()
    assert record is not None
    return record


def test_confusion_matrix_is_that_of_the_best_validation(run: SearchDir) -> None:
    assert comparison_is_due(run)
    write_comparison(run, 3)
    assert not comparison_is_due(run)
    confusion, record = run.read_confusion(), record_of(run)
    assert confusion is not None
    trial = run.trial(int(confusion["trial"]))
    best = max((r.validation for r in trial.read_epochs() if r.validation), key=lambda v: v.miou)
    counts = np.array(confusion["matrix"])
    right = counts.diagonal()
    iou = right / np.maximum(1, counts.sum(0) + counts.sum(1) - right)
    assert iou == pytest.approx([value or 0.0 for value in best.class_iou], abs=1e-5)
    assert len(record["images"]) == 3
    gains = [image["best"] - image["baseline"] for image in record["images"]]
    assert gains == sorted(gains, reverse=True)
    for image in record["images"]:
        sizes = {cv2.imread(str(run.pictures / name)).shape for name in image["files"]}
        assert sizes == {(64, 64, 3)}
        assert len(image["files"]) == 4


def test_without_a_checkpoint_of_the_config_itself_the_worst_images_are_shown(
    run: SearchDir,
) -> None:
    shutil.rmtree(run.trial(0).checkpoints)
    write_comparison(run, 7)
    record = record_of(run)
    assert record["note"].startswith("no prediction of trial 0: ")
    scores = [image["best"] for image in record["images"]]
    assert scores == sorted(scores)
    assert [image["baseline"] for image in record["images"]] == [None] * 7


def test_absent_data_are_a_sentence_in_the_report(
    run: SearchDir, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for trial in run.trial_dirs():
        moved = trial.config.read_text().replace("layout: shapes", "layout: folder")
        trial.config.write_text(moved.replace("root: ", f"root: {tmp_path}/gone"))
    assert program(["report", str(run.path), "--pictures"]) == 0
    problem = record_of(run)["problem"]
    assert "gone" in problem
    page = run.report.read_text()
    assert "There are no pictures: " in page
    assert "<img" not in page
    assert f"no pictures in the report: {problem}" in caplog.text
    assert comparison_is_due(run)


def test_pictures_are_kept_if_they_cannot_be_drawn_again(run: SearchDir, tmp_path: Path) -> None:
    write_comparison(run, 1)
    for trial in run.trial_dirs():
        moved = trial.config.read_text().replace("layout: shapes", "layout: folder")
        trial.config.write_text(moved.replace("root: ", f"root: {tmp_path}/gone"))
    assert program(["report", str(run.path), "--pictures"]) == 0
    page = run.report.read_text()
    assert "They could not be drawn again: " in page
    assert page.count("<img") == 4


def test_report_command_draws_the_pictures(run: SearchDir) -> None:
    assert program(["report", str(run.path), "--pictures"]) == 0
    page = run.report.read_text()
    assert page.count("data:image/png;base64,") == 6 * 3
    assert "Confusion matrix of trial 0001" in page
    assert run.report.stat().st_size < 500_000


def test_two_thirds_of_the_pictures_are_gains_and_none_appears_twice() -> None:
    def compared(name: str, best: float, baseline: float) -> Compared:
        pixels = np.zeros((1, 1), np.uint16)
        return Compared(*(Predicted(name, s, pixels, pixels, pixels) for s in (best, baseline)))

    chosen = Chosen(3)
    for name, gain in (("a", 0.1), ("b", -0.2), ("c", 0.3), ("d", 0.0), ("e", -0.4)):
        chosen.add(compared(name, 0.5 + gain, 0.5))
    assert [row.best.name for row in chosen.rows()] == ["c", "a", "e"]
    few = Chosen(6)
    few.add(compared("a", 0.9, 0.5))
    assert [row.best.name for row in few.rows()] == ["a"]


def test_a_packed_prediction_is_small_and_has_the_same_labels() -> None:
    labels = np.zeros((256, 256), np.uint16)
    labels[:100, :100] = 1000
    image = np.zeros((256, 256, 3), np.uint8)
    predicted = Predicted("a", 0.25, image, labels, labels)
    packed = Packed.of(predicted)
    assert packed.png.nbytes < 5000
    other = Predicted("a", 0.75, image, labels, np.zeros_like(labels))
    assert packed.unpacked(other).accuracy == 0.25
    assert (packed.unpacked(other).labels == labels).all()


def test_labels_shrink_to_the_size_of_a_picture() -> None:
    labels = torch.arange(2).repeat_interleave(400).expand(200, 800)
    small = small_labels(labels)
    assert small.shape == (64, 256)
    assert small[0, 0] == 0
    assert small[0, -1] == 1
