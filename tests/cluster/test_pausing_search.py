"""Searches on a real local Ray whose trials are paused and go on from their checkpoints."""

import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from segtune.api import run_study
from segtune.config.schema import ExperimentConfig
from segtune.config.yaml_io import write_yaml
from segtune.runs.records import EpochRecord
from segtune.runs.results import read_trials
from segtune.runs.rundir import SearchDir
from segtune.tuning.study_reader import load_study

pytestmark = [pytest.mark.ray, pytest.mark.slow]

EPOCHS = 4  # rungs at 1 and 2


@pytest.fixture
def study_file(tiny_config: ExperimentConfig, tmp_path: Path) -> Path:
    """Return the file of a study whose trials all train the same.

    Only the interval of their checkpoints differs, and it is at least as long as a trial. Of trials
    with equal scores, the older ones go on first. So trial 1 waits at rung 1 until trial 3 is
    there, and then at rung 2; trials 2 and 3 wait at rung 1.
    """
    config = {"schedule.epochs": EPOCHS, "checkpoint.every": EPOCHS, "checkpoint.keep_trials": 1}
    tree = {
        "config": tiny_config.override(config).dump(),
        "space": {"checkpoint.every": {"choice": list(range(EPOCHS, EPOCHS + 20))}},
        "search": {
            "trials": 4,
            "sampler": "random",
            "scheduler": {"asha": {"grace_epochs": 1, "reduction": 2, "order": "score"}},
            "corner_steps": 0,
            "pictures": 0,
            "cpus_per_worker": 1.0,
            "max_concurrent": 1,
        },
    }
    (tmp_path / "s.yaml").write_text(write_yaml(tree))
    return tmp_path / "s.yaml"


def command(study_file: Path, name: str, *options: str) -> list[str]:
    search = [sys.executable, "-m", "segtune.search", "--space", str(study_file)]
    return [*search, "--out", str(study_file.parent), "--name", name, *options]


def ends(run: SearchDir) -> list[tuple[Any, ...]]:
    return [(t.params, t.state, t.epoch, t.miou) for t in read_trials(run)]


def epochs_without_times(run: SearchDir, number: int) -> list[EpochRecord]:
    records = run.trial(number).read_epochs()
    return [replace(record, seconds=0, ended=0) for record in records]


def check_paused_and_continued(run: SearchDir) -> None:
    """Check what became of the four trials: none has trained an epoch twice, or another way."""
    trials = read_trials(run)
    assert [(t.state, t.epoch) for t in trials] == [
        ("completed", 4),
        ("paused", 2),
        ("paused", 1),
        ("paused", 1),
    ]
    assert [len(run.trial(number).read_attempts()) for number in range(4)] == [1, 2, 1, 1]
    whole = epochs_without_times(run, 0)
    for trial in trials[1:]:
        assert epochs_without_times(run, trial.number)[: trial.epoch] == whole[: trial.epoch]
    second = run.trial(1).read_attempts()[1]
    assert second.paused is not None
    # The record of epoch 1 is that of the first attempt.
    first_epoch, second_epoch = run.trial(1).read_epochs()[:2]
    assert second.started is not None
    assert first_epoch.ended < second.paused < second.started < second_epoch.ended


def checkpoints(run: SearchDir, number: int) -> list[str]:
    return sorted(path.name for path in run.trial(number).checkpoints.glob("last-*"))


def test_paused_trial_goes_on_from_its_checkpoint(cluster: None, study_file: Path) -> None:
    run_study(load_study(study_file), study_file.parent, "a")
    run = SearchDir(study_file.parent / "a")
    check_paused_and_continued(run)
    assert [checkpoints(run, n) for n in range(1, 4)] == [
        ["last-00001", "last-00002"],
        ["last-00001"],
        ["last-00001"],
    ]
    # With four more trials, two more may go on after rung 1, and two after rung 2.
    run_study(load_study(study_file, search={"trials": 8}), study_file.parent, "a", resume=True)
    states = [(t.state, t.epoch) for t in read_trials(run)]
    assert states == [("completed", 4)] * 2 + [("paused", 2)] * 2 + [("paused", 1)] * 4
    for number in range(8):
        trained = epochs_without_times(run, number)
        assert trained == epochs_without_times(run, 0)[: len(trained)]


def test_search_that_is_killed_between_pause_and_resume_ends_as_one_that_is_not(
    study_file: Path,
) -> None:
    run = SearchDir(study_file.parent / "killed")
    with subprocess.Popen(
        command(study_file, "killed"), stdout=subprocess.DEVNULL, start_new_session=True
    ) as driver:
        # Trial 1 is paused by then, and goes on after trial 3.
        while not run.trial(2).attempts.exists():
            assert driver.poll() is None
            time.sleep(0.02)
        driver.send_signal(signal.SIGKILL)
    verdict = run.trial(1).read_verdict()
    assert verdict is not None
    assert verdict.state == "paused"
    assert len(run.trial(1).read_attempts()) == 1
    resumed = subprocess.run(
        command(study_file, "killed", "--resume"), capture_output=True, text=True, check=False
    )
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert [(t.state, t.epoch) for t in read_trials(run)] == [
        ("completed", 4),
        ("paused", 2),
        ("paused", 1),
        ("paused", 1),
    ]
    assert len(run.trial(1).read_attempts()) == 2
    assert epochs_without_times(run, 1) == epochs_without_times(run, 0)[:2]
    assert "trial 0001 paused at epoch 2" in resumed.stdout


def test_checkpoints_of_hopeless_paused_trials_are_deleted(cluster: None, study_file: Path) -> None:
    tree = load_study(study_file).dump()
    tree["search"]["scheduler"]["asha"]["max_paused"] = 1
    study_file.write_text(write_yaml(tree))
    run_study(load_study(study_file), study_file.parent, "few")
    run = SearchDir(study_file.parent / "few")
    # Trial 2 came when trial 1 was the one that waits; trial 3 came when trial 1 could go on.
    assert [t.state for t in read_trials(run)] == ["completed", "paused", "pruned", "paused"]
    kept = [trial.id for trial in run.trial_dirs() if trial.checkpoints.exists()]
    assert kept == ["0000", "0001", "0003"]


@pytest.mark.parametrize("ray_internals", [True, False], indirect=True)
def test_paused_trial_of_two_workers_goes_on_from_the_epoch_of_its_pause(
    ray_internals: bool, study_file: Path
) -> None:
    # Epochs that are long enough for the ranks to notice the pause before the last of them.
    size = "[128, 128]"
    overrides = ["schedule.batch_size=2", f"data.resize={size}", f"data.crop={size}"]
    study = load_study(study_file, search={"workers_per_trial": 2}, overrides=overrides)
    run_study(study, study_file.parent, "two")
    check_paused_and_continued(SearchDir(study_file.parent / "two"))
