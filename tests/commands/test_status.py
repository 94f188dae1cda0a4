"""`segtune status --json` and `--watch`: the state of a search for programs, and as it goes on."""

import json
import os
import pty
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from segtune import status
from segtune.config.schema import ExperimentConfig
from segtune.config.yaml_io import write_yaml
from segtune.reporting.status_tree import FORECAST
from segtune.runs.activity import read_activity
from segtune.runs.atomic import write_atomic
from segtune.runs.records import EpochRecord, ValidationScores
from segtune.runs.rundir import SearchDir
from segtune.runs.verdict import State, Verdict
from segtune.tuning.preparation import prepare_study
from segtune.tuning.study_reader import load_study

ROOT = Path(__file__).parents[2]
# Holds a search run as a driver does. A line on stdin ends a trial; the end of stdin ends the
# driver.
DRIVER = """
import sys, time
from segtune.runs.records import EpochRecord, ValidationScores
from segtune.runs.rundir import SearchDir
from segtune.runs.timeline import recorded
from segtune.runs.verdict import Verdict

run = SearchDir.open(sys.argv[1])
with run.locked(), recorded(run, lambda: 1, 1):
    print("running", flush=True)
    for line in sys.stdin:
        trial = run.trial(int(line))
        scores = ValidationScores(miou=0.5, constant_miou=0.1)
        trial.append_epoch(EpochRecord(epoch=1, validation=scores))
        trial.write_verdict(Verdict(state="completed", epoch=1))
"""


def end_trial(run: SearchDir, number: int, state: State, miou: float) -> None:
    trial = run.trial(number)
    write_atomic(trial.params, json.dumps({"optim.lr": 0.01}))
    scores = ValidationScores(miou=miou, constant_miou=0.1)
    trial.append_epoch(EpochRecord(epoch=2, seconds=3.0, validation=scores))
    kind = "diverged" if state == "unhealthy" else ""
    trial.write_verdict(Verdict(state=state, kind=kind, epoch=2))


@pytest.fixture
def run(tiny_config: ExperimentConfig, tmp_path: Path) -> SearchDir:
    """A search run of four trials, of which two have ended."""
    space = {"optim.lr": {"loguniform": [1e-5, 1e-1]}}
    search = {"trials": 4, "scheduler": "none", "budget": {"epochs": 9}}
    tree = {"config": tiny_config.dump(), "space": space, "search": search}
    (tmp_path / "s.yaml").write_text(write_yaml(tree))
    run = SearchDir(tmp_path / "runs" / "a")
    prepare_study(run, load_study(tmp_path / "s.yaml"))
    end_trial(run, 0, "completed", 0.25)
    end_trial(run, 1, "unhealthy", 0.75)
    return run


def start(*words: str, **options: object) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen([sys.executable, *words], text=True, env=environment, **options)


@pytest.fixture
def driver(run: SearchDir):  # noqa: ANN201
    pipe = subprocess.PIPE
    process = start("-c", DRIVER, str(run.path), stdin=pipe, stdout=pipe)
    assert process.stdout.readline() == "running\n"
    yield process
    process.stdin.close()
    process.wait()


