"""Where the workers' time went, from a run's files alone."""

import json
import os

import pytest

from segtune.runs.atomic import write_atomic
from segtune.runs.rundir import SearchDir
from segtune.runs.timeline import Session, recorded, sessions_of, timeline, utilisation


def trial_with(run, number, drawn, ends, seconds, over=None):
    """A trial drawn at a time, whose epochs ended at times, with the seconds of all epochs so far; `over` is when it had its verdict."""
    trial = run.trial(number)
    at(trial.params, drawn)
    for epoch, (end, total) in enumerate(zip(ends, seconds, strict=True), 1):
        trial.append_epoch({"epoch": epoch, "step": epoch, "ended": end, "seconds": total})
    if over:
        at(trial.verdict, over)
    return trial


def at(path, when):
    """Writes a file as of a moment."""
    write_atomic(path, "1")
    os.utime(path, (when, when))


def sessions(run, *told):
    write_atomic(run.sessions, "".join(json.dumps(vars(session)) + "\n" for session in told))


@pytest.fixture
def run(tmp_path):
    run = SearchDir(tmp_path)
    # Two trials at a time for 100 s; a session later one alone.
    sessions(run, Session(1000.0, 1100.0, 2, 1), Session(2000.0, 2100.0, 1, 1))
    trial_with(run, 0, drawn=1000.0, ends=[1030.0, 1050.0], seconds=[20.0, 40.0], over=1050.5)
    trial_with(run, 1, drawn=1002.0, ends=[1032.0], seconds=[18.0], over=1032.0)
    trial_with(run, 2, drawn=1051.0, ends=[1061.0], seconds=[9.0], over=1061.0)
    # Begun in the first session, gone on with in the second.
    trial_with(run, 3, drawn=1062.0, ends=[1070.0, 2050.0], seconds=[5.0, 45.0], over=2051.0)
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
        "busy 37 % of 5.0 worker-minutes (training and validation), 39 % on places after their last trial; "
        "first step after 11.0 s; in later trials after 2.0 s"
    )


def test_launches_that_were_not_seen_are_not_told(tmp_path):
    run = SearchDir(tmp_path)
    sessions(run, Session(1000.0, 1100.0, 1, 1))
    trial_with(run, 0, drawn=1001.0, ends=[], seconds=[], over=1010.0)
    trial_with(run, 1, drawn=1011.0, ends=[1030.0], seconds=[17.0], over=1030.0)
    used = utilisation(run)
    assert used is not None
    assert used.words.endswith("after their last trial; in later trials after 2.0 s")


def test_what_each_trial_did_is_told_in_seconds_of_search(run):
    told = timeline(run)
    assert told is not None
    assert (told.seconds, told.places) == (200.0, 2)
    assert [(s.trial, s.place, s.began, s.ended, s.epochs) for s in told.stays] == [
        ("0000", 1, 0.0, 50.5, ((10.0, 30.0), (30.0, 50.0))),
        ("0001", 2, 2.0, 32.0, ((14.0, 32.0),)),
        # On the place that has just become free, not on the one that stood empty before.
        ("0002", 1, 51.0, 61.0, ((52.0, 61.0),)),
        # It had not ended with the session, so it was there until then.
        ("0003", 1, 62.0, 100.0, ((65.0, 70.0),)),
        # The second session begins at 100 s of search; what lay between them is left out.
        ("0003", 1, 110.0, 151.0, ((110.0, 150.0),)),
    ]


def test_a_trial_without_an_epoch_has_been_there(tmp_path):
    run = SearchDir(tmp_path)
    sessions(run, Session(1000.0, 1100.0, 1, 1))
    trial_with(run, 0, drawn=1001.0, ends=[], seconds=[], over=1041.0)
    told = timeline(run)
    assert told is not None
    assert [(s.began, s.ended, s.epochs) for s in told.stays] == [(1.0, 41.0, ())]


def test_a_trial_that_is_started_again_is_there_from_its_new_start(tmp_path):
    run = SearchDir(tmp_path)
    sessions(run, Session(1000.0, 1100.0, 1, 1), Session(2000.0, 2100.0, 1, 1))
    trial = trial_with(
        run, 0, drawn=1010.0, ends=[1050.0, 2040.0], seconds=[30.0, 40.0], over=2041.0
    )
    at(trial.attempts, 2005.0)
    told = timeline(run)
    assert told is not None
    assert [(s.began, s.ended, s.epochs) for s in told.stays] == [
        (10.0, 100.0, ((20.0, 50.0),)),
        (105.0, 141.0, ((130.0, 140.0),)),
    ]


def test_clocks_that_disagree_make_no_places(tmp_path):
    run = SearchDir(tmp_path)
    sessions(run, Session(1000.0, 1100.0, 1, 1))
    trial_with(run, 0, drawn=1000.0, ends=[1050.0], seconds=[50.0], over=1050.5)
    trial_with(run, 1, drawn=1050.0, ends=[1090.0], seconds=[39.0], over=1090.0)
    told, used = timeline(run), utilisation(run)
    assert told is not None
    assert used is not None
    assert (told.places, [s.place for s in told.stays]) == (1, [1, 1])
    assert used.tail == pytest.approx(0.1)


def test_places_are_over_after_their_last_trial(run):
    used = utilisation(run)
    assert used is not None
    # First session: place 1 has a trial to its end, place 2 is over at 32 s. Second: at 51 s.
    assert used.tail == pytest.approx((0 + 68 + 49) / 300)


def test_workers_of_a_group_count_each(run):
    write_atomic(run.sessions, run.sessions.read_text().replace('"workers": 1', '"workers": 4'))
    used = utilisation(run)
    assert used is not None
    assert (used.worker_seconds, used.busy) == (1200.0, pytest.approx(112 / 300))


def test_a_session_is_kept_however_it_ends(tmp_path):
    run = SearchDir(tmp_path)
    assert utilisation(run) is None
    with pytest.raises(KeyboardInterrupt), recorded(run, 2, 1):
        raise KeyboardInterrupt
    with recorded(run, 1, 4):
        pass
    assert [(session.concurrent, session.workers) for session in sessions_of(run)] == [
        (2, 1),
        (1, 4),
    ]
    used = utilisation(run)
    assert used is not None
    assert used.words.startswith("busy 0 % of")
