"""`segtune data`: exit code 0 for a good data set, 2 and the list of problems for a bad one."""

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from segtune.config.yaml_io import write_yaml
from segtune.data_tools import main


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    """The config of a generated data set in VOC layout, under `tmp_path / "shapes"`."""
    root = tmp_path / "shapes"
    assert main(["shapes", "--out", str(root), "--train", "3", "--val", "1"]) == 0
    path = tmp_path / "config.yaml"
    path.write_text(
        write_yaml({"data": {"layout": "voc", "root": str(root), "classes": "labels.txt"}})
    )
    (root / "labels.txt").write_text("background\ndisc\nbox\ntriangle\nline\ndot\nring\n")
    return path


def test_check_prints_the_classes_of_a_good_data_set(
    config_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    masks = config_file.parent / "shapes" / "SegmentationClass"
    for number in range(3):  # so that each class of the validation is trained on
        shutil.copy(masks / "val_00000.png", masks / f"train_{number:05d}.png")
    assert main(["check", str(config_file)]) == 0
    printed = capsys.readouterr().out
    assert "triangle" in printed
    assert "3 training and 1 validation images, 7 classes" in printed
    assert "no errors" in printed


def test_check_exits_with_2_and_lists_the_problems(
    config_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = config_file.parent / "shapes/SegmentationClass/train_00001.png"
    cv2.imwrite(str(path), np.full((64, 64), 99, np.uint8))
    assert main(["check", str(config_file)]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("error: 1 error in the data set ")
    assert "train_00001.png: labels [99]" in printed.err
    assert "values  99 (4096 pixels)" in printed.out


def test_check_names_an_absent_root(config_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    absent = config_file.parent / "shape"
    assert main(["check", str(config_file), "--set", f"data.root={absent}"]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith(f"error: data.root: no folder '{absent}'; expected the data set")
    assert "did you mean 'shapes'?" in printed
