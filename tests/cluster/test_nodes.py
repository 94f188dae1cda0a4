"""Searches on a cluster of several real nodes: checks, nodes that join later, nodes that leave."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from real_nodes import RealNodes, can_hide_folders, real_nodes, wait_for_text

from segtune.config.schema import ExperimentConfig
from segtune.config.yaml_io import write_yaml
from segtune.runs.rundir import SearchDir
from segtune.runs.timeline import read_sessions

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not can_hide_folders(), reason="mounting needs root"),
]


@pytest.fixture(scope="module")
def nodes() -> Iterator[RealNodes]:
    """Start a head node with one slot."""
    with real_nodes("--include-dashboard=false") as cluster:
        yield cluster


@pytest.fixture
def study_file(tiny_config: ExperimentConfig, tmp_path: Path) -> Path:
    tree = {
        # Its images are where `shapes_root` has them, and are not generated on a node without them.
        "config": tiny_config.override({"data.layout": "voc"}).dump(),
        "space": {"optim.lr": {"loguniform": [1e-4, 1e-2]}},
        "search": {
            "trials": 8,
            "scheduler": "none",
            "sampler": "random",
            "corner_steps": 0,
            "cpus_per_worker": 1.0,
        },
    }
    (tmp_path / "s.yaml").write_text(write_yaml(tree))
    return tmp_path / "s.yaml"


def start_search(nodes: RealNodes, study: Path, name: str, *options: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "segtune.search", "--space", str(study), "--no-check"]
    command += ["--address", nodes.address, "--out", str(study.parent), "--name", name, *options]
    with (study.parent / f"{name}.log").open("w") as log:
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=nodes.environ)


def output_of(search: subprocess.Popen, study: Path, name: str) -> str:
    search.wait(timeout=400)
    return (study.parent / f"{name}.log").read_text()


def test_node_without_the_data_set_ends_the_search_with_one_message(
    nodes: RealNodes, study_file: Path, shapes_root: Path
) -> None:
    bad = nodes.add(without=shapes_root.parent)
    search = start_search(nodes, study_file, "bad")
    output = output_of(search, study_file, "bad")
    nodes.stop(bad)
    assert search.returncode == 2
    error = output[output.index("error: ") :].splitlines()
    assert error[0] == "error: 1 of 2 nodes cannot run the trials of this search:"
    assert error[1].startswith("node ")
    assert f"({os.uname().nodename}, id " in error[1]
    assert error[2].startswith(f"  data.root: no folder '{shapes_root}'; expected the data set")
    assert error[3].startswith("no trial was started; repair this, or leave the node out")
    assert len(error) == 4
    assert not (study_file.parent / "bad").exists()


def test_nodes_that_join_are_checked_and_used_and_a_node_that_leaves_is_survived(
    nodes: RealNodes, study_file: Path, shapes_root: Path
) -> None:
    long = ("--set", "schedule.epochs=20", "--set", "schedule.val_every=10")
    search = start_search(nodes, study_file, "grows", *long)
    log = study_file.parent / "grows.log"
    wait_for_text(log, "search run:", search)
    run = SearchDir(study_file.parent / "grows")
    bad = nodes.add(without=shapes_root.parent)
    wait_for_text(log, "it has joined and gets no trials", search)
    good = nodes.add()
    wait_for_text(log, "2 trials at the same time, 1 before", search)
    _wait_until(lambda: _num_running(run) == 2)
    nodes.stop(good)
    output = output_of(search, study_file, "grows")
    nodes.stop(bad)
    assert search.returncode == 0, output
    assert "it is started again from its last checkpoint" in output
    assert "Traceback" not in output
    verdicts = [trial.read_verdict() for trial in run.trial_dirs()]
    assert [verdict and verdict.state for verdict in verdicts] == ["completed"] * 8
    assert [session.concurrent for session in read_sessions(run)] == [2]


def test_search_waits_for_a_node_that_has_what_a_trial_needs(
    nodes: RealNodes, study_file: Path
) -> None:
    options = ("--trials", "1", "--gpus-per-worker", "1", "--wait-for-nodes")
    search = start_search(nodes, study_file, "late", *options, "300")
    wait_for_text(study_file.parent / "late.log", "waiting for nodes, at most 300 s", search)
    gpu = nodes.add("--num-gpus=1")
    output = output_of(search, study_file, "late")
    nodes.stop(gpu, signal.SIGTERM)  # so that the cluster knows at once
    assert search.returncode == 0, output
    assert "1 at the same time, each 1 worker(s) with 1 CPU and 1 GPU" in output
    search = start_search(nodes, study_file, "never", *options, "0.1")
    assert "no node has joined within 0.1 s (--wait-for-nodes)" in output_of(
        search, study_file, "never"
    )
    assert search.returncode == 2


def _num_running(run: SearchDir) -> int:
    trials = run.trial_dirs()
    return sum(trial.read_verdict() is None and bool(trial.read_epochs()) for trial in trials)


def _wait_until(is_true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 200
    while not is_true():
        assert time.monotonic() < deadline
        time.sleep(0.1)
