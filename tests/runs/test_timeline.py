"""Laws of the timeline: where the workers' time went, from the times in a search run's files."""

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pytest

from segtune.runs.atomic import write_atomic
from segtune.runs.records import Attempt, EpochRecord
from segtune.runs.rundir import SearchDir
from segtune.runs.timeline import (
    Session,
    Timeline,
    Utilisation,
    read_sessions,
    recorded,
    searched_s,
    timeline,
    utilisation,
)
from segtune.runs.verdict import Verdict


def write_sessions(run: SearchDir, *sessions: Session) -> None:
    write_atomic(run.sessions, "".join(json.dumps(asdict(s)) + "\n" for s in sessions))


def write_trial(
    run: SearchDir,
    number: int,
    starts: Sequence[float],
    epochs: Sequence[tuple[float, float]],
    ended: float | None,
) -> None:
    """Write a trial with the start of each attempt and the time of its verdict.

    `epochs` are (end of the epoch, seconds of training in all epochs so far).
    """
    trial = run.trial(number)
    attempts = [asdict(Attempt(start)) for start in starts]
    write_atomic(trial.attempts, "".join(json.dumps(attempt) + "\n" for attempt in attempts))
    for epoch, (epoch_ended, seconds) in enumerate(epochs, 1):
        trial.append_epoch(EpochRecord(epoch, step=epoch, seconds=seconds, ended=epoch_ended))
    if ended is not None:
        verdict = Verdict(state="completed", ended=ended)
        write_atomic(trial.verdict, json.dumps(verdict.dump()) + "\n")


def read_timeline(run: SearchDir) -> Timeline:
    result = timeline(run)
    assert result is not None
    return result


def read_utilisation(run: SearchDir) -> Utilisation:
    result = utilisation(run)
    assert result is not None
    return result


@pytest.fixture
def two_sessions(search_run: SearchDir) -> SearchDir:
    """Two trials at a time for 100 s; in a later session one trial at a time for 100 s."""
    write_sessions(search_run, Session(1000.0, 1100.0, 2, 1), Session(2000.0, 2100.0, 1, 1))
    write_trial(search_run, 0, [1000.0], [(1030.0, 20.0), (1050.0, 40.0)], 1050.5)
    write_trial(search_run, 1, [1002.0], [(1032.0, 18.0)], 1032.0)
    write_trial(search_run, 2, [1051.0], [(1061.0, 9.0)], 1061.0)
    # Trial 3 begins in the first session and continues in the second.
    write_trial(search_run, 3, [1062.0], [(1070.0, 5.0), (2050.0, 45.0)], 2051.0)
    return search_run


def test_busy_time_is_the_seconds_of_the_epochs_of_each_session(two_sessions: SearchDir) -> None:
    used = read_utilisation(two_sessions)
    assert used.worker_seconds == 300.0
    assert used.busy_share == pytest.approx((40 + 18 + 9 + 5 + 40) / 300)


def test_the_first_launch_of_each_slot_is_apart_from_the_later_ones(
    two_sessions: SearchDir,
) -> None:
    used = read_utilisation(two_sessions)
    assert (used.first_launch_s, used.later_launch_s, used.worst_launch_s) == (11.0, 2.0, 3.0)
    assert used.summary == (
        "busy 37 % of 5.0 worker-minutes (training and validation); "
        "39 % idle at the end, after the last trial of each slot; "
        "first trials started in 11.0 s; later trials in 2.0 s"
    )


def test_a_launch_without_an_epoch_is_not_counted(search_run: SearchDir) -> None:
    write_sessions(search_run, Session(1000.0, 1100.0, 1, 1))
    write_trial(search_run, 0, [1001.0], [], 1010.0)
    write_trial(search_run, 1, [1011.0], [(1030.0, 17.0)], 1030.0)
    used = read_utilisation(search_run)
    assert (used.first_launch_s, used.later_launch_s) == (None, 2.0)
    assert used.summary.endswith("after the last trial of each slot; later trials in 2.0 s")


