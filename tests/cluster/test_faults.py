"""Laws of faults, with real ones: a killed process, a killed rank, a process that stands still, Ctrl-C in the terminal."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import ray
import torch
import yaml

from segtune.api import run_training
from segtune.cluster.run import run_search
from segtune.cluster.supervisor import HangDetector
from segtune.cluster.train_group import train_on_workers
from segtune.config.schema import HealthConfig
from segtune.config.yaml_io import write_yaml
from segtune.runs.results import read_trials
from segtune.runs.rundir import SearchDir, TrialDir
from segtune.training.heartbeat import Heartbeat
from segtune.training.memory import OutOfMemoryError
from segtune.tuning.preparation import prepare_study
from segtune.tuning.study import load_study

pytestmark = pytest.mark.ray
EPOCHS = 12


@pytest.fixture
def study_file(tiny_config, tmp_path):
    changes = {"schedule.epochs": EPOCHS, "health.hung_after_s": 4.0}
    tree = {
        "config": tiny_config.override(changes).dump(),
        "space": {"optim.lr": {"loguniform": [1e-5, 1e-1]}},
        "search": {"trials": 1, "scheduler": "none", "cpus_per_worker": 1.0},
    }
    (tmp_path / "s.yaml").write_text(write_yaml(tree))
    return tmp_path / "s.yaml"


def wait_for(condition, seconds=90):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return bool(condition())


def strike(trial, number):
    """Sends a signal to the first rank once it has finished two epochs."""
    assert wait_for(lambda: len(trial.read_epochs()) >= 2 and trial.heartbeat.exists())
    os.kill(json.loads(trial.heartbeat.read_text())["pid"], number)


def search_under(study, run, number):
    prepare_study(run, study, resume=False)
    attacker = threading.Thread(target=strike, args=(run.trial(0), number))
    attacker.start()
    run_search(study, run)
    attacker.join()
    return run.trial(0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("workers", "number"), [(1, signal.SIGKILL), (2, signal.SIGKILL), (1, signal.SIGSTOP)]
)
def test_trial_goes_on_after_its_process_died_or_stood_still(
    cluster, study_file, tmp_path, workers, number
):
    study = load_study(study_file, search={"workers_per_trial": workers})
    trial = search_under(study, SearchDir(tmp_path / "runs" / "a"), number)
    verdict = trial.read_verdict()
    assert verdict is not None
    assert (verdict.state, verdict.epoch, trial.attempts_begun()) == ("completed", EPOCHS, 2)
    assert wait_for(
        lambda: ray.available_resources().get("CPU") == ray.cluster_resources()["CPU"], 10
    )
    if workers == 1:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        run_training(study.config, tmp_path / "whole")
        torch.set_num_threads(threads)
        whole = TrialDir(tmp_path / "whole").read_epochs()
        assert [row["miou"] for row in trial.read_epochs()] == [row["miou"] for row in whole]


@pytest.mark.slow
def test_trial_after_one_whose_ranks_have_raised_gets_ranks_that_train(
    cluster, study_file, tmp_path
):
    tree = yaml.safe_load(study_file.read_text())
    tree["space"] = {"schedule.batch_size": {"choice": [7, 8]}}
    tree["config"]["schedule"] |= {
        "batch_size": 7,
        "epochs": 2,
    }  # seven images are no whole number for each of two
    tree["search"] |= {
        "trials": 2,
        "workers_per_trial": 2,
        "known_good": [{"schedule.batch_size": 8}],
    }
    study_file.write_text(write_yaml(tree))
    run = SearchDir(tmp_path / "runs" / "b")
    study = load_study(study_file)
    prepare_study(run, study, resume=False)
    run_search(study, run)
    first, second = read_trials(run)
    assert (first.state, first.kind, second.state, second.epoch) == (
        "failed",
        "config",
        "completed",
        2,
    )
    assert "does not divide among 2 workers" in first.reason


@pytest.mark.slow
def test_group_whose_step_does_not_fit_ends_with_what_would(
    cluster, tiny_config, tmp_path, monkeypatch
):
    def with_little_memory(task):
        import resource
        from pathlib import Path

        import segtune.training.trainer  # noqa: F401
        from segtune.cluster.worker import train_worker

        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 2**30, used + 2**30))
        train_worker(task)

    monkeypatch.setattr("segtune.cluster.trial.train_worker", with_little_memory)
    config = tiny_config.override({"data.crop": [896, 896], "augment.cat_max_ratio": 1.0})
    with pytest.raises(
        OutOfMemoryError, match="4 images of 896 x 896 pixels on a worker does not fit"
    ):
        train_on_workers(config, tmp_path / "run", 2)
    verdict = TrialDir(tmp_path / "run").read_verdict()
    assert verdict is not None
    assert (verdict.state, verdict.kind) == ("unhealthy", "out-of-memory")
    assert "fit: try schedule.accumulate" in verdict.advice


@pytest.mark.slow
def test_interrupt_of_the_whole_terminal_ends_the_search_within_15_seconds(study_file, tmp_path):
    command = [
        sys.executable,
        "-m",
        "segtune.search",
        "--space",
        str(study_file),
        "--out",
        str(tmp_path / "runs"),
        "--name",
        "i",
    ]
    command += ["--set", "schedule.epochs=400", "--trials", "2"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    ) as driver:
        run = SearchDir(tmp_path / "runs" / "i")
        assert wait_for(lambda: run.trial(0).epochs.exists())
        start = time.monotonic()
        os.killpg(driver.pid, signal.SIGINT)
        told, _ = driver.communicate(timeout=60)
    assert (driver.returncode, time.monotonic() - start < 15) == (130, True), told
    assert {t.state for t in read_trials(run)} == {"interrupted"}


def test_stillness_is_measured_by_beats_against_the_limit(tmp_path):
    trial, stillness = TrialDir(tmp_path), HangDetector()
    pulse = Heartbeat(trial, HealthConfig(hung_after_s=1.0, hung_factor=1.0))
    assert stillness.of(trial) == ""  # nothing yet: the process is still starting
    pulse.beat()
    assert stillness.of(trial) == ""
    time.sleep(1.2)
    assert stillness.of(trial).startswith("no step for 1 s in process")
    pulse.beat()
    assert stillness.of(trial) == ""
