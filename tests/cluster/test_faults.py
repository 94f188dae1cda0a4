"""Real faults: a killed process, a killed rank, a process that hangs, Ctrl-C in the terminal."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
import yaml

from segtune.api import run_training
from segtune.cluster.run import run_search
from segtune.cluster.supervisor import HangDetector
from segtune.cluster.train_group import train_on_workers
from segtune.config.health_config import HealthConfig
from segtune.config.schema import ExperimentConfig
from segtune.config.yaml_io import write_yaml
from segtune.runs.results import read_trials
from segtune.runs.rundir import SearchDir, TrialDir
from segtune.training.heartbeat import Heartbeat
from segtune.training.memory import OutOfMemoryError
from segtune.tuning.preparation import prepare_study
from segtune.tuning.study import Study
from segtune.tuning.study_reader import load_study

pytestmark = pytest.mark.ray
EPOCHS = 12


@pytest.fixture
def study_file(tiny_config: ExperimentConfig, tmp_path: Path) -> Path:
    """Return the file of a study of one trial, which counts as hung after 4 s."""
    changes = {"schedule.epochs": EPOCHS, "health.hung_after_s": 4.0}
    tree = {
        "config": tiny_config.override(changes).dump(),
        "space": {"optim.lr": {"loguniform": [1e-5, 1e-1]}},
        "search": {
            "trials": 1,
            "scheduler": "none",
            "cpus_per_worker": 1.0,
            "corner_steps": 0,
            "pictures": 0,
        },
    }
    (tmp_path / "s.yaml").write_text(write_yaml(tree))
    return tmp_path / "s.yaml"


def wait_for(condition: Callable[[], Any], timeout_s: float = 90.0) -> bool:
    deadline = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return bool(condition())


def signal_rank_0(trial: TrialDir, number: signal.Signals) -> None:
    """Send a signal to rank 0 once it has finished two epochs."""
    assert wait_for(lambda: len(trial.read_epochs()) >= 2 and trial.heartbeat.exists())
    os.kill(json.loads(trial.heartbeat.read_text())["pid"], number)


def search(study: Study, run: SearchDir) -> None:
    prepare_study(run, study, resume=False)
    with run.locked():
        assert not run_search(study, run)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("workers", "number"), [(1, signal.SIGKILL), (2, signal.SIGKILL), (1, signal.SIGSTOP)]
)
def test_trial_continues_after_its_process_was_killed_or_hung(
    cluster: None, study_file: Path, tmp_path: Path, workers: int, number: signal.Signals
) -> None:
    study = load_study(study_file, search={"workers_per_trial": workers})
    run = SearchDir(tmp_path / "runs" / "a")
    trial = run.trial(0)
    attacker = threading.Thread(target=signal_rank_0, args=(trial, number))
    attacker.start()
    search(study, run)
    attacker.join()
    verdict = trial.read_verdict()
    assert verdict is not None
    assert (verdict.state, verdict.epoch) == ("completed", EPOCHS)
    assert len(trial.read_attempts()) == 2
    num_cpus = ray.cluster_resources()["CPU"]
    assert wait_for(lambda: ray.available_resources().get("CPU") == num_cpus, timeout_s=10)
    if workers == 1:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        run_training(study.config, tmp_path / "whole")
        torch.set_num_threads(threads)
        whole = TrialDir(tmp_path / "whole").read_epochs()
        assert [record.miou for record in trial.read_epochs()] == [record.miou for record in whole]


@pytest.mark.slow
def test_trial_after_one_whose_ranks_have_raised_gets_ranks_that_train(
    cluster: None, study_file: Path, tmp_path: Path
) -> None:
    tree = yaml.safe_load(study_file.read_text())
    tree["space"] = {"schedule.batch_size": {"choice": [512, 8]}}
    # A batch larger than the data set is noticed only when the ranks build their loaders.
    tree["config"]["schedule"] |= {"batch_size": 512, "epochs": 2}
    points = [{"schedule.batch_size": 8}]
    tree["search"] |= {"trials": 2, "workers_per_trial": 2, "known_good": points}
    study_file.write_text(write_yaml(tree))
    run = SearchDir(tmp_path / "runs" / "b")
    search(load_study(study_file), run)
    first, second = read_trials(run)
    assert (first.state, first.kind) == ("failed", "config")
    assert "512 is more than the 24 training images" in first.reason
    assert (second.state, second.epoch) == ("completed", 2)


@pytest.mark.slow
def test_group_whose_step_does_not_fit_ends_with_what_would_fit(
    cluster: None, tiny_config: ExperimentConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train_with_little_memory(config: dict[str, Any]) -> None:
        import resource
        from pathlib import Path

        import segtune.training.trainer  # noqa: F401
        from segtune.cluster.worker import train_worker

        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 2**30, used + 2**30))
        train_worker(config)

    # The limit has to be set inside the worker's process, before it trains.
    monkeypatch.setattr("segtune.cluster.train_group.train_worker", train_with_little_memory)
    config = tiny_config.override({"data.crop": [896, 896], "augment.cat_max_ratio": 1.0})
    message = "4 images of 896 x 896 pixels on a worker does not fit"
    with pytest.raises(OutOfMemoryError, match=message):
        train_on_workers(config, tmp_path / "run", 2)
    verdict = TrialDir(tmp_path / "run").read_verdict()
    assert verdict is not None
    assert (verdict.state, verdict.kind) == ("unhealthy", "out-of-memory")
    assert "fit: try schedule.accumulate" in verdict.advice


@pytest.mark.slow
def test_interrupt_of_the_whole_terminal_ends_the_search_within_15_seconds(
    study_file: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "segtune.search", "--space", str(study_file)]
    command += ["--out", str(tmp_path / "runs"), "--name", "i"]
    command += ["--set", "schedule.epochs=400", "--trials", "2"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    ) as driver:
        run = SearchDir(tmp_path / "runs" / "i")
        assert wait_for(lambda: run.trial(0).epochs.exists())
        start = time.monotonic()
        os.killpg(driver.pid, signal.SIGINT)
        output, _ = driver.communicate(timeout=60)
    assert (driver.returncode, time.monotonic() - start < 15) == (130, True), output
    assert {trial.state for trial in read_trials(run)} == {"interrupted"}


def test_trial_hangs_if_its_heartbeat_does_not_change_within_its_limit(tmp_path: Path) -> None:
    trial, detector = TrialDir(tmp_path), HangDetector()
    heartbeat = Heartbeat(trial, HealthConfig(hung_after_s=1.0, hung_factor=1.0))
    assert detector.evidence(trial) == ""  # no heartbeat yet: the process is still starting
    heartbeat.beat()
    assert detector.evidence(trial) == ""
    time.sleep(1.2)
    assert detector.evidence(trial).startswith("no step for 1 s in process")
    heartbeat.beat()
    assert detector.evidence(trial) == ""
