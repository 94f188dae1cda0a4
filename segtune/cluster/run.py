"""Runs a search: starts a new Tuner for the trials that the run folder does not hold yet.

Tune's own recovery is never used.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

from ray import tune

from segtune.checks.notices import Tell, tell_nobody
from segtune.cluster.live_metrics import SearchMetrics
from segtune.cluster.node_watch import NodeWatch, placed_trials
from segtune.cluster.picture_task import draw_pictures
from segtune.cluster.placement import WAITING_BUNDLE, Placement, max_concurrent
from segtune.cluster.ray_internals import WORKER_GROUPS, quiet_callbacks, warn_if_incomplete
from segtune.cluster.ray_session import ray_connection
from segtune.cluster.supervisor import (
    StopWhenAsked,
    Supervisor,
    front_of,
    stop_on_signals,
)
from segtune.cluster.trial import run_trial
from segtune.cluster.tune_scheduler import StoppingRuleScheduler
from segtune.cluster.tune_searcher import StudySearcher, is_unfinished
from segtune.cluster.verdict_scheduler import VerdictScheduler
from segtune.errors import RunError
from segtune.exporting.best_config import write_best, write_front
from segtune.runs.results import (
    BAD_ENDS,
    best_trial,
    miou_by_epoch,
    read_params,
    read_trials,
    validated_epochs,
)
from segtune.runs.rundir import SearchDir
from segtune.runs.timeline import recorded
from segtune.runs.verdict import Verdict
from segtune.tuning.chosen_rule import stopping_rule
from segtune.tuning.samplers import sampler_warmed_up
from segtune.tuning.stopping import PausingRule, StoppingRule, stopped_state
from segtune.tuning.study import Study


def run_search(
    study: Study,
    run: SearchDir,
    *,
    address: str | None = None,
    on_placement: Callable[[Placement, str], None] | None = None,
    before_trials: Callable[[Placement], None] | None = None,
    tell: Tell = tell_nobody,
) -> bool:
    """Run the trials of a study that the search run does not hold yet; return if it was stopped.

    The caller holds `run.locked()`. `on_placement` is called with the placement and the URL of the
    Ray dashboard before the first trial, then `before_trials` with the placement; the search ends
    with the error that this raises. `tell` receives notices while the trials run. Ctrl-C, SIGTERM
    and the stop request of `segtune stop` end the search gracefully: running trials can be resumed.
    So does a budget that is used up, but then the search was not stopped, and RUN/end.json says why
    it has ended. Raise KeyboardInterrupt at a second Ctrl-C, and RunError if the disk of the run
    folder is full: the trials can then be resumed, too.
    """
    with (
        sampler_warmed_up(study.search, study.space),
        ray_connection(address) as dashboard,
        placed_trials(study, run, address) as (placement, nodes),
    ):
        warn_if_incomplete()
        run.stop_request.unlink(missing_ok=True)
        run.end.unlink(missing_ok=True)
        if on_placement:
            on_placement(placement, dashboard)
        if before_trials:
            before_trials(placement)
        scheduler = _scheduler(study, run, placement)
        # Before the searcher reads the verdicts.
        stop_interrupted_trials(run, scheduler.rule, replay_trials(scheduler, run))
        searcher = StudySearcher.from_run(study, run, scheduler.rule)
        searcher.room = placement.concurrent
        supervisor = Supervisor(study, run, searcher, tell, nodes)
        try:
            if searcher.has_work:
                num_slots = partial(_most_slots, placement, nodes)
                supervisor.begin_forecast(placement)
                with stop_on_signals(supervisor), recorded(run, num_slots, placement.workers):
                    _tuner(study, run, scheduler, placement, supervisor).fit()
                    supervisor.end_forecast()
        finally:
            supervisor.wait_until_released(timeout_s=10.0)
            searcher.settle()
            trials = read_trials(run)
            write_best(study, run, best_trial(trials), trials)
            write_front(study, run, front_of(study, trials), trials)
        if searcher.disk_problem:
            raise RunError(f"the search has stopped: {searcher.disk_problem}")
        is_stopped = supervisor.stopping and not supervisor.at_limit
        if not is_stopped:
            draw_pictures(study, run, placement)
        return is_stopped


def _most_slots(placement: Placement, nodes: NodeWatch | None) -> int:
    """Return for how many trials at the same time there has been room, at most."""
    return nodes.most_room if nodes else placement.concurrent


def _keeps_processes(placement: Placement) -> bool:
    """Whether the processes of a trial, its ranks included, serve the next trial."""
    return placement.workers == 1 or WORKER_GROUPS.get() is not None


def _scheduler(study: Study, run: SearchDir, placement: Placement) -> StoppingRuleScheduler:
    rule = stopping_rule(study)
    if _keeps_processes(placement):
        return StoppingRuleScheduler(rule)
    return VerdictScheduler(rule, run)


def _tuner(
    study: Study,
    run: SearchDir,
    scheduler: StoppingRuleScheduler,
    placement: Placement,
    supervisor: Supervisor,
) -> tune.Tuner:
    searcher = supervisor.searcher
    rule = scheduler.rule
    trainable = partial(
        run_trial,
        study=study,
        run=str(run.path),
        placement=placement,
        pause_epochs=tuple(rule.pause_epochs) if isinstance(rule, PausingRule) else (),
        check_node=supervisor.nodes.late_check if supervisor.nodes else None,
    )
    bundle = placement.resources if placement.workers == 1 else WAITING_BUNDLE
    return tune.Tuner(
        tune.with_resources(trainable, tune.PlacementGroupFactory([bundle])),
        tune_config=tune.TuneConfig(
            metric="miou",
            mode="max",
            search_alg=searcher,
            scheduler=scheduler,
            num_samples=_max_starts(study, searcher),
            # The searcher holds back trials for which there is no room at the moment.
            max_concurrent_trials=max_concurrent(study.search),
            trial_dirname_creator=lambda trial: trial.trial_id,
            # Importing torch takes longer than many a trial.
            reuse_actors=_keeps_processes(placement),
        ),
        run_config=tune.RunConfig(
            name=f"tune-{time.time_ns()}",
            storage_path=str(run.ray),
            verbose=0,
            callbacks=[supervisor, SearchMetrics(supervisor, placement), *quiet_callbacks()],
            stop=StopWhenAsked(supervisor),
        ),
    )


def _max_starts(study: Study, searcher: StudySearcher) -> int:
    """Return how often Tune may start a trial at most; the searcher says which one is the last.

    A machine fault or a pause makes Tune start a trial again. A trial trains at least one epoch
    between two pauses.
    """
    if searcher.rule:
        return study.num_trials * (study.epochs + study.search.retries)
    return searcher.remaining * (1 + study.search.retries)


def replay_trials(scheduler: StoppingRuleScheduler, run: SearchDir) -> list[int]:
    """Let the scheduler judge every validated epoch of the search run again.

    A rule that pauses trials also learns which of them wait or have ended. Return the numbers of
    the trials that the scheduler stops at their last epoch.
    """
    stopped = []
    rule = scheduler.rule if isinstance(scheduler.rule, PausingRule) else None
    # The unfinished ones last: the others had reported their scores by the time of the interrupt.
    for trial in sorted(run.trial_dirs(), key=is_unfinished):
        verdict = trial.read_verdict()
        if rule and trial.params.exists():
            rule.begin(int(trial.id), read_params(trial))
        if not scheduler.replay(int(trial.id), miou_by_epoch(validated_epochs(trial, verdict))):
            stopped.append(int(trial.id))
        if rule and verdict:
            _replay_end(rule, int(trial.id), verdict)
    return stopped


def _replay_end(rule: PausingRule, number: int, verdict: Verdict) -> None:
    if verdict.state == "paused":
        rule.pause(number)
    elif verdict.is_final:
        rule.end(number, is_healthy=verdict.state not in BAD_ENDS)


def stop_interrupted_trials(run: SearchDir, rule: StoppingRule, stopped: list[int]) -> None:
    """Write the verdicts of trials that were interrupted between a validation and their stop.

    `stopped` are the trials that the scheduler stops at their last epoch. Only if a single trial is
    unfinished, as with one trial at a time, is it known which scores its rung held at that moment.
    If several are unfinished, the order of their reports is unknown. Then all of them continue,
    unless the rule pauses trials: a paused trial goes on later if it has to.
    """
    unfinished = [trial for trial in run.trial_dirs() if is_unfinished(trial)]
    pausing = rule if isinstance(rule, PausingRule) else None
    if len(unfinished) != 1 and not pausing:
        return
    for trial in unfinished:
        if int(trial.id) not in stopped:
            continue
        last = validated_epochs(trial, trial.read_verdict())[-1]
        trial.verdict.unlink(missing_ok=True)
        state = stopped_state(rule)
        trial.write_verdict(Verdict(state=state, epoch=last.epoch, step=last.step))
        if pausing:
            pausing.pause(int(trial.id))
