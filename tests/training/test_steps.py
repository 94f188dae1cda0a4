"""Laws of a schedule in steps: its length, its last epoch, its warmup and its resume."""

import json
from pathlib import Path
from typing import Any

import pytest

from segtune.api import run_training
from segtune.config.schedule_config import ScheduleConfig
from segtune.config.schema import ExperimentConfig, load_config
from segtune.config.yaml_io import write_yaml
from segtune.errors import ConfigError
from segtune.runs.rundir import TrialDir
from segtune.training.distributed import Ranks
from segtune.training.trainer import Trainer
from segtune.tuning.study_reader import load_study


@pytest.fixture
def in_steps(tiny_config: ExperimentConfig) -> ExperimentConfig:
    """Return a config of 7 steps: 24 images in batches of 8 are 3 steps per epoch."""
    return tiny_config.override({"schedule.steps": 7, "schedule.warmup_steps": 2})


def test_training_ends_after_the_steps_and_the_last_epoch_is_shorter(
    in_steps: ExperimentConfig, tmp_path: Path
) -> None:
    assert run_training(in_steps, tmp_path).verdict.state == "completed"
    epochs = TrialDir(tmp_path).read_epochs()
    assert [(record.epoch, record.step) for record in epochs] == [(1, 3), (2, 6), (3, 7)]
    # Warmup of 2 steps, then (1 - progress) over the other 5: the peak is 1e-3.
    assert [record.lr for record in epochs] == pytest.approx([1e-3, 0.25e-3, 0.0])
    assert epochs[-1].miou is not None
    assert load_config(tmp_path / "config.yaml").schedule.epochs == 3


def test_a_resumed_schedule_in_steps_equals_an_unbroken_one(
    in_steps: ExperimentConfig, tmp_path: Path
) -> None:
    run_training(in_steps, tmp_path / "unbroken")
    broken = Trainer.start(in_steps, TrialDir(tmp_path / "broken"), Ranks())
    next(broken.epochs())
    run_training(in_steps, tmp_path / "broken", resume=True)
    first, second = (
        [
            {key: value for key, value in json.loads(line).items() if key not in TIMES}
            for line in (tmp_path / name / "epochs.jsonl").read_text().splitlines()
        ]
        for name in ("unbroken", "broken")
    )
    assert first == second


TIMES = ("seconds", "ended")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 5, "warmup_steps": 5}, "warmup_steps must be less than steps, got 5 of 5"),
        ({"warmup_steps": 5, "by": "epoch"}, "warmup_steps needs by: step"),
    ],
)
def test_a_warmup_that_does_not_fit_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ScheduleConfig.parse(changes)


def test_a_search_counts_in_epochs(in_steps: ExperimentConfig, tmp_path: Path) -> None:
    study = {"config": in_steps.dump(), "space": {"optim.lr": {"loguniform": [1e-5, 1e-1]}}}
    (tmp_path / "s.yaml").write_text(write_yaml(study))
    with pytest.raises(ConfigError, match=r"schedule\.steps: a search counts in epochs"):
        load_study(tmp_path / "s.yaml")
