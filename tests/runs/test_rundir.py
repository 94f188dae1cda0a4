"""Laws of the run folder: no record that was written is lost, and no incomplete line is read."""

import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from segtune.errors import RunError
from segtune.runs.records import Attempt, EpochRecord, ValidationScores
from segtune.runs.rundir import SearchDir, StaleAttemptError, TrialDir, check_name
from segtune.runs.verdict import Verdict

LOCK = """
import sys
from pathlib import Path
from segtune.runs.rundir import SearchDir

with SearchDir(Path(sys.argv[1])).locked():
    pass
"""


def lock_in_another_process(run: SearchDir) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", LOCK, str(run.path)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def epoch(number: int, miou: float) -> EpochRecord:
    return EpochRecord(number, validation=ValidationScores(miou, constant_miou=0.0))


def test_an_incomplete_line_is_skipped_and_the_later_record_of_an_epoch_counts(
    search_run: SearchDir,
) -> None:
    trial = search_run.trial(0)
    for record in (epoch(1, 0.1), epoch(2, 0.2), epoch(2, 0.25)):
        trial.append_epoch(record)
    with trial.epochs.open("a") as file:
        file.write('{"epoch": 3, "mi')
    assert trial.read_epochs() == [epoch(1, 0.1), epoch(2, 0.25)]
    trial.cut_epochs(1)
    assert trial.read_epochs() == [epoch(1, 0.1)]
    # The incomplete line is gone too, so the next record has a line of its own.
    trial.append_epoch(epoch(2, 0.3))
    assert trial.read_epochs() == [epoch(1, 0.1), epoch(2, 0.3)]


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_non_finite_numbers_are_never_written(search_run: SearchDir, number: float) -> None:
    trial = search_run.trial(0)
    trial.append_epoch(epoch(1, 0.1))
    with pytest.raises(ValueError):
        trial.append_epoch(epoch(2, number))
    assert trial.read_epochs() == [epoch(1, 0.1)]


def test_progress_is_the_last_finished_epoch_up_to_a_limit(search_run: SearchDir) -> None:
    trial = search_run.trial(0)
    assert trial.progress() == (0, 0)
    for number in (1, 2, 3):
        trial.append_epoch(EpochRecord(number, step=10 * number))
    assert trial.progress() == (3, 30)
    assert trial.progress(2) == (2, 20)


def test_a_second_driver_is_refused_and_the_first_one_named(search_run: SearchDir) -> None:
    with search_run.locked():
        second = lock_in_another_process(search_run)
    assert "another search is using this folder (host" in second.stderr
    assert f"process {os.getpid()})" in second.stderr
    assert lock_in_another_process(search_run).returncode == 0


def test_a_folder_without_a_study_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "study.yaml").write_text("")
    with pytest.raises(RunError, match=r"no search has been run here.*: a"):
        SearchDir.open(tmp_path / "b")


@pytest.mark.parametrize("name", ["../x", "", "a/b", "-x", "x" * 65])
def test_hostile_run_names_are_refused(name: str) -> None:
    with pytest.raises(RunError):
        check_name(name)


def test_an_older_attempt_may_not_write(search_run: SearchDir) -> None:
    trial = search_run.trial(0)
    old = search_run.trial(0, trial.begin_attempt())
    old.append_epoch(epoch(1, 0.1))
    new = search_run.trial(0, trial.begin_attempt())
    message = "attempt 1 may not write any more, attempt 2 has begun"
    with pytest.raises(StaleAttemptError, match=message):
        old.append_epoch(epoch(2, 0.2))
    with pytest.raises(StaleAttemptError, match=message):
        old.write_verdict(Verdict(state="failed"))
    new.append_epoch(epoch(2, 0.3))
    assert trial.read_epochs() == [epoch(1, 0.1), epoch(2, 0.3)]
    assert trial.read_verdict() is None


def test_an_attempt_removes_the_verdict_and_heartbeat_of_the_older_one(
    search_run: SearchDir,
) -> None:
    trial = search_run.trial(0)
    trial.begin_attempt()
    trial.heartbeat.write_text("{}")
    trial.write_verdict(Verdict(state="failed", kind="lost"))
    assert trial.begin_attempt() == 2
    assert trial.read_verdict() is None
    assert not trial.heartbeat.exists()


def test_an_attempt_that_cannot_begin_leaves_the_verdict(
    search_run: SearchDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(file: int) -> None:
        raise OSError(errno.ENOSPC, "disk full")

    trial = search_run.trial(0)
    trial.begin_attempt()
    trial.write_verdict(Verdict(state="failed", kind="lost"))
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        trial.begin_attempt()
    verdict = trial.read_verdict()
    assert verdict is not None
    assert verdict.kind == "lost"
    assert len(trial.read_attempts()) == 1


def test_the_times_of_attempts_and_of_the_verdict_are_in_the_files(search_run: SearchDir) -> None:
    trial = search_run.trial(0)
    before = time.time()
    trial.begin_attempt()
    trial.begin_attempt()
    trial.write_verdict(Verdict(state="completed"))
    after = time.time()
    lines = trial.attempts.read_text().splitlines()
    times = [json.loads(line)["started"] for line in lines]
    times.append(json.loads(trial.verdict.read_text())["ended"])
    assert len(times) == 3
    # Times are written with three decimals.
    assert before - 0.001 <= times[0] <= times[1] <= times[2] <= after + 0.001


def test_the_first_verdict_stands(search_run: SearchDir) -> None:
    trial = search_run.trial(0)
    assert trial.write_verdict(Verdict(state="pruned", epoch=2))
    assert not trial.write_verdict(Verdict(state="completed", epoch=3))
    verdict = trial.read_verdict()
    assert verdict is not None
    assert (verdict.state, verdict.epoch) == ("pruned", 2)


def test_an_attempt_that_ends_a_pause_says_since_when_and_after_which_epoch(
    search_run: SearchDir,
) -> None:
    trial = search_run.trial(0)
    trial.begin_attempt()
    trial.write_verdict(Verdict(state="paused", epoch=3))
    verdict = trial.read_verdict()
    assert trial.begin_attempt() == 2
    assert trial.read_verdict() is None
    first, second = trial.read_attempts()
    assert verdict is not None
    assert (first.paused, first.pause_epoch) == (None, None)
    assert (second.paused, second.pause_epoch) == (verdict.ended, 3)


def test_a_paused_trial_that_is_given_up_is_pruned_where_it_waited(search_run: SearchDir) -> None:
    trial = search_run.trial(0)
    trial.write_verdict(Verdict(state="paused", epoch=3, step=7))
    paused = trial.read_verdict()
    assert paused is not None
    trial.give_up(paused)
    assert trial.read_verdict() == paused.override({"state": "pruned"})


def test_an_empty_verdict_is_read_as_no_verdict(search_run: SearchDir) -> None:
    # Without hard links another process may have created the file and not yet written it.
    trial = search_run.trial(0)
    trial.path.mkdir(parents=True)
    trial.verdict.touch()
    assert trial.read_verdict() is None


def test_a_resumed_trial_of_an_early_version_gets_attempt_2(early_run: SearchDir) -> None:
    trial = early_run.trial(0)
    first = TrialDir(trial.path, 1)
    assert first.is_current()
    assert trial.read_attempts() == [Attempt(None)]
    assert trial.begin_attempt() == 2
    assert not first.is_current()
    old, new = trial.read_attempts()
    assert old.started is None
    assert new.started is not None