def test_the_launch_of_a_restarted_trial_is_not_counted(search_run: SearchDir) -> None:
    # Its first step is one of the second attempt, 49 s after the draw.
    write_sessions(search_run, Session(1000.0, 1100.0, 1, 1))
    write_trial(search_run, 0, [1001.0, 1040.0], [(1060.0, 10.0)], 1060.5)
    assert read_utilisation(search_run).first_launch_s is None


def test_the_timeline_leaves_out_the_time_between_sessions(two_sessions: SearchDir) -> None:
    result = read_timeline(two_sessions)
    assert (result.seconds, result.num_slots) == (200.0, 2)
    assert [(i.trial, i.slot, i.began, i.ended, i.epochs) for i in result.intervals] == [
        ("0000", 1, 0.0, 50.5, ((10.0, 30.0), (30.0, 50.0))),
        ("0001", 2, 2.0, 32.0, ((14.0, 32.0),)),
        # In the slot that has just become free, not in the one that was free before.
        ("0002", 1, 51.0, 61.0, ((52.0, 61.0),)),
        # The trial did not end in the session, so the interval ends with the session.
        ("0003", 1, 62.0, 100.0, ((65.0, 70.0),)),
        # The second session begins after 100 s of search.
        ("0003", 1, 110.0, 151.0, ((110.0, 150.0),)),
    ]


def test_a_trial_without_an_epoch_has_an_interval(search_run: SearchDir) -> None:
    write_sessions(search_run, Session(1000.0, 1100.0, 1, 1))
    write_trial(search_run, 0, [1001.0], [], 1041.0)
    intervals = read_timeline(search_run).intervals
    assert [(i.began, i.ended, i.epochs) for i in intervals] == [(1.0, 41.0, ())]


def test_a_resumed_trial_has_an_interval_from_the_start_of_its_new_attempt(
    search_run: SearchDir,
) -> None:
    write_sessions(search_run, Session(1000.0, 1100.0, 1, 1), Session(2000.0, 2100.0, 1, 1))
    write_trial(search_run, 0, [1010.0, 2005.0], [(1050.0, 30.0), (2040.0, 40.0)], 2041.0)
    intervals = read_timeline(search_run).intervals
    assert [(i.began, i.ended, i.epochs) for i in intervals] == [
        (10.0, 100.0, ((20.0, 50.0),)),
        (105.0, 141.0, ((130.0, 140.0),)),
    ]


def test_an_attempt_without_an_epoch_has_an_interval_in_its_session(search_run: SearchDir) -> None:
    sessions = [Session(start, start + 100.0, 1, 1) for start in (1000.0, 2000.0, 3000.0)]
    write_sessions(search_run, *sessions)
    write_trial(search_run, 0, [1010.0, 2005.0, 3005.0], [(3040.0, 10.0)], 3041.0)
    intervals = read_timeline(search_run).intervals
    assert [(i.began, i.ended) for i in intervals] == [
        (10.0, 100.0),
        (105.0, 200.0),
        (205.0, 241.0),
    ]


def test_a_paused_trial_holds_no_slot(search_run: SearchDir) -> None:
    write_sessions(search_run, Session(1000.0, 1100.0, 1, 1))
    write_trial(search_run, 0, [1000.0], [(1020.0, 20.0), (1080.0, 40.0)], 1081.0)
    attempts = [Attempt(1000.0), Attempt(1060.0, paused=1021.0, pause_epoch=1)]
    lines = [json.dumps(asdict(attempt)) + "\n" for attempt in attempts]
    write_atomic(search_run.trial(0).attempts, "".join(lines))
    write_trial(search_run, 1, [1021.0], [(1055.0, 30.0)], 1056.0)
    intervals = read_timeline(search_run).intervals
    assert [(i.trial, i.slot, i.began, i.ended, i.epochs) for i in intervals] == [
        ("0000", 1, 0.0, 21.0, ((0.0, 20.0),)),
        ("0001", 1, 21.0, 56.0, ((25.0, 55.0),)),
        ("0000", 1, 60.0, 81.0, ((60.0, 80.0),)),
    ]
    assert read_utilisation(search_run).busy_share == pytest.approx(0.7)


