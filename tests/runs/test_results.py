"""Laws of the results: the best is healthy, and each trial that has ended is read once."""

import json

import pytest

from segtune.runs.atomic import write_atomic
from segtune.runs.records import EpochRecord, ValidationScores
from segtune.runs.results import TrialReader, best_trial, ranked, read_trials, to_frame
from segtune.runs.rundir import SearchDir, TrialDir
from segtune.runs.verdict import State, Verdict


def append_epoch(trial: TrialDir, epoch: int, miou: float) -> None:
    scores = ValidationScores(miou, constant_miou=0.0)
    trial.append_epoch(EpochRecord(epoch, step=epoch, seconds=float(epoch), validation=scores))


def write_trial(
    run: SearchDir, number: int, mious: list[float], state: State = "completed", lr: float = 1.0
) -> TrialDir:
    """Write a trial that has ended, with an mIoU for each epoch."""
    trial = run.trial(number)
    write_atomic(trial.params, json.dumps({"lr": lr}))
    for epoch, miou in enumerate(mious, 1):
        append_epoch(trial, epoch, miou)
    kind = "non-finite" if state == "unhealthy" else ""
    trial.write_verdict(Verdict(state=state, epoch=len(mious), kind=kind))
    return trial


def test_best_is_the_highest_miou_of_a_healthy_trial(search_run: SearchDir) -> None:
    write_trial(search_run, 0, [0.1, 0.3, 0.2])
    write_trial(search_run, 1, [0.5], "pruned")
    write_trial(search_run, 2, [0.9], "unhealthy")
    write_trial(search_run, 3, [0.5])
    trials = read_trials(search_run)
    assert [trial.number for trial in ranked(trials)] == [1, 3, 0, 2]
    best = best_trial(trials)
    assert best is not None
    assert (best.id, best.miou) == ("0001", 0.5)
    assert (trials[0].miou, trials[0].best_epoch, trials[0].epoch) == (0.3, 2, 3)


def test_no_trial_is_best_if_none_is_healthy(search_run: SearchDir) -> None:
    write_trial(search_run, 0, [])
    write_trial(search_run, 1, [0.9], "failed")
    assert best_trial(read_trials(search_run)) is None


@pytest.mark.parametrize("state", ["pruned", "paused"])
def test_epochs_after_the_one_at_which_a_trial_was_stopped_do_not_count(
    search_run: SearchDir, state: State
) -> None:
    trial = write_trial(search_run, 0, [0.1, 0.2], state)
    append_epoch(trial, 3, 0.9)
    assert read_trials(search_run)[0].miou == 0.2


def test_the_table_has_a_column_for_each_searched_setting(search_run: SearchDir) -> None:
    write_trial(search_run, 0, [0.1, 0.3], lr=0.5)
    frame = to_frame(read_trials(search_run))
    assert list(frame.columns) == ["trial", "state", "kind", "miou", "epoch", "seconds", "lr"]
    assert frame.iloc[0].tolist() == ["0000", "completed", "", 0.3, 2, 2.0, 0.5]


def test_ended_trials_are_read_once_and_running_ones_each_time(search_run: SearchDir) -> None:
    write_trial(search_run, 0, [0.5])
    append_epoch(search_run.trial(1), 1, 0.1)
    reader = TrialReader(search_run)
    first = reader.read()
    search_run.trial(0).epochs.write_text("")
    append_epoch(search_run.trial(1), 2, 0.2)
    again = reader.read()
    assert again[0] is first[0]
    assert (again[1].epoch, again[1].miou) == (2, 0.2)


def test_a_trial_that_was_restarted_and_has_ended_again_is_read_again(
    search_run: SearchDir,
) -> None:
    trial = write_trial(search_run, 0, [0.5])
    reader = TrialReader(search_run)
    reader.read()
    trial.begin_attempt()
    assert reader.read()[0].state == "running"
    append_epoch(trial, 2, 0.7)
    # Its verdict differs from the first one in its time only.
    trial.write_verdict(Verdict(state="completed", epoch=1))
    assert (reader.read()[0].state, reader.read()[0].miou) == ("completed", 0.7)


def test_a_search_run_of_an_early_version_is_read(early_run: SearchDir) -> None:
    trials = read_trials(early_run)
    assert [(trial.id, trial.state, trial.epoch) for trial in trials] == [
        ("0000", "completed", 6),
        ("0001", "unhealthy", 0),
        ("0002", "unhealthy", 0),
        ("0003", "completed", 6),
        ("0004", "pruned", 4),
        ("0005", "completed", 6),
    ]
    best = best_trial(trials)
    assert best is not None
    assert best.miou is not None
    assert all(trial.params for trial in trials)
