"""The search: a fresh Tuner over what the run folder says is still to do. Tune's own recovery is never used."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

from ray import tune

from segtune.cluster.placement import WAITING_BUNDLE, Placement, live_nodes, place_trials
from segtune.cluster.ray_session import ray_connection
from segtune.cluster.supervisor import (
    QuietReporter,
    StopWhenAsked,
    Supervisor,
    stop_signals,
    write_best,
)
from segtune.cluster.trial import run_trial
from segtune.cluster.tune_scheduler import StoppingRuleScheduler
from segtune.cluster.tune_searcher import StudySearcher, is_unfinished
from segtune.runs.results import best_trial, miou_by_epoch, read_trials, validated_epochs
from segtune.runs.rundir import SearchDir
from segtune.runs.timeline import recorded
from segtune.runs.verdict import Verdict
from segtune.tuning.samplers import sampler_warmed_up
from segtune.tuning.stopping import stopping_rule
from segtune.tuning.study import Study


def run_search(
    study: Study,
    run: SearchDir,
    *,
    address: str | None = None,
    on_placement: Callable[[Placement, str], None] | None = None,
) -> bool:
    """Run the trials of a study that the search run does not hold yet; return whether it was stopped.

    The caller holds `run.locked()`. `on_placement` is called with the placement and the URL of the
    Ray dashboard before the first trial. Ctrl-C, SIGTERM and the stop request of `segtune stop` end
    the search gracefully: running trials can be resumed. Raise KeyboardInterrupt at a second Ctrl-C.
    """
    with sampler_warmed_up(study.search, study.space), ray_connection(address) as dashboard:
        run.stop_request.unlink(missing_ok=True)
        placement = place_trials(study.search, live_nodes())
        if on_placement:
            on_placement(placement, dashboard)
        # The scheduler first: it may find that a trial had been stopped when the last session broke off.
        scheduler = replayed_scheduler(study, run)
        sampler = StudySearcher.from_run(study, run)
        watch = Supervisor(study, run, sampler)
        try:
            if sampler.remaining:
                with stop_signals(watch), recorded(run, placement.concurrent, placement.workers):
                    _tuner(study, run, sampler, scheduler, placement, watch).fit()
        finally:
            watch.release(patience_s=10.0)
            sampler.settle()
            write_best(study, run, best_trial(read_trials(run)))
        return watch.stopping


def _tuner(
    study: Study,
    run: SearchDir,
    sampler: StudySearcher,
    scheduler: StoppingRuleScheduler,
    placement: Placement,
    watch: Supervisor,
) -> tune.Tuner:
    trainable = partial(run_trial, study=study, run=str(run.path), placement=placement)
    return tune.Tuner(
        tune.with_resources(trainable, _bundles(placement)),
        tune_config=tune.TuneConfig(
            metric="miou",
            mode="max",
            search_alg=sampler,
            scheduler=scheduler,
            # Tune counts every start, also those after the loss of a machine; the sampler says when it is the last.
            num_samples=sampler.remaining * (1 + study.search.retries),
            max_concurrent_trials=placement.concurrent,
            trial_dirname_creator=lambda trial: trial.trial_id,
            # The next trial in the process of the last one: importing torch and its company takes longer than many a trial.
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name=f"tune-{time.time_ns()}",
            storage_path=str(run.ray),
            verbose=0,
            callbacks=[watch, QuietReporter()],
            stop=StopWhenAsked(watch),
        ),
    )


def _bundles(placement: Placement) -> tune.PlacementGroupFactory:
    if placement.workers > 1:
        return tune.PlacementGroupFactory([WAITING_BUNDLE])
    return tune.PlacementGroupFactory(
        [{"CPU": placement.cpus} | ({"GPU": placement.gpus} if placement.gpus else {})]
    )


def replayed_scheduler(study: Study, run: SearchDir) -> StoppingRuleScheduler:
    """Returns the scheduler with the rungs and scores of the run folder.

    Where one trial alone is unfinished, as at concurrency 1, all that its rung had seen is known: if the session broke off
    between the trial's last validation and its stop, the trial is stopped now.
    """
    scheduler = StoppingRuleScheduler(stopping_rule(study))
    trials = run.trial_dirs()
    unfinished = [trial.id for trial in trials if is_unfinished(trial)]
    for trial in trials:
        epochs = validated_epochs(trial, trial.read_verdict())
        if not scheduler.replay(int(trial.id), miou_by_epoch(epochs)) and unfinished == [trial.id]:
            trial.verdict.unlink(missing_ok=True)
            trial.write_verdict(
                Verdict(state="pruned", epoch=epochs[-1].epoch, step=epochs[-1].step)
            )
    return scheduler
