"""Where Ray puts its files, and a search whose disk is full."""

import errno
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from segtune.checks.machine.ray_folder import folder_problem, ray_folder
from segtune.cluster import ray_session
from segtune.cluster.placement import Placement
from segtune.cluster.ray_session import ray_connection
from segtune.cluster.trial import run_trial
from segtune.cluster.tune_searcher import StudySearcher
from segtune.config.schema import ExperimentConfig
from segtune.config.yaml_io import write_yaml
from segtune.errors import ClusterError
from segtune.runs.rundir import SearchDir
from segtune.runs.verdict import Verdict
from segtune.tuning.preparation import prepare_study
from segtune.tuning.study import Study
from segtune.tuning.study_reader import load_study


@pytest.fixture
def study(tiny_config: ExperimentConfig, tmp_path: Path) -> Study:
    tree = {
        "config": tiny_config.dump(),
        "space": {"optim.lr": {"loguniform": [1e-4, 1e-1]}},
        "search": {"scheduler": "none", "sampler": "random", "trials": 2, "pictures": 0},
    }
    (tmp_path / "s.yaml").write_text(write_yaml(tree))
    return load_study(tmp_path / "s.yaml")


def search_command(folder: Path) -> list[str]:
    words = ["--space", str(folder / "s.yaml"), "--out", str(folder / "runs"), "--name", "s"]
    return [sys.executable, "-m", "segtune.search", *words]


def environment(**changes: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **changes}


@pytest.mark.ray
def test_a_search_runs_if_tmpdir_is_too_long_for_sockets(study: Study, tmp_path: Path) -> None:
    folder = tmp_path / ("t" * 100)
    folder.mkdir()
    done = subprocess.run(
        search_command(tmp_path),
        env=environment(TMPDIR=str(folder)),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode in (0, 3), done.stderr  # 3: no healthy trial of so few steps
    assert "too long for the paths of Ray's sockets; Ray's files are in /tmp/" in done.stderr
    verdicts = [trial.read_verdict() for trial in SearchDir(tmp_path / "runs" / "s").trial_dirs()]
    assert [verdict and verdict.state for verdict in verdicts] == ["completed"] * 2
    used = done.stderr.partition("Ray's files are in ")[2].split()[0]
    assert not Path(used).exists()


@pytest.mark.ray
def test_sigterm_while_ray_starts_says_how_to_resume(study: Study, tmp_path: Path) -> None:
    process = subprocess.Popen(
        search_command(tmp_path),
        env=environment(PYTHONUNBUFFERED="1"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout
    for line in process.stdout:
        if line.startswith("watch it:"):  # printed just before Ray starts
            break
    time.sleep(1.0)
    process.send_signal(signal.SIGTERM)
    rest, _ = process.communicate(timeout=60)
    assert process.returncode == 130, rest
    assert "interrupted; resume it with:" in rest


@pytest.mark.parametrize(
    ("folder", "problem"),
    [
        ("/tmp", ""),
        ("/tmp/" + "t" * 60, "too long for the paths of Ray's sockets"),
        ("/tmp/" + "ü" * 15, "too long"),  # 35 bytes
        ("relative", "not an absolute path"),
        ("/proc/absent", "cannot be written (No such file or directory)"),
        ("/dev/null", "cannot be written (File exists)"),
    ],
)
def test_a_folder_in_which_ray_cannot_make_sockets_is_found(folder: str, problem: str) -> None:
    found = folder_problem(folder)
    assert problem in found
    assert bool(found) == bool(problem)


def test_ray_tmpdir_comes_before_tmpdir(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", "/b")
    monkeypatch.setenv("RAY_TMPDIR", "/a")
    assert ray_folder() == "/a"
    monkeypatch.delenv("RAY_TMPDIR")
    assert ray_folder() == "/b"


def test_trials_keep_the_folder_for_temporary_files_of_the_user(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Decoded images go there, and /tmp may be small."""
    monkeypatch.setenv("TMPDIR", "/a/large/disk")
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    runtime_env: dict[str, object] = {}
    with ray_session._temporary_files_in("/tmp/short", runtime_env):
        assert (os.environ["TMPDIR"], os.environ["RAY_TMPDIR"]) == ("/tmp/short", "/tmp/short")
    assert runtime_env == {"env_vars": {"TMPDIR": "/a/large/disk"}}
    assert os.environ["TMPDIR"] == "/a/large/disk"
    assert "RAY_TMPDIR" not in os.environ


def connect(address: str) -> None:
    with ray_connection(address):
        pass


def test_a_cluster_that_does_not_answer_is_said_at_once() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        began = time.monotonic()
        with pytest.raises(ClusterError, match=r"no Ray cluster answers .*refused"):
            connect(address)
    assert time.monotonic() - began < 10


def test_a_home_that_cannot_be_written_is_named_with_the_remedy() -> None:
    message = r"/root/\.ray: permission denied.*set HOME and RAY_TMPDIR"
    with pytest.raises(ClusterError, match=message), ray_session._as_cluster_error(None):
        raise PermissionError(errno.EACCES, "Permission denied", "/root/.ray")


def interrupt_as_ray_does() -> None:
    with ray_session._interrupted_by_signals():
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(15))
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1)


def test_sigterm_raises_keyboard_interrupt_also_from_the_handler_of_ray() -> None:
    earlier = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        interrupt_as_ray_does()
    assert signal.getsignal(signal.SIGTERM) is earlier


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_ctrl_c_that_python_drops_in_a_callback_still_ends_the_start() -> None:
    class Interrupts:
        """Python ignores exceptions of `__del__`, as it does those of callbacks of a fork."""

        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)

    def start() -> None:
        with ray_session._interrupted_by_signals():
            Interrupts()

    # An earlier search in this process may have left another handler.
    earlier = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            start()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, earlier)


def begin_trial(study: Study, run: SearchDir) -> tuple[StudySearcher, dict]:
    prepare_study(run, study)
    searcher = StudySearcher.from_run(study, run)
    return searcher, searcher.suggest("t")


def test_a_full_disk_interrupts_the_trial_and_stops_the_search(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    searcher, drawn = begin_trial(study, SearchDir(tmp_path / "s"))

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "x"))

    monkeypatch.setattr("segtune.cluster.trial._train", full)
    placement = Placement(workers=1, cpus=1.0, gpus=0.0, concurrent=1)
    run_trial(drawn, study=study, run=str(tmp_path / "s"), placement=placement)
    verdict = searcher.run.trial(0).read_verdict()
    assert verdict
    assert (verdict.state, verdict.kind, verdict.is_final) == ("interrupted", "disk", False)
    searcher.on_trial_complete("t", {"epoch": 1})
    assert searcher.suggest("t2") == StudySearcher.FINISHED
    assert f"{tmp_path}/x: no space left on the disk" in searcher.disk_problem
    assert StudySearcher.from_run(study, searcher.run).unfinished == [0]


@pytest.mark.parametrize(
    ("number", "kind"), [(errno.EIO, "lost"), (errno.ESTALE, "lost"), (errno.ENOENT, "exception")]
)
def test_a_lost_network_disk_is_a_machine_fault(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, kind: str
) -> None:
    searcher, drawn = begin_trial(study, SearchDir(tmp_path / "s"))

    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number), "/mnt/nfs/x.jpg")

    monkeypatch.setattr("segtune.cluster.trial._train", fail)
    placement = Placement(workers=1, cpus=1.0, gpus=0.0, concurrent=1)
    run_trial(drawn, study=study, run=str(tmp_path / "s"), placement=placement)
    assert (searcher.run.trial(0).read_verdict() or Verdict(state="completed")).kind == kind
