"""A search keeps the checkpoints of its best trials, and of all that may go on."""

from segtune.runs.kept_checkpoints import KeptCheckpoints
from segtune.runs.results import TrialResult
from segtune.runs.rundir import SearchDir
from segtune.runs.verdict import Verdict


def trial(run: SearchDir, number: int, miou: float | None, state: str = "completed") -> TrialResult:
    (run.trial(number).checkpoints / "best-00001").mkdir(parents=True)
    return TrialResult(number=number, state=state, miou=miou)


def kept(run: SearchDir, keeper: KeptCheckpoints) -> list[str]:
    keeper.sweep(grace_s=0.0)
    return [trial.id for trial in run.trial_dirs() if trial.checkpoints.exists()]


def test_the_best_trials_keep_theirs_as_better_ones_end(search_run: SearchDir) -> None:
    keeper = KeptCheckpoints(search_run, 2, [])
    for number, miou in enumerate([0.3, 0.5, 0.4, 0.2], 1):
        keeper.ended(trial(search_run, number, miou))
    assert kept(search_run, keeper) == ["0002", "0003"]


def test_the_config_itself_keeps_its_own_besides_the_best(search_run: SearchDir) -> None:
    trials = [trial(search_run, number, miou) for number, miou in enumerate([0.1, 0.3, 0.2])]
    assert kept(search_run, KeptCheckpoints(search_run, 1, trials)) == ["0000", "0001"]


def test_a_trial_that_cannot_win_keeps_none(search_run: SearchDir) -> None:
    keeper = KeptCheckpoints(search_run, 2, [])
    keeper.ended(trial(search_run, 0, 0.9, "unhealthy"))
    keeper.ended(trial(search_run, 1, None, "pruned"))
    assert kept(search_run, keeper) == []


def test_a_trial_that_may_go_on_keeps_its_own_and_takes_no_place(search_run: SearchDir) -> None:
    states = ("interrupted", "failed", "running")
    trials = [trial(search_run, number, 0.9, state) for number, state in enumerate(states)]
    keeper = KeptCheckpoints(search_run, 1, [*trials, trial(search_run, 3, 0.1)])
    assert kept(search_run, keeper) == ["0000", "0001", "0002", "0003"]


def test_a_paused_trial_keeps_its_own_until_it_is_given_up(search_run: SearchDir) -> None:
    keeper = KeptCheckpoints(search_run, 1, [trial(search_run, 0, 0.9)])
    for number in (1, 2, 3):
        keeper.ended(trial(search_run, number, 0.1 * number, "paused"))
        search_run.trial(number).write_verdict(Verdict(state="paused", epoch=1))
    search_run.trial(1).begin_attempt()  # it goes on
    verdict = search_run.trial(2).read_verdict()
    assert verdict is not None
    assert kept(search_run, keeper) == ["0000", "0001", "0002", "0003"]
    search_run.trial(2).give_up(verdict)
    assert kept(search_run, keeper) == ["0000", "0001", "0003"]
    search_run.trial(1).write_verdict(Verdict(state="completed", epoch=9))
    keeper.ended(TrialResult(number=1, state="completed", miou=0.5))
    assert kept(search_run, keeper) == ["0000", "0003"]


def test_a_resume_deletes_what_a_crash_has_left(search_run: SearchDir) -> None:
    trials = [trial(search_run, number, miou) for number, miou in enumerate([0.1, 0.3, 0.2], 1)]
    keeper = KeptCheckpoints(search_run, 1, trials)
    assert kept(search_run, keeper) == ["0002"]


def test_none_keeps_all(search_run: SearchDir) -> None:
    trials = [trial(search_run, number, 0.1) for number in range(5)]
    keeper = KeptCheckpoints(search_run, None, trials)
    assert len(kept(search_run, keeper)) == 5


def test_a_trial_that_is_started_again_counts_once(search_run: SearchDir) -> None:
    keeper = KeptCheckpoints(search_run, 1, [])
    first = trial(search_run, 0, 0.2)
    keeper.ended(first)
    keeper.ended(TrialResult(number=0, state="completed", miou=0.3))
    assert kept(search_run, keeper) == ["0000"]


def test_workers_of_a_stopped_trial_have_time_to_notice_it(search_run: SearchDir) -> None:
    stopped = trial(search_run, 0, None, "pruned")
    keeper = KeptCheckpoints(search_run, 1, [stopped])
    keeper.sweep(grace_s=60.0)
    assert search_run.trial(0).checkpoints.exists()
    assert kept(search_run, keeper) == []
