"""Laws of the run folder: nothing acknowledged is lost, and what is torn is not read."""

import json
import subprocess
import sys

import pytest

from segtune.errors import RunError
from segtune.runs.atomic import write_atomic
from segtune.runs.results import best_trial, ranked, read_trials, to_frame
from segtune.runs.rundir import SearchDir, StaleAttemptError, TrialDir, check_name
from segtune.runs.verdict import Verdict


@pytest.fixture
def run(tmp_path):
    return SearchDir(tmp_path / "run")


def finished(run, number, mious, state="completed", **params):
    trial = run.trial(number)
    write_atomic(trial.params, json.dumps(params))
    for epoch, miou in enumerate(mious, 1):
        trial.append_epoch({"epoch": epoch, "miou": miou, "seconds": float(epoch)})
    trial.write_verdict(
        Verdict(state=state, epoch=len(mious), kind="non-finite" if state == "unhealthy" else "")
    )
    return trial


def test_failed_write_leaves_the_old_content(tmp_path, monkeypatch):
    target = tmp_path / "a"
    write_atomic(target, "old")
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError):
        write_atomic(target, "new")
    assert target.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_torn_last_line_is_left_out_and_an_epoch_told_twice_counts_once(run):
    trial = run.trial(0)
    for row in ({"epoch": 1, "miou": 0.1}, {"epoch": 2, "miou": 0.2}, {"epoch": 2, "miou": 0.25}):
        trial.append_epoch(row)
    with trial.epochs.open("a") as file:
        file.write('{"epoch": 3, "mi')
    assert trial.read_epochs() == [{"epoch": 1, "miou": 0.1}, {"epoch": 2, "miou": 0.25}]
    trial.cut_epochs(1)
    assert trial.read_epochs() == [{"epoch": 1, "miou": 0.1}]


def test_non_finite_numbers_are_never_written(run):
    with pytest.raises(ValueError):
        run.trial(0).append_epoch({"epoch": 1, "miou": float("nan")})


def test_best_is_the_highest_miou_of_a_healthy_trial(run):
    finished(run, 0, [0.1, 0.3, 0.2], lr=1)
    finished(run, 1, [0.5], "pruned", lr=2)
    finished(run, 2, [0.9], "unhealthy", lr=3)
    trials = read_trials(run)
    assert [t.number for t in ranked(trials)] == [1, 0, 2]
    winner = best_trial(trials)
    assert winner is not None
    assert (winner.id, winner.miou) == ("0001", 0.5)
    assert (trials[0].miou, trials[0].best_epoch, trials[0].epoch) == (0.3, 2, 3)
    frame = to_frame(trials)
    assert list(frame.columns) == ["trial", "state", "kind", "miou", "epoch", "seconds", "lr"]


def test_second_driver_is_refused_and_the_first_one_named(run):
    code = "import sys; from segtune.runs.rundir import SearchDir; from pathlib import Path\nwith SearchDir(Path(sys.argv[1])).locked(): pass"
    with run.locked():
        second = subprocess.run(
            [sys.executable, "-c", code, str(run.path)], capture_output=True, text=True
        )
    assert "another search is using this folder (host" in second.stderr
    assert subprocess.run([sys.executable, "-c", code, str(run.path)], check=False).returncode == 0


def test_folder_without_a_study_is_refused(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "study.yaml").write_text("")
    with pytest.raises(RunError, match=r"no search has been run here.*: a"):
        SearchDir.open(tmp_path / "b")


@pytest.mark.parametrize("name", ["../x", "", "a/b", "-x", "x" * 65])
def test_hostile_run_names_are_refused(name):
    with pytest.raises(RunError):
        check_name(name)


def test_older_attempt_writes_nothing_more(tmp_path):
    trial = TrialDir(tmp_path / "0000")
    old = TrialDir(trial.path, trial.begin_attempt())
    old.append_epoch({"epoch": 1})
    new = TrialDir(trial.path, trial.begin_attempt())
    for write in (
        lambda: old.append_epoch({"epoch": 2}),
        lambda: old.write_verdict(Verdict(state="failed")),
    ):
        with pytest.raises(
            StaleAttemptError, match="attempt 1 writes no more, attempt 2 has begun"
        ):
            write()
    new.append_epoch({"epoch": 2, "by": "new"})
    assert (trial.read_epochs(), trial.read_verdict()) == (
        [{"epoch": 1}, {"epoch": 2, "by": "new"}],
        None,
    )


def test_ended_trials_are_read_once_and_running_ones_each_time(run):
    finished(run, 0, [0.5])
    run.trial(1).append_epoch({"epoch": 1, "step": 1, "miou": 0.1, "seconds": 1.0})
    seen = {}
    first = read_trials(run, seen)
    run.trial(0).epochs.write_text("")
    run.trial(1).append_epoch({"epoch": 2, "step": 2, "miou": 0.2, "seconds": 2.0})
    again = read_trials(run, seen)
    assert again[0] is first[0]
    assert again[1].epoch == 2
    # Started again and ended anew: another verdict is another reading.
    run.trial(0).begin_attempt()
    run.trial(0).write_verdict(Verdict(state="failed", kind="lost"))
    assert read_trials(run, seen)[0].state == "failed"
