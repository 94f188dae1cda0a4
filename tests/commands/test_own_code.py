"""A model of the user's own through the command line, from a folder outside the repository."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from segtune.config.schema import ExperimentConfig
from segtune.config.yaml_io import write_yaml

ROOT = Path(__file__).parents[2]
MODEL = """
from torch import nn

class Net(nn.Module):
    head_prefixes = ("head.",)
    def __init__(self, num_classes):
        super().__init__()
        self.encoder, self.head = nn.Conv2d(3, 8, 3, 4, 1), nn.Conv2d(8, num_classes, 1)
    def forward(self, images):
        return self.head(self.encoder(images).relu())

def build(config, num_classes):
    print("own code runs")
    return Net(num_classes)
"""


@pytest.fixture
def folder(tmp_path: Path, tiny_config: ExperimentConfig) -> Path:
    """Return a folder with a config and the package that it names."""
    (tmp_path / "my_pkg").mkdir()
    (tmp_path / "my_pkg" / "models.py").write_text(MODEL)
    config = tiny_config.override({"model.name": "my_pkg.models:build", "schedule.epochs": 1})
    (tmp_path / "config.yaml").write_text(write_yaml(config.dump()))
    return tmp_path


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    # As the command that pip installs: sys.path holds no current folder.
    script = "import sys; from segtune.__main__ import main; raise SystemExit(main(sys.argv[1:]))"
    return subprocess.run(
        [sys.executable, "-P", "-c", script, *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_own_model_trains_and_a_checkpoint_alone_never_imports_it(folder: Path) -> None:
    trained = run(folder, "train", "--config", "config.yaml", "--out", "run")
    assert trained.returncode == 0, trained.stderr
    assert "own code runs" in trained.stdout

    refused = run(folder, "evaluate", "--checkpoint", "run")
    assert refused.returncode == 2
    assert "own code runs" not in refused.stdout
    assert "model.name is my_pkg.models:build" in refused.stderr
    assert "--config FILE" in refused.stderr

    evaluated = run(folder, "evaluate", "--checkpoint", "run", "--config", "config.yaml")
    assert evaluated.returncode == 0, evaluated.stderr
    assert "mIoU" in evaluated.stdout

    resumed = run(folder, "train", "--config", "config.yaml", "--out", "run", "--resume")
    assert resumed.returncode == 0, resumed.stderr
    started = run(
        folder, "train", "--config", "config.yaml", "--out", "second", "--init-from", "run"
    )
    assert started.returncode == 0, started.stderr


@pytest.mark.slow
def test_own_model_predicts_with_the_config_and_elsewhere_its_absence_is_explained(
    folder: Path, tmp_path: Path, shapes_root: Path
) -> None:
    assert run(folder, "train", "--config", "config.yaml", "--out", "run").returncode == 0
    image = str(next(shapes_root.rglob("*.png")))
    words = ("predict", "--checkpoint", str(folder / "run"), image)
    assert "--config FILE" in run(folder, *words).stderr
    predicted = run(folder, *words, "--config", "config.yaml")
    assert predicted.returncode == 0, predicted.stderr
    other = tmp_path / "elsewhere"
    other.mkdir()
    absent = run(other, *words, "--config", str(folder / "config.yaml"))
    assert absent.returncode == 2
    assert "no module or package 'my_pkg'" in absent.stderr
    assert f"it is {other} now" in absent.stderr


@pytest.mark.slow
def test_model_prints_the_size_of_an_own_model(folder: Path) -> None:
    printed = run(folder, "model", "config.yaml", "--seconds", "0.1", "--json")
    assert printed.returncode == 0, printed.stderr
    numbers = json.loads(printed.stdout.partition("own code runs\n")[2])
    assert numbers["encoder_parameters"] == 3 * 8 * 9 + 8
    assert numbers["head_parameters"] == 8 * 7 + 7