def test_clocks_that_disagree_add_no_slots(search_run: SearchDir) -> None:
    write_sessions(search_run, Session(1000.0, 1100.0, 1, 1))
    write_trial(search_run, 0, [1000.0], [(1050.0, 50.0)], 1050.5)
    write_trial(search_run, 1, [1050.0], [(1090.0, 39.0)], 1090.0)
    result = read_timeline(search_run)
    assert (result.num_slots, [i.slot for i in result.intervals]) == (1, [1, 1])
    assert read_utilisation(search_run).tail_share == pytest.approx(0.1)


def test_a_slot_is_idle_after_its_last_trial(two_sessions: SearchDir) -> None:
    # First session: slot 1 has a trial until the end, slot 2 until 32 s. Second: until 51 s.
    assert read_utilisation(two_sessions).tail_share == pytest.approx((0 + 68 + 49) / 300)


def test_each_worker_of_a_group_counts(two_sessions: SearchDir) -> None:
    text = two_sessions.sessions.read_text()
    write_atomic(two_sessions.sessions, text.replace('"workers": 1', '"workers": 4'))
    used = read_utilisation(two_sessions)
    assert (used.worker_seconds, used.busy_share) == (1200.0, pytest.approx(112 / 300))


def test_a_session_is_recorded_even_if_it_raises(search_run: SearchDir) -> None:
    assert utilisation(search_run) is None
    assert timeline(search_run) is None
    with pytest.raises(KeyboardInterrupt), recorded(search_run, lambda: 2, 1):
        raise KeyboardInterrupt
    with recorded(search_run, lambda: 1, 4):
        pass
    sessions = read_sessions(search_run)
    assert [(session.concurrent, session.workers) for session in sessions] == [(2, 1), (1, 4)]
    assert read_utilisation(search_run).summary.startswith("busy 0 % of")


def test_a_search_run_of_an_early_version_has_busy_time_and_no_launches(
    early_run: SearchDir,
) -> None:
    used = read_utilisation(early_run)
    (session,) = read_sessions(early_run)
    trials = [trial.read_epochs() for trial in early_run.trial_dirs()]
    busy_s = sum(epochs[-1].seconds for epochs in trials if epochs)
    assert 0.0 < used.busy_share < 1.0
    assert used.busy_share == pytest.approx(busy_s / session.seconds)
    launches = (used.first_launch_s, used.later_launch_s, used.worst_launch_s)
    assert launches == (None, None, None)
    # A verdict without a time: the trial ended with its last epoch.
    first = read_timeline(early_run).intervals[0]
    assert (first.trial, first.ended) == ("0000", first.epochs[-1][1])


def test_the_times_of_the_files_change_nothing(
    two_sessions: SearchDir, early_run: SearchDir, tmp_path: Path
) -> None:
    for run in (two_sessions, early_run):
        copy = SearchDir(shutil.copytree(run.path, tmp_path / "copies" / run.path.name))
        for seconds, path in enumerate(sorted(copy.path.rglob("*"))):
            os.utime(path, (1010.0 + seconds, 1010.0 + seconds))
        assert timeline(copy) == read_timeline(run)
        assert utilisation(copy) == read_utilisation(run)


def test_the_time_of_a_search_is_that_of_its_sessions(two_sessions: SearchDir) -> None:
    assert searched_s(two_sessions) == 200.0


def test_the_time_of_a_killed_session_is_that_of_its_trials(search_run: SearchDir) -> None:
    write_sessions(search_run, Session(3000.0, 3100.0, 2, 1))
    # Two trials side by side, from 1000 to 1052 and from 1040 to 1070: 70 s.
    write_trial(search_run, 0, [1000.0], [(1032.0, 30.0), (1052.0, 50.0)], None)
    # Its second attempt begins in the recorded session. The epoch that was cut off is not known.
    write_trial(search_run, 1, [1040.0, 3005.0], [(1070.0, 28.0), (3040.0, 58.0)], 3041.0)
    assert searched_s(search_run) == 170.0


def test_a_search_that_has_not_begun_has_taken_no_time(search_run: SearchDir) -> None:
    assert searched_s(search_run) == 0.0
