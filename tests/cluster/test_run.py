"""Searches on a real local Ray: verdicts, released workers, and searches that resume."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import torch

from segtune.api import run_study, run_training
from segtune.checks.observed_trials import TrialObserver
from segtune.cluster.placement import place_trials
from segtune.cluster.ray_internals import SWITCH
from segtune.cluster.ray_session import ray_connection
from segtune.cluster.run import run_search
from segtune.config.schema import ExperimentConfig, load_config
from segtune.config.yaml_io import write_yaml
from segtune.errors import ClusterError, ConfigError, RunError
from segtune.runs.atomic import write_atomic
from segtune.runs.records import EpochRecord, ValidationScores
from segtune.runs.results import best_trial, read_trials
from segtune.runs.rundir import SearchDir
from segtune.runs.verdict import Verdict
from segtune.tuning.preparation import prepare_study
from segtune.tuning.search_config import SearchConfig
from segtune.tuning.study_reader import load_study

pytestmark = pytest.mark.ray


@pytest.fixture
def study_file(tiny_config: ExperimentConfig, tmp_path: Path) -> Path:
    """Return the file of a study of three trials of three epochs."""
    tree = {
        "config": tiny_config.override({"schedule.epochs": 3}).dump(),
        "space": {
            "optim.lr": {"loguniform": [1e-5, 1e-1]},
            "optim.name": {"choice": ["adamw", "sgd"]},
        },
        "search": {
            "trials": 3,
            "scheduler": {"asha": {"grace_epochs": 1, "reduction": 2, "pause": False}},
            "corner_steps": 0,
            "pictures": 0,  # test_corner_tasks.py has them
            "cpus_per_worker": 1.0,
        },
    }
    (tmp_path / "s.yaml").write_text(write_yaml(tree))
    return tmp_path / "s.yaml"


def test_each_trial_is_fine_tuned_from_the_checkpoint_of_the_study(
    cluster: None, study_file: Path, tiny_config: ExperimentConfig, tmp_path: Path
) -> None:
    before = run_training(tiny_config, tmp_path / "before")
    study = load_study(study_file, search={"init_from": str(tmp_path / "before"), "trials": 2})
    result = run_study(study, tmp_path, "fine")
    run = SearchDir(result.run)
    assert load_study(run.study).search.init_from == str(before.checkpoint)
    for number in range(2):
        assert run.trial(number).read_epochs()[0].init_miou == pytest.approx(before.best_miou)


def wait_for_free_cluster(timeout_s: float) -> bool:
    """Wait until no CPU of the cluster is reserved; return whether that happened in time."""
    deadline = time.monotonic() + timeout_s
    num_cpus = ray.cluster_resources()["CPU"]
    while ray.available_resources().get("CPU", 0.0) < num_cpus:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True


def wait_for_file(path: Path, timeout_s: float = 90.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} was not written"
        time.sleep(0.05)


def pid_of_rank_0(run: SearchDir, number: int) -> int:
    return json.loads(run.trial(number).heartbeat.read_text())["pid"]


def search_command(study_file: Path, out: Path, name: str, *options: str) -> list[str]:
    command = [sys.executable, "-m", "segtune.search", "--space", str(study_file)]
    return [*command, "--out", str(out), "--name", name, *options]


@pytest.mark.parametrize(
    ("nodes", "search", "expected"),
    [
        ([{"CPU": 2}], {}, (1, 1.0, 0.0, 2)),
        ([{"CPU": 2}], {"workers_per_trial": 2}, (2, 1.0, 0.0, 1)),
        ([{"CPU": 16, "GPU": 4}], {}, (1, 4.0, 1.0, 4)),
        ([{"CPU": 16, "GPU": 4}], {"gpus_per_worker": 0.5}, (1, 2.0, 0.5, 8)),
        ([{"CPU": 16, "GPU": 4}], {"workers_per_trial": 2, "max_concurrent": 1}, (2, 4.0, 1.0, 1)),
        ([{"CPU": 64}], {"trials": 3}, (1, 1.0, 0.0, 3)),
        # A worker cannot span two nodes: on each, one of 3 CPUs stays free.
        ([{"CPU": 3}] * 4, {"cpus_per_worker": 2.0}, (1, 2.0, 0.0, 4)),
        # The many cores of a head node cannot serve the GPUs of other nodes.
        ([{"CPU": 64}, *[{"CPU": 4, "GPU": 1}] * 3], {}, (1, 4.0, 1.0, 3)),
        # A GPU holds two workers of 0.4. What stays free on two GPUs cannot hold a fifth worker.
        (
            [{"CPU": 8, "GPU": 2}],
            {"gpus_per_worker": 0.4, "cpus_per_worker": 1.0},
            (1, 1.0, 0.4, 4),
        ),
    ],
)
def test_concurrency_counts_all_that_a_trial_takes(
    nodes: list[dict[str, float]],
    search: dict[str, Any],
    expected: tuple[int, float, float, int],
) -> None:
    placement = place_trials(SearchConfig(**search), nodes)
    assert (placement.workers, placement.cpus, placement.gpus, placement.concurrent) == expected


def test_worker_that_fits_on_no_single_node_is_refused() -> None:
    message = "the cluster has 4 and 0 on 4 nodes, which have room for 0 such workers"
    with pytest.raises(ClusterError, match=message):
        place_trials(SearchConfig(cpus_per_worker=2.0), [{"CPU": 1}] * 4)


def test_trial_that_can_never_start_is_refused() -> None:
    message = r"one trial needs 4 CPUs and 0 GPUs \(4 workers\), the cluster has 2 and 0"
    with pytest.raises(ClusterError, match=message):
        place_trials(SearchConfig(workers_per_trial=4), [{"CPU": 2}])


def test_waiting_for_nodes_needs_the_gpus_of_a_worker(study_file: Path) -> None:
    with pytest.raises(ConfigError, match=r"wait_for_nodes_s: needs search.gpus_per_worker"):
        load_study(study_file, search={"wait_for_nodes_s": 60.0})
    study = load_study(study_file, search={"wait_for_nodes_s": 60.0, "gpus_per_worker": 0.0})
    assert study.search.wait_for_nodes_s == 60


def test_address_of_a_ray_client_is_refused_with_the_way_out() -> None:
    command = (
        r"ray job submit --address http://HEAD:8265 -- python -m segtune\.search --address auto"
    )
    with pytest.raises(ClusterError, match=command), ray_connection("ray://x:10001"):
        pass


@pytest.mark.slow
def test_ray_without_an_address_is_local_whatever_the_environment_says() -> None:
    code = (
        "import ray\n"
        "from segtune.cluster.ray_session import ray_connection\n"
        "with ray_connection(None): print(len(ray.nodes()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"RAY_ADDRESS": "127.0.0.1:1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout == "1\n", done.stderr


@pytest.mark.slow
def test_dashboard_of_a_ray_that_runs_already_has_a_url(cluster: None) -> None:
    with ray_connection(None) as url:
        assert url.startswith("http://127.0.0.1:")
    assert ray.is_initialized()


@pytest.mark.slow
def test_search_ends_with_verdicts_and_a_best_config_that_trains(
    cluster: None, study_file: Path, tmp_path: Path
) -> None:
    tree = load_study(study_file).dump()
    tree["space"]["optim.lr"] = {"loguniform": [1e-5, 1e30]}
    tree["search"]["known_good"] = [{"optim.lr": 1e30, "optim.name": "sgd"}]
    study_file.write_text(write_yaml(tree))
    result = run_study(load_study(study_file), tmp_path / "runs", "a")
    states = dict(zip(result.trials["trial"], result.trials["state"], strict=True))
    assert states["0000"] == "completed"
    assert states["0001"] == "unhealthy"
    assert "non-finite" in read_trials(SearchDir(result.run))[1].reason
    assert result.best is not None
    assert result.best.miou == result.trials[result.trials["state"] != "unhealthy"]["miou"].max()
    # With as many threads as the trial had, sums are computed in the same order.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    again = run_training(load_config(result.run / "best.yaml"), tmp_path / "again")
    torch.set_num_threads(threads)
    assert again.best_miou == result.best.miou
    assert wait_for_free_cluster(timeout_s=10)


@pytest.mark.slow
def test_trials_of_one_worker_follow_one_another_in_one_process(
    cluster: None, study_file: Path, tmp_path: Path
) -> None:
    points = [{"optim.lr": 1e-5}, {"optim.lr": 1e-4}]
    search = {"max_concurrent": 1, "trials": 4, "known_good": points}
    study = load_study(study_file, search=search, overrides=["checkpoint.keep_trials=1"])
    run_study(study, tmp_path, "one")
    run = SearchDir(tmp_path / "one")
    assert len(run.trial_dirs()) == 4
    assert len({pid_of_rank_0(run, number) for number in range(4)}) == 1
    best = best_trial(read_trials(run))
    assert best is not None
    kept = [trial.id for trial in run.trial_dirs() if trial.checkpoints.exists()]
    assert kept == sorted({"0000", best.id})
    assert wait_for_free_cluster(timeout_s=10)


def test_trial_that_fails_ends_with_its_reason_and_does_not_stop_the_search(
    cluster: None, study_file: Path, tmp_path: Path
) -> None:
    # A batch larger than the data set is noticed only when the loader is built.
    tree = load_study(study_file).dump()
    tree["space"] = {"schedule.batch_size": {"choice": [8, 512]}}
    tree["search"]["known_good"] = [{"schedule.batch_size": 512}]
    tree["search"]["trials"] = 2
    study_file.write_text(write_yaml(tree))
    result = run_study(load_study(study_file), tmp_path / "runs", "b")
    trial = read_trials(SearchDir(result.run))[1]
    assert (trial.state, trial.kind) == ("failed", "config")
    assert "512 is more than the 24 training images" in trial.reason
    assert "Traceback" in SearchDir(result.run).trial(1).error.read_text()
    assert result.best is not None


@pytest.mark.slow
def test_search_whose_driver_was_killed_resumes_with_the_same_trials(
    study_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "runs"
    options = ["--trials", "4", "--max-concurrent", "1", "--set", "schedule.epochs=8"]
    whole_command = search_command(study_file, out, "whole", *options)
    broken_command = search_command(study_file, out, "broken", *options)
    whole, broken = SearchDir(out / "whole"), SearchDir(out / "broken")
    subprocess.run(whole_command, check=True, capture_output=True)
    with subprocess.Popen(
        broken_command, stdout=subprocess.DEVNULL, start_new_session=True
    ) as driver:
        wait_for_file(broken.trial(1).epochs)
        driver.send_signal(signal.SIGKILL)
    assert len(read_trials(broken)) < 4
    resumed = subprocess.run([*broken_command, "--resume"], capture_output=True, text=True)
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    ends = [[(t.params, t.state, t.miou) for t in read_trials(run)] for run in (whole, broken)]
    assert ends[0] == ends[1]
    assert "<b>4 of 4</b>" in broken.report.read_text()


@pytest.mark.slow
def test_interrupt_stops_gracefully_and_prints_how_to_resume(
    study_file: Path, tmp_path: Path
) -> None:
    options = ["--set", "schedule.epochs=200", "--set", "checkpoint.every=1"]
    command = search_command(study_file, tmp_path / "runs", "i", *options, "--max-concurrent", "1")
    run = SearchDir(tmp_path / "runs" / "i")
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as driver:
        wait_for_file(run.trial(0).epochs)
        driver.send_signal(signal.SIGINT)
        output, _ = driver.communicate(timeout=60)
    assert driver.returncode == 130, output
    assert "--name i " in output
    assert "--resume\nreport:" in output
    [trial] = read_trials(run)
    assert trial.state == "interrupted"
    assert trial.epoch >= 1
    assert "<b>0 of 3</b>" in run.report.read_text()


@pytest.mark.slow
def test_stop_request_ends_a_search_that_can_be_resumed(
    cluster: None, study_file: Path, tmp_path: Path
) -> None:
    study = load_study(study_file, overrides=["schedule.epochs=200"])
    run = SearchDir(tmp_path / "runs" / "d")
    prepare_study(run, study, resume=False)
    code = (
        "import sys, time, pathlib\n"
        "run = pathlib.Path(sys.argv[1])\n"
        "while not list(run.glob('trials/*/epochs.jsonl')): time.sleep(0.1)\n"
        "(run / 'stop').write_text('stop')"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(run.path)]) as other:
        with run.locked():
            assert run_search(study, run)
        other.wait(10)
    assert "interrupted" in {t.state for t in read_trials(run)}
    assert wait_for_free_cluster(timeout_s=10)


def test_a_budget_of_epochs_ends_a_search_and_a_larger_one_continues_it(
    cluster: None, study_file: Path, tmp_path: Path
) -> None:
    limits = {"scheduler": "none", "max_concurrent": 1}
    study = load_study(study_file, search={**limits, "budget.epochs": 2})
    result = run_study(study, tmp_path, "limited")
    run = SearchDir(result.run)
    # The driver looks about once a second, and an epoch may take less.
    assert result.end is not None
    assert (result.end.setting, result.interrupted) == ("budget.epochs", False)
    assert 2 <= result.end.value < 9
    assert [trial.state for trial in read_trials(run)] != ["completed"] * 3
    with pytest.raises(RunError, match=r"budget\.epochs 2 is used up.*--budget-epochs"):
        run_study(study, tmp_path, "limited", resume=True)
    larger = load_study(study_file, search={**limits, "budget.epochs": 100})
    result = run_study(larger, tmp_path, "limited", resume=True)
    assert result.end is None
    assert [trial.state for trial in read_trials(run)] == ["completed"] * 3
    assert [trial.num_epochs for trial in TrialObserver(run).read()] == [3, 3, 3]


@pytest.fixture
def two_cpus(request: pytest.FixtureRequest) -> Iterator[None]:
    """Start a Ray of two CPUs, with or without the dashboard, which has the State API."""
    ray.shutdown()
    ray.init(include_dashboard=request.param, num_cpus=2, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.mark.slow
@pytest.mark.parametrize(
    "two_cpus", [True, False], indirect=True, ids=["State API", "no State API"]
)
def test_workers_of_a_stopped_trial_are_released_and_train_the_next(
    two_cpus: None, study_file: Path, tmp_path: Path
) -> None:
    points = [{"optim.lr": 1e-4}, {"optim.lr": 2e-4}]
    changes = {"workers_per_trial": 2, "trials": 3, "cpus_per_worker": 1.0, "known_good": points}
    overrides = ["schedule.epochs=200", "checkpoint.keep_trials=1"]
    study = load_study(study_file, search=changes, overrides=overrides)
    run = SearchDir(tmp_path / "runs" / "c")
    prepare_study(run, study, resume=False)
    # Beside such a trial 0, every other is stopped at the first rung, in the middle of training.
    first = run.trial(0)
    write_atomic(first.params, json.dumps(study.points()[0]))
    for epoch in study.rungs():
        first.append_epoch(
            EpochRecord(epoch, step=epoch, validation=ValidationScores(0.99, constant_miou=0.1))
        )
    first.write_verdict(Verdict(state="completed", epoch=200))
    write_atomic(first.config, write_yaml(study.config.dump()))
    # Two trials of two workers each, one after the other on two CPUs: the second can start only
    # after the first has released its workers.
    with run.locked():
        assert not run_search(study, run)
    others = read_trials(run)[1:]
    assert [trial.state for trial in others] == ["pruned", "pruned"]
    assert max(trial.epoch for trial in others) < 20
    assert pid_of_rank_0(run, 1) == pid_of_rank_0(run, 2)
    assert not any(run.trial(number).checkpoints.exists() for number in (1, 2))
    assert wait_for_free_cluster(timeout_s=10)


@pytest.mark.slow
@pytest.mark.parametrize("ray_internals", [True, False], indirect=True)
def test_search_of_worker_groups_needs_no_private_name_of_ray(
    ray_internals: bool, study_file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tree = load_study(study_file).dump()
    tree["config"]["schedule"]["epochs"] = 30
    tree["space"] = {"optim.lr": {"loguniform": [1e-9, 1e-1]}}
    # Trial 0, the config itself, learns and is never stopped. Trial 1 learns nothing.
    tree["search"] |= {"trials": 2, "workers_per_trial": 2, "known_good": [{"optim.lr": 1e-9}]}
    study_file.write_text(write_yaml(tree))
    study, run = load_study(study_file), SearchDir(tmp_path / "runs" / "e")
    prepare_study(run, study, resume=False)
    with run.locked():
        assert not run_search(study, run)
    trials = read_trials(run)
    assert [trial.state for trial in trials] == ["completed", "pruned"]
    assert trials[0].epoch == 30
    assert trials[1].epoch < 30
    # Only with private names do ranks serve one trial after another.
    assert (pid_of_rank_0(run, 0) == pid_of_rank_0(run, 1)) == ray_internals
    warnings = [record for record in caplog.records if SWITCH in record.getMessage()]
    assert len(warnings) == (0 if ray_internals else 1)
    assert wait_for_free_cluster(timeout_s=10)


@pytest.mark.slow
def test_search_whose_first_trials_all_diverge_pauses_and_continues_in_a_narrower_space(
    cluster: None, study_file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tree = load_study(study_file).dump()
    tree["config"]["optim"] |= {"name": "sgd", "lr": 1e30}
    tree["space"] = {"optim.lr": {"loguniform": [1e-20, 1e32]}}
    tree["search"] |= {"known_good": [{"optim.lr": 1e31}], "max_concurrent": 1, "trials": 4}
    tree["search"]["breaker"] = {"first": 2}
    study_file.write_text(write_yaml(tree))
    paused = run_study(load_study(study_file), tmp_path, "a")
    assert paused.interrupted
    assert list(paused.trials["state"]) == ["unhealthy", "unhealthy"]
    run = SearchDir(paused.run)
    assert "pauses: all of the first 2 trials have ended as non-finite" in caplog.text
    assert (
        f"segtune search --space {run.narrower} --out {tmp_path} --name a --extend" in caplog.text
    )
    ended = run_study(load_study(run.narrower), tmp_path, "a", extend=True)
    assert not ended.interrupted
    assert len(ended.trials) == 4
    assert max(ended.trials["optim.lr"][2:]) <= 1e5 * 1.01  # halfway, in decades
