"""Where the workers' time went, from a run's files alone."""

import json
import os

import pytest

from segtune.rundir import RunDir, write_atomic
from segtune.utilisation import Session, recorded, sessions_of, timeline, utilisation


def trial_with(run, number, drawn, ends, seconds):
    """A trial drawn at a time, whose epochs ended at times, with the seconds of all epochs so far."""
    trial = run.trial(number)
    write_atomic(trial.params, "{}")
    os.utime(trial.params, (drawn, drawn))
    for epoch, (end, total) in enumerate(zip(ends, seconds, strict=True), 1):
        trial.append_epoch({"epoch": epoch, "step": epoch, "ended": end, "seconds": total})


@pytest.fixture
def run(tmp_path):
    run = RunDir(tmp_path)
    # Two trials at a time for 100 s; a session later one alone.
    sessions = [Session(1000.0, 1100.0, 2, 1), Session(2000.0, 2100.0, 1, 1)]
    write_atomic(run.sessions, "".join(json.dumps(vars(session)) + "\n" for session in sessions))
    trial_with(run, 0, drawn=1000.0, ends=[1030.0, 1050.0], seconds=[20.0, 40.0])
    trial_with(run, 1, drawn=1002.0, ends=[1032.0], seconds=[18.0])
    trial_with(run, 2, drawn=1051.0, ends=[1061.0], seconds=[9.0])
    # Begun in the first session, gone on with in the second.
    trial_with(run, 3, drawn=1062.0, ends=[1070.0, 2050.0], seconds=[5.0, 45.0])
    return run


def test_busy_is_what_epochs_took_in_their_sessions(run):
    used = utilisation(run)
    assert used is not None
    assert used.worker_seconds == 300.0
    assert used.busy == pytest.approx((40 + 18 + 9 + 5 + 40) / 300)


def test_the_first_launches_are_told_apart_from_the_later(run):
    used = utilisation(run)
    assert used is not None
    assert (used.first_launch, used.later_launch, used.worst_launch) == (11.0, 2.0, 3.0)
    assert used.words == (
        "busy 37 % of 5.0 worker-minutes (training and validation), 39 % empty at the end, when no trial was left to start; "
        "first step after 11.0 s, in later trials after 2.0 s"
    )


def test_what_each_trial_did_is_told_in_seconds_of_search(run):
    assert [(s.trial, s.place, s.doing, s.began, s.ended) for s in timeline(run)] == [
        ("0000", 1, "starting", 0.0, 10.0),
        ("0000", 1, "training", 10.0, 50.0),
        ("0001", 2, "starting", 2.0, 14.0),
        ("0001", 2, "training", 14.0, 32.0),
        # On the place that has just become free, not on the one that stood empty before.
        ("0002", 1, "starting", 51.0, 52.0),
        ("0002", 1, "training", 52.0, 61.0),
        ("0003", 1, "starting", 62.0, 65.0),
        ("0003", 1, "training", 65.0, 70.0),
        # The second session begins at 100 s of search; what lay between them is left out.
        ("0003", 1, "training", 110.0, 150.0),
    ]


def test_a_pause_breaks_a_stretch_and_a_blink_does_not(tmp_path):
    run = RunDir(tmp_path)
    write_atomic(run.sessions, json.dumps(vars(Session(0.0, 100.0, 1, 1))) + "\n")
    trial_with(run, 0, drawn=0.0, ends=[10.0, 20.5, 40.0], seconds=[10.0, 20.0, 30.0])
    assert [(s.began, s.ended) for s in timeline(run) if s.doing == "training"] == [(0.0, 20.5), (30.0, 40.0)]


def test_places_that_nobody_starts_on_any_more_are_told_apart(run):
    used = utilisation(run)
    assert used is not None
    # First session: the last trial starts at 62 s on place 1 and ends at 70 s; place 2 stood empty before. Second: from 50 s on.
    assert used.tail == pytest.approx((30 + 38 + 50) / 300)


def test_workers_of_a_group_count_each(run):
    write_atomic(run.sessions, run.sessions.read_text().replace('"workers": 1', '"workers": 4'))
    used = utilisation(run)
    assert used is not None
    assert (used.worker_seconds, used.busy) == (1200.0, pytest.approx(112 / 300))


def test_a_session_is_kept_however_it_ends(tmp_path):
    run = RunDir(tmp_path)
    assert utilisation(run) is None
    with pytest.raises(KeyboardInterrupt), recorded(run, 2, 1):
        raise KeyboardInterrupt
    with recorded(run, 1, 4):
        pass
    assert [(session.concurrent, session.workers) for session in sessions_of(run)] == [(2, 1), (1, 4)]
    used = utilisation(run)
    assert used is not None
    assert used.words.startswith("busy 0 % of")
