"""Laws of the search, on a real local Ray: trials end with a verdict, workers come back, a stopped search goes on."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import ray
import torch

from segtune.api import run_study, run_training
from segtune.cluster.placement import place_trials
from segtune.cluster.ray_session import ray_connection
from segtune.cluster.run import run_search
from segtune.config.schema import load_config
from segtune.config.yaml_io import write_yaml
from segtune.errors import ClusterError
from segtune.runs.atomic import write_atomic
from segtune.runs.results import read_trials
from segtune.runs.rundir import SearchDir
from segtune.runs.verdict import Verdict
from segtune.tuning.preparation import prepare_study
from segtune.tuning.study import SearchConfig, load_study

pytestmark = pytest.mark.ray


@pytest.fixture
def study_file(tiny_config, tmp_path):
    tree = {
        "config": tiny_config.override({"schedule.epochs": 3}).dump(),
        "space": {
            "optim.lr": {"loguniform": [1e-5, 1e-1]},
            "optim.name": {"choice": ["adamw", "sgd"]},
        },
        "search": {
            "trials": 3,
            "scheduler": {"asha": {"grace_epochs": 1, "reduction": 2}},
            "cpus_per_worker": 1.0,
        },
    }
    (tmp_path / "s.yaml").write_text(write_yaml(tree))
    return tmp_path / "s.yaml"


def free_cpus():
    return ray.available_resources().get("CPU", 0.0)


def wait_for_free_cluster(seconds):
    deadline = time.monotonic() + seconds
    while free_cpus() < ray.cluster_resources()["CPU"] and time.monotonic() < deadline:
        time.sleep(0.2)
    return free_cpus() == ray.cluster_resources()["CPU"]


@pytest.mark.parametrize(
    ("cluster_has", "asked", "expected"),
    [
        ([{"CPU": 2}], {}, (1, 1.0, 0.0, 2)),
        ([{"CPU": 2}], {"workers_per_trial": 2}, (2, 1.0, 0.0, 1)),
        ([{"CPU": 16, "GPU": 4}], {}, (1, 4.0, 1.0, 4)),
        ([{"CPU": 16, "GPU": 4}], {"gpus_per_worker": 0.5}, (1, 2.0, 0.5, 8)),
        ([{"CPU": 16, "GPU": 4}], {"workers_per_trial": 2, "max_concurrent": 1}, (2, 4.0, 1.0, 1)),
        ([{"CPU": 64}], {"trials": 3}, (1, 1.0, 0.0, 3)),
        # A worker cannot straddle nodes: of 3 CPUs one is left over on each.
        ([{"CPU": 3}] * 4, {"cpus_per_worker": 2.0}, (1, 2.0, 0.0, 4)),
        # The many cores of a head node are of no use to the GPUs of the others.
        ([{"CPU": 64}, *[{"CPU": 4, "GPU": 1}] * 3], {}, (1, 4.0, 1.0, 3)),
        # Two times 0.4 fit on a GPU, and what is left of two GPUs makes no third.
        (
            [{"CPU": 8, "GPU": 2}],
            {"gpus_per_worker": 0.4, "cpus_per_worker": 1.0},
            (1, 1.0, 0.4, 4),
        ),
    ],
)
def test_concurrency_counts_all_that_a_trial_takes(cluster_has, asked, expected):
    placement = place_trials(SearchConfig(**asked), cluster_has)
    assert (placement.workers, placement.cpus, placement.gpus, placement.concurrent) == expected


def test_nodes_that_fit_only_together_are_refused():
    with pytest.raises(
        ClusterError, match="the cluster has 4 and 0 on 4 nodes, where 0 such workers find a place"
    ):
        place_trials(SearchConfig(cpus_per_worker=2.0), [{"CPU": 1}] * 4)


def test_trial_that_can_never_start_is_refused():
    with pytest.raises(
        ClusterError,
        match="one trial needs 4 CPUs and 0 GPUs \\(4 workers\\), the cluster has 2 and 0",
    ):
        place_trials(SearchConfig(workers_per_trial=4), [{"CPU": 2}])


def test_ray_client_is_refused_with_the_way_out():
    with (
        pytest.raises(
            ClusterError,
            match=r"ray job submit --address http://HEAD:8265 -- python -m segtune\.search --address auto",
        ),
        ray_connection("ray://x:10001"),
    ):
        pass


@pytest.mark.slow
def test_without_an_address_ray_is_our_own_whatever_the_environment_names():
    code = "import ray\nfrom segtune.cluster.ray_session import ray_connection\nwith ray_connection(None): print(len(ray.nodes()))"
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
def test_search_ends_with_verdicts_and_a_best_config_that_trains(cluster, study_file, tmp_path):
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
    # On as many threads as the trial had, the sums are taken in the same order.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    again = run_training(load_config(result.run / "best.yaml"), tmp_path / "again")
    torch.set_num_threads(threads)
    assert again.best_miou == result.best.miou
    assert wait_for_free_cluster(10)


@pytest.mark.slow
def test_trials_of_one_worker_follow_one_another_in_one_process(cluster, study_file, tmp_path):
    points = [{"optim.lr": 1e-5}, {"optim.lr": 1e-4}]
    study = load_study(study_file, search={"max_concurrent": 1, "trials": 4, "known_good": points})
    run_study(study, tmp_path, "one")
    pulses = [
        json.loads(trial.heartbeat.read_text())
        for trial in SearchDir(tmp_path / "one").trial_dirs()
    ]
    assert len(pulses) == 4
    assert len({pulse["pid"] for pulse in pulses}) == 1
    assert wait_for_free_cluster(10)


def test_failing_trial_is_told_with_its_reason_and_does_not_stop_the_search(
    cluster, study_file, tmp_path
):
    # A batch larger than the data set is found only when the loader is built.
    tree = load_study(study_file).dump()
    tree["space"] = {"schedule.batch_size": {"choice": [8, 512]}}
    tree["search"]["known_good"] = [{"schedule.batch_size": 512}]
    tree["search"]["trials"] = 2
    study_file.write_text(write_yaml(tree))
    result = run_study(load_study(study_file), tmp_path / "runs", "b")
    trial = read_trials(SearchDir(result.run))[1]
    assert (trial.state, trial.kind) == ("failed", "config")
    assert "512 is more than the 24 training images" in trial.reason
    assert "Traceback" in (result.run / "trials" / "0001" / "error.txt").read_text()
    assert result.best is not None


@pytest.mark.slow
def test_killed_driver_resumes_with_the_same_trials(study_file, tmp_path):
    command = [
        sys.executable,
        "-m",
        "segtune.search",
        "--space",
        str(study_file),
        "--trials",
        "4",
        "--max-concurrent",
        "1",
    ]
    command += ["--set", "schedule.epochs=8", "--out", str(tmp_path / "runs")]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    subprocess.run([*command, "--name", "whole"], env=environment, check=True, capture_output=True)
    with subprocess.Popen(
        [*command, "--name", "broken"],
        env=environment,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    ) as driver:
        rows = tmp_path / "runs" / "broken" / "trials" / "0001" / "epochs.jsonl"
        deadline = time.monotonic() + 90
        while not rows.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert rows.exists()
        driver.send_signal(signal.SIGKILL)
    first = read_trials(SearchDir(tmp_path / "runs" / "broken"))
    assert len(first) < 4
    ended = subprocess.run(
        [*command, "--name", "broken", "--resume"], env=environment, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    whole, broken = (
        read_trials(SearchDir(tmp_path / "runs" / name)) for name in ("whole", "broken")
    )
    assert [(t.params, t.state, t.miou) for t in whole] == [
        (t.params, t.state, t.miou) for t in broken
    ]
    assert "<b>4 of 4</b>" in SearchDir(tmp_path / "runs" / "broken").report.read_text()


@pytest.mark.slow
def test_interrupt_stops_gracefully_and_says_how_to_go_on(study_file, tmp_path):
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
    command += [
        "--set",
        "schedule.epochs=200",
        "--set",
        "checkpoint.every=1",
        "--max-concurrent",
        "1",
    ]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as driver:
        trial = tmp_path / "runs" / "i" / "trials" / "0000"
        deadline = time.monotonic() + 90
        while not (trial / "epochs.jsonl").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        driver.send_signal(signal.SIGINT)
        told, _ = driver.communicate(timeout=60)
    assert driver.returncode == 130, told
    assert "--name i " in told
    assert "--resume\nreport:" in told
    assert json.loads((trial / "verdict.json").read_text())["state"] == "interrupted"
    before = read_trials(SearchDir(tmp_path / "runs" / "i"))[0].epoch
    assert before >= 1
    assert "<b>0 of 3</b>" in SearchDir(tmp_path / "runs" / "i").report.read_text()


@pytest.mark.slow
def test_stop_request_is_heard(cluster, study_file, tmp_path):
    study, run = (
        load_study(study_file, overrides=["schedule.epochs=200"]),
        SearchDir(tmp_path / "runs" / "d"),
    )
    prepare_study(run, study, resume=False)
    code = "import sys, time, pathlib\nrun = pathlib.Path(sys.argv[1])\nwhile not list(run.glob('trials/*/epochs.jsonl')): time.sleep(0.1)\n"
    code += "(run / 'stop').write_text('stop')"
    with subprocess.Popen([sys.executable, "-c", code, str(run.path)]) as asker:
        with pytest.raises(KeyboardInterrupt):
            run_search(study, run)
        asker.wait(10)
    assert "interrupted" in {t.state for t in read_trials(run)}
    assert wait_for_free_cluster(10)


@pytest.fixture
def own_cluster(request):
    """A Ray of the test's own, with the dashboard and its State API or, where the parameter is False, without."""
    ray.shutdown()
    ray.init(include_dashboard=request.param, num_cpus=2, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.mark.slow
@pytest.mark.parametrize(
    "own_cluster", [True, False], indirect=True, ids=["State API", "no State API"]
)
def test_workers_of_a_group_come_back_after_a_stop(own_cluster, study_file, tmp_path):
    points = [{"optim.lr": 1e-4}, {"optim.lr": 2e-4}]
    changes = {"workers_per_trial": 2, "trials": 3, "cpus_per_worker": 1.0, "known_good": points}
    study = load_study(study_file, search=changes, overrides=["schedule.epochs=200"])
    run = SearchDir(tmp_path / "runs" / "c")
    prepare_study(run, study, resume=False)
    # With such a trial 0 every other is stopped at the first rung, in the middle of its training.
    write_atomic(run.trial(0).params, json.dumps(study.points()[0]))
    for epoch in study.rungs():
        run.trial(0).append_epoch({"epoch": epoch, "step": epoch, "miou": 0.99, "seconds": 1.0})
    run.trial(0).write_verdict(Verdict(state="completed", epoch=200))
    write_atomic(run.trial(0).config, write_yaml(study.config.dump()))
    # Two trials of two workers each, one after the other on two CPUs: the second can only start once the first has let go.
    run_search(study, run)
    trials = read_trials(run)
    assert [t.state for t in trials[1:]] == ["pruned", "pruned"]
    assert max(t.epoch for t in trials[1:]) < 20
    # The ranks of the first have trained the second too.
    assert (
        json.loads(run.trial(1).heartbeat.read_text())["pid"]
        == json.loads(run.trial(2).heartbeat.read_text())["pid"]
    )
    assert wait_for_free_cluster(10)