def state_of(run: SearchDir, capsys: pytest.CaptureFixture[str]) -> dict:
    assert status.main([str(run.path), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_json_has_the_whole_state(run: SearchDir, capsys: pytest.CaptureFixture[str]) -> None:
    tree = state_of(run, capsys)
    assert (tree["format"], tree["kind"], tree["run"]) == (1, "search", str(run.path))
    assert tree["settings"] == ["optim.lr"]
    assert tree["counts"] == {
        "trials": 4,
        "started": 2,
        "ended": 2,
        "by_state": {"completed": 1, "unhealthy": 1},
    }
    assert (tree["best"]["trial"], tree["best"]["miou"]) == ("0000", 0.25)
    assert tree["trials"][0] == tree["best"]
    assert tree["trials"][1]["kind"] == "diverged"
    assert tree["trials"][1]["may_win"] is False
    assert tree["budget"]["epochs"] == {"used": 2, "limit": 9}
    assert tree["budget"]["hours"]["limit"] is None
    assert tree["driver"]["running"] is False
    assert (tree["end"], tree["forecast"], tree["full"], tree["rungs"]) == (None, None, None, [])


def test_json_into_a_file_leaves_the_table(
    run: SearchDir, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert status.main([str(run.path), "--json", str(tmp_path / "state.json")]) == 0
    assert "trial 0000, mIoU 25.00" in capsys.readouterr().out
    assert json.loads((tmp_path / "state.json").read_text())["counts"]["ended"] == 2


def test_json_of_a_trial_and_of_a_folder_of_runs(
    run: SearchDir, capsys: pytest.CaptureFixture[str]
) -> None:
    write_atomic(run.trial(0).config, "{}\n")
    tree = state_of(SearchDir(run.trial(0).path), capsys)
    assert (tree["kind"], tree["epoch"], tree["miou"]) == ("training", 2, 0.25)
    assert tree["verdict"]["state"] == "completed"
    tree = state_of(SearchDir(run.path.parent), capsys)
    assert tree["kind"] == "runs"
    assert [(row["best"], row["ended"], row["running"]) for row in tree["runs"]] == [
        ("0000", 2, False)
    ]


def test_every_field_is_in_the_documentation(
    run: SearchDir, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (ROOT / "docs" / "status.md").read_text()
    tree = state_of(run, capsys)
    names = {*tree, *tree["counts"], *tree["best"], *tree["driver"], *tree["budget"], *FORECAST}
    assert {name for name in names if f"`{name}`" not in page} == set()


def test_watch_prints_a_line_for_each_change_and_ends_with_the_driver(
    run: SearchDir, driver: subprocess.Popen[str]
) -> None:
    words = ["-m", "segtune.status", str(run.path), "--watch", "0.1"]
    watcher = start(*words, stdout=subprocess.PIPE)
    assert "watching:" in watcher.stdout.readline()
    write_atomic(run.trial(2).params, json.dumps({"optim.lr": 0.02}))
    driver.stdin.write("2\n")
    driver.stdin.flush()
    line = watcher.stdout.readline()
    assert line.startswith("trial 0002 completed at epoch 1: mIoU 50.00; lr 0.02 [3 of 4 trials")
    driver.stdin.close()
    driver.wait()
    rest = watcher.communicate()[0]
    assert "best:        trial 0002, mIoU 50.00" in rest
    assert watcher.returncode == 0


def test_watch_with_json_prints_the_state_at_the_end(
    run: SearchDir,
    driver: subprocess.Popen[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def end_driver(seconds: float) -> None:
        driver.stdin.close()
        driver.wait()

    monkeypatch.setattr("segtune.reporting.watching.time.sleep", end_driver)
    assert status.main([str(run.path), "--watch", "--json"]) == 0
    assert not json.loads(capsys.readouterr().out)["driver"]["running"]


def test_watch_before_the_run_says_where_the_run_belongs(
    run: SearchDir, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        status.main(["--watch", str(run.path)])
    assert "the RUN comes before --watch" in capsys.readouterr().err


def test_watch_on_a_terminal_redraws_and_ctrl_c_leaves_the_search_alone(
    run: SearchDir, driver: subprocess.Popen[str]
) -> None:
    controller, terminal = pty.openpty()
    words = ["-m", "segtune.status", str(run.path), "--watch", "0.1"]
    watcher = start(*words, stdout=terminal, stderr=terminal)
    text = ""
    while "2 of 4 trials" not in text:
        text += os.read(controller, 4096).decode()
    watcher.send_signal(signal.SIGINT)
    assert watcher.wait() == 130
    assert driver.poll() is None
    assert read_activity(run).running


def test_watch_of_a_search_that_has_ended_returns_at_once(
    run: SearchDir, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status.main([str(run.path), "--watch"]) == 0
    out = capsys.readouterr().out
    assert "watching" not in out
    assert "trial 0000, mIoU 25.00" in out


def test_another_machine_knows_a_running_search_by_its_files(
    run: SearchDir, driver: subprocess.Popen[str]
) -> None:
    here = read_activity(run)
    assert (here.running, here.host, here.pid) == (True, socket.gethostname(), driver.pid)
    run.lock.write_text("host elsewhere, process 7")
    assert read_activity(run).running
    time.sleep(0.05)  # the session is recorded later than the lock, also by a coarse clock
    driver.stdin.close()
    assert driver.wait() == 0
    assert not read_activity(run).running


@pytest.mark.parametrize("seconds", ["0", "-1", "soon", "nan", "inf"])
def test_watch_takes_seconds_above_0(
    seconds: str, run: SearchDir, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        status.main([str(run.path), f"--watch={seconds}"])
    assert "expected a number of seconds above 0" in capsys.readouterr().err
