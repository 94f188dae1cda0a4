"""Every shipped config checks, plans and trains on a small data set of its own layout."""

from pathlib import Path
from typing import Any

import pytest
from shipped import CONFIGS, STUDIES
from small_data import make_data

from segtune.__main__ import main as program
from segtune.config.schema import ExperimentConfig, load_config
from segtune.config.yaml_io import read_yaml, write_yaml
from segtune.data.layouts import class_names
from segtune.runs.rundir import TrialDir
from segtune.training import checkpoint
from segtune.training.checkpoint import Manifest
from segtune.training.distributed import Ranks
from segtune.training.network import build_network


def stem(path: Path) -> str:
    return path.stem


def at_small_scale(config: ExperimentConfig, root: Path) -> dict[str, Any]:
    """Return the changes that make a config train in seconds; the loss and the model stay."""
    warmup = min(config.schedule.warmup_epochs, 0.5)
    return {
        "data.root": str(root),
        "data.resize": [96, 72],
        "data.crop": [64, 64],
        "data.num_loaders": 0,
        "data.cache": "none",
        "model.weights": None,
        "schedule.epochs": 2,
        "schedule.warmup_epochs": warmup,
        "schedule.batch_size": 2,
        "schedule.accumulate": 1,
        "schedule.val_every": 1,
        "checkpoint.every": 1,
    }


def write_small_config(path: Path, folder: Path) -> Path:
    """Write a shipped config at small scale, and its data; return the config's file."""
    config = load_config(path)
    make_data(config, folder / "data")
    small = config.override(at_small_scale(config, folder / "data"))
    file = folder / "small.yaml"
    file.write_text(write_yaml(small.dump()))
    return file


@pytest.mark.slow
@pytest.mark.parametrize("path", CONFIGS, ids=stem)
def test_shipped_config_plans_and_trains_two_epochs_on_its_layout(
    path: Path, tmp_path: Path
) -> None:
    config = write_small_config(path, tmp_path)
    search = {"scheduler": "none", "corner_steps": 0}  # the training run takes steps
    study = write_study(tmp_path, {"optim.lr": {"loguniform": [1e-6, 1e-2]}}, search)
    assert program(["search", "--space", str(study), "--config", str(config), "--dry-run"]) == 0
    out = tmp_path / "run"
    assert program(["train", "--config", str(config), "--out", str(out)]) == 0
    epochs = TrialDir(out).read_epochs()
    assert [record.epoch for record in epochs] == [1, 2]
    assert all(record.losses["loss"] > 0 and record.miou is not None for record in epochs)


@pytest.mark.parametrize("path", STUDIES, ids=stem)
def test_shipped_study_plans_its_points_on_its_layout(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = read_yaml(path)[0]
    config = write_small_config(path.parent / tree["config"], tmp_path)
    space = tree["space"]
    if isinstance(space, str):
        space = read_yaml(path.parent / space)[0]
    search = {**tree["search"], "scheduler": "none"}
    if "init_from" in search:
        search["init_from"] = str(save_untrained(config, tmp_path / "before"))
    study = write_study(tmp_path, space, search)
    command = ["search", "--space", str(study), "--config", str(config), "--dry-run"]
    # The points of a study go with the length of its own config.
    schedule = load_config(path.parent / tree["config"]).schedule
    for name in ("epochs", "warmup_epochs"):
        command += ["--set", f"schedule.{name}={getattr(schedule, name)}"]
    assert program(command) == 0
    num_points = len(search.get("known_good", ())) + 1
    assert f"  {num_points - 1}: " in capsys.readouterr().out


def write_study(folder: Path, space: dict[str, Any], search: dict[str, Any] | None = None) -> Path:
    file = folder / "study.yaml"
    tree = {"space": space, "search": {"scheduler": "none"} if search is None else search}
    file.write_text(write_yaml(tree))
    return file


def save_untrained(config: Path, folder: Path) -> Path:
    """Write a checkpoint without training, and return the folder of its training run."""
    loaded = load_config(config)
    classes = class_names(loaded.data)
    model = build_network(loaded, len(classes), Ranks())
    manifest = Manifest(1, 1, 1e-6, 0.5, loaded.dump(), classes=tuple(classes))
    checkpoint.save(folder / "checkpoints", "best", model.state_dict(), None, manifest)
    return folder
