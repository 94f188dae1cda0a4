"""A model of the user's own through the command line, from a folder outside the repository."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from segtune.__main__ import main
from segtune.config.schema import ExperimentConfig, load_config
from segtune.config.yaml_io import write_yaml
from segtune.runs.rundir import SearchDir

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


class Commands:
    """Runs commands in this process, as if each began in a folder."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.monkeypatch = monkeypatch
        self.capsys = capsys
        # A command that pip has installed does not find the current folder in sys.path.
        self.path = [path for path in sys.path if path]

    def run(self, folder: Path, *words: str) -> tuple[int, str]:
        """Return the exit code, and stdout and stderr."""
        self.monkeypatch.chdir(folder)
        forget()
        self.monkeypatch.setattr(sys, "path", [*self.path])
        code = main(words)
        out, err = self.capsys.readouterr()
        return code, out + err


def forget() -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "my_pkg"]:
        del sys.modules[name]


@pytest.fixture
def commands(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Commands]:
    yield Commands(monkeypatch, capsys)
    forget()


def test_own_model_trains_and_a_checkpoint_alone_never_imports_it(
    folder: Path, commands: Commands
) -> None:
    train = ("train", "--config", "config.yaml", "--out", "run")
    code, text = commands.run(folder, *train)
    assert code == 0
    assert "own code runs" in text

    code, text = commands.run(folder, "evaluate", "--checkpoint", "run")
    assert code == 2
    assert "my_pkg" not in sys.modules
    assert "model.name is my_pkg.models:build" in text
    assert "--config FILE" in text

    evaluate = ("evaluate", "--checkpoint", "run", "--config", "config.yaml")
    code, text = commands.run(folder, *evaluate)
    assert code == 0
    assert "mIoU" in text

    assert commands.run(folder, *train, "--resume")[0] == 0
    assert commands.run(folder, *train[:-1], "second", "--init-from", "run")[0] == 0


def test_own_model_predicts_with_the_config_and_elsewhere_its_absence_is_explained(
    folder: Path, commands: Commands, shapes_root: Path
) -> None:
    assert commands.run(folder, "train", "--config", "config.yaml", "--out", "run")[0] == 0
    image = str(next(shapes_root.rglob("*.png")))
    predict = ("predict", "--checkpoint", str(folder / "run"), image)
    assert "--config FILE" in commands.run(folder, *predict)[1]
    assert commands.run(folder, *predict, "--config", "config.yaml")[0] == 0
    other = folder / "elsewhere"
    other.mkdir()
    code, text = commands.run(other, *predict, "--config", str(folder / "config.yaml"))
    assert code == 2
    assert "no module or package 'my_pkg'" in text
    assert f"it is {other} now" in text


@pytest.mark.slow
def test_model_prints_the_size_of_an_own_model(folder: Path) -> None:
    words = [sys.executable, "-P", "-m", "segtune", "model", "config.yaml", "--seconds", "0.1"]
    printed = subprocess.run(
        [*words, "--json"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    numbers = json.loads(printed.stdout.partition("own code runs\n")[2])
    assert numbers["encoder_parameters"] == 3 * 8 * 9 + 8
    assert numbers["head_parameters"] == 8 * 7 + 7


@pytest.mark.ray
def test_trials_of_a_search_find_the_package_of_the_folder_that_it_was_started_in(
    folder: Path,
) -> None:
    config = load_config(folder / "config.yaml").dump()
    study = {
        "config": config,
        "space": {"optim.lr": {"loguniform": [1e-5, 1e-1]}},
        "search": {
            "trials": 1,
            "scheduler": "none",
            "cpus_per_worker": 1.0,
            "corner_steps": 0,
        },
    }
    (folder / "study.yaml").write_text(write_yaml(study))
    script = "import sys; from segtune.__main__ import main; raise SystemExit(main(sys.argv[1:]))"
    searched = subprocess.run(
        [sys.executable, "-P", "-c", script, "search", "--space", "study.yaml", "--name", "own"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert searched.returncode == 0, searched.stderr + searched.stdout
    run = SearchDir(folder / "runs" / "own")
    assert list(run.trials.glob("*/checkpoints/best-*"))
    pictures = run.read_pictures()
    assert pictures is not None
    assert "problem" not in pictures, pictures
