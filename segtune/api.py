"""The public functions and their results: run a study, train a config.

Parses no command line and prints nothing. What needs torch or Ray is imported inside the functions.

A mistake of the user is a SegtuneError. A path that the operating system refuses is an OSError that
names it; commands turn it into a message (see `errors.place_problem`).
"""

from __future__ import annotations

import json
import logging
import shlex
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from segtune.checks.notices import Tell, tell_nobody
from segtune.checks.notifier import Notifier
from segtune.checks.search_limits import SearchEnd, SearchLimits, read_end, refuse_reached_limit
from segtune.config.schema import ExperimentConfig, absolute_paths
from segtune.errors import ClusterError, ConfigError, DataError, RunError
from segtune.reporting.format import epoch_line
from segtune.runs.atomic import write_atomic
from segtune.runs.environment import record_environment
from segtune.runs.pareto import pareto_front
from segtune.runs.results import best_trial, miou_by_epoch, read_trials, to_frame
from segtune.runs.rundir import SearchDir, TrialDir, check_name
from segtune.runs.verdict import Verdict
from segtune.tracking.open import check_trackers, prepare_trackers
from segtune.tuning import warm_start as earlier_runs
from segtune.tuning.guards import check_guard_classes
from segtune.tuning.preparation import prepare_study
from segtune.tuning.proxy_check import full_length_study
from segtune.tuning.study import Study
from segtune.tuning.warm_start import WarmStart

if TYPE_CHECKING:
    import pandas

    from segtune.cluster.placement import Placement
    from segtune.training.listener import TrainingListener

log = logging.getLogger(__name__)

# Called before the first trial with what one trial takes of the cluster.
BeforeTrials = Callable[["Placement"], None]


@dataclass(frozen=True)
class BestTrial:
    """The best trial of a search run: healthy, and no guard broken."""

    config: ExperimentConfig  # at full length, also if the study has a proxy
    miou: float  # best validated, in 0..1


@dataclass(frozen=True)
class StudyResult:
    """The outcome of a search run so far."""

    best: BestTrial | None  # None if no trial is healthy and keeps the guards
    trials: pandas.DataFrame  # a row per trial, a column per searched setting: `results.to_frame`
    run: Path  # the folder of the search run
    interrupted: bool  # stopped before its last trial; continue it with `resume=True`
    pareto: tuple[str, ...] = ()  # trials of the front, best mIoU first; with several objectives
    end: SearchEnd | None = None  # the limit that has ended the search before its last trial


@dataclass(frozen=True)
class TrainResult:
    """The outcome of a training run."""

    best_miou: float  # best validated, in 0..1; 0 before the first validation
    checkpoint: Path | None  # the weights of the best validation
    verdict: Verdict


class SearchEvents(Protocol):
    """What a caller can follow while `run_study` runs.

    The methods here do nothing. A subclass overrides those that it needs.
    """

    def on_warm_start(self, earlier: WarmStart) -> None:
        """Receive what earlier search runs contribute, before the first trial."""

    def on_placement(self, study: Study, placement: str, dashboard_url: str) -> None:
        """Receive how many trials run at the same time and on what, before the first trial."""

    def watching(self, study: Study, run: SearchDir) -> AbstractContextManager[None]:
        """Return a context that is open while the trials of `study` run in the folder `run`.

        A study with a proxy has two such parts: the search, then some trials at full length.
        """
        return nullcontext()


class _NoEvents(SearchEvents):
    """Follows nothing."""


def run_study(
    study: Study,
    out: str | Path = "runs",
    name: str = "study",
    *,
    resume: bool = False,
    extend: bool = False,
    warm_start: Sequence[str | Path] = (),
    address: str | None = None,
    events: SearchEvents | None = None,
) -> StudyResult:
    """Run a study in the folder `out/name` and return its trials and the best of them.

    `resume` continues a search run with the same study; only settings that change no draw may
    differ, such as the number of trials. `extend` continues it with a wider space. `warm_start` are
    folders of earlier search runs from which a new one learns; at a resume it has no effect,
    because the search run has kept what it was started with. `address` is the Ray cluster to join;
    by default, a local Ray is started.

    If the budget of the search is used up, the result has an `end`; `resume` with a larger budget
    continues the search. Ctrl-C, SIGTERM and `segtune stop` end it, too: the result is then
    `interrupted`. A second Ctrl-C ends it at once. Neither raises KeyboardInterrupt.

    Raise ConfigError if the config itself fails in its first steps (see `search.corner_steps`); a
    new folder is then removed. Raise RunError if the folder is in use or holds another search run,
    if there is none to resume or its budget is used up, if the disk has too little space (a new
    folder is then removed), or if it becomes full (the search run can be resumed). Raise
    ClusterError if Ray does not answer or a trial does not fit.
    """
    # Python cannot repeat an import that Ctrl-C has interrupted, and the result needs this one.
    import pandas  # noqa: F401

    folder = Path(out) / check_name(name)
    resume = resume or extend
    events = events or _NoEvents()
    # Before the lock, which creates the folder: a name that was misspelt leaves nothing behind.
    run = SearchDir.open(folder) if resume else SearchDir(folder)
    is_new = not folder.exists()
    study = with_initial_weights(study)
    check_study_data(study)
    notifier = Notifier(study.search.notify, run, study.num_trials)
    study = study.without_secrets()  # all that follows writes it, or sends it to other processes
    earlier = _learn_from(warm_start, study, events) if warm_start and not resume else None
    with run.locked():
        try:
            prepare_study(run, study, resume=resume, extend=extend, earlier=earlier)
            if resume and not study.search.proxy:  # which is followed by a part without a budget
                refuse_reached_limit(study, run)
        except KeyboardInterrupt:
            if not run.study.exists():  # there is nothing to resume
                raise
            last, interrupted = run, True
        else:
            with _errors_told(notifier), _removed_if_refused(run, is_new=is_new):
                last, interrupted = _run_parts(study, run, address, events, notifier.tell)
        if last is not run and last.best.exists():
            write_atomic(run.best, last.best.read_bytes())
        elif last is not run and not interrupted:
            run.best.unlink(missing_ok=True)  # no trial at full length may win
    return _told(notifier, _result(study, run, last, interrupted))


def _told(notifier: Notifier, result: StudyResult) -> StudyResult:
    """Tell that a search has ended; return its result."""
    notifier.tell_end(result.interrupted, result.end)
    notifier.close()
    return result


@contextmanager
def _errors_told(notifier: Notifier) -> Iterator[None]:
    """Tell of an error that ends the block."""
    try:
        yield
    except Exception as error:
        notifier.tell_error(error)
        notifier.close()
        raise


@contextmanager
def _removed_if_refused(run: SearchDir, *, is_new: bool) -> Iterator[None]:
    """Remove the folder of a new search run if it is refused in the block before any trial.

    There is nothing to resume then, and the same name can be used again.
    """
    try:
        yield
    except (ClusterError, ConfigError, RunError):
        # The trials of a noise floor are trained first.
        if is_new and not (run.trial_dirs() or run.confirm.trial_dirs()):
            shutil.rmtree(run.path, ignore_errors=True)
        raise


def _result(study: Study, run: SearchDir, last: SearchDir, interrupted: bool) -> StudyResult:
    """Return the outcome of a search run; `last` is the folder of its last part."""
    trials = read_trials(run)
    front = pareto_front(trials, study.search.objectives) if study.search.has_front else ()
    ids = tuple(trial.id for trial in front)
    best, end = _best(study, last), read_end(run)
    return StudyResult(best, to_frame(trials), run.path, interrupted, ids, end)


def _record_environment(run: SearchDir | TrialDir, **seeds: int) -> None:
    """Record the environment of this session, and log the differences from the last one."""
    changes = record_environment(run.environment, seeds)
    if changes:
        log.warning("other environment than before, so results may differ: %s", "; ".join(changes))


def _learn_from(runs: Sequence[str | Path], study: Study, events: SearchEvents) -> WarmStart:
    from segtune.data.layouts import known_class_names

    earlier = earlier_runs.collect(study, runs, known_class_names(study.config.data))
    events.on_warm_start(earlier)
    return earlier


def with_initial_weights(study: Study) -> Study:
    """Return the study with the checkpoint that `search.init_from` stands for now.

    All trials start from the same one, even if the training run that it belongs to goes on. Raise
    CheckpointError if there is none.
    """
    if not study.search.init_from:
        return study
    from segtune.training.locate import find_checkpoint

    found = str(find_checkpoint(study.search.init_from))
    return replace(study, search=study.search.override({"init_from": found}))


def check_study_data(study: Study) -> None:
    """Raise DataError if the config's training masks have fewer than two classes.

    Raise ConfigError if a guard names a class that the data set does not have, or if a package of
    `log.to` is missing. Otherwise every trial would fail with these messages, after reading all
    masks. Warn of an ignored class, and of validation images that are also training images. If this
    machine does not have the data set, or if the study searches settings of the data set, check
    only the packages: then each trial checks its own data.
    """
    check_trackers(study.config.log)
    data = study.config.data
    is_searched = any(name.startswith("data.") for name in study.space.names)
    if study.search.guards.least_ious:
        _check_guards(study)
    if data.layout == "shapes" or is_searched or not Path(data.root).is_dir():
        return
    from segtune.data.layouts import class_names, open_split
    from segtune.data.statistics import check_at_the_start

    train, val = open_split(data, "train"), open_split(data, "val")
    for warning in check_at_the_start(data, class_names(data), train, val):
        log.warning("%s", warning)


def _check_guards(study: Study) -> None:
    """Raise ConfigError if a guard names a class that the data set does not have."""
    from segtune.data.layouts import class_names

    # The names may be in a file of the data set, which this machine may not have. A trial checks
    # them again.
    with suppress(DataError):
        check_guard_classes(study.search.guards, class_names(study.config.data))


def _best(study: Study, run: SearchDir) -> BestTrial | None:
    winner = best_trial(read_trials(run))
    if winner is None or winner.miou is None:
        return None
    return BestTrial(study.config.override(winner.params), winner.miou)


def _run_parts(
    study: Study, run: SearchDir, address: str | None, events: SearchEvents, tell: Tell
) -> tuple[SearchDir, bool]:
    """Run the parts of a study. Return the folder of the last one, and whether it was stopped."""
    part_run = run
    before_trials = _corner_check(study, run)
    try:
        _record_environment(run, search=study.search.seed, config=study.config.seed)
        if study.search.noise_floor and _train_noise_floor(
            study, run, address, events, before_trials
        ):
            return run, True
        for part, part_run in _parts(study, run):
            if SearchLimits(part, part_run).reached():
                continue
            if run_part(part, part_run, address, events, before_trials, tell):
                return part_run, True
    except KeyboardInterrupt:  # the second Ctrl-C, or the first while Ray starts
        return part_run, True
    return part_run, False


def _corner_check(study: Study, run: SearchDir) -> BeforeTrials:
    """Return what takes the corner steps of a study as soon as Ray runs, if they are due."""

    def check(placement: Placement) -> None:
        from segtune.cluster.corner_tasks import check_corners

        check_corners(study, run, placement)

    return check


def _train_noise_floor(
    study: Study,
    run: SearchDir,
    address: str | None,
    events: SearchEvents,
    before_trials: BeforeTrials,
) -> bool:
    """Train the config itself with fresh seeds, and record how its mIoU varies.

    Do nothing if this has been done. Return whether it was stopped.
    """
    record = run.read_noise_floor()
    if record and record["num_seeds"] >= study.search.noise_floor:
        return False
    from segtune.checks.noise_floor import noise_floor_record
    from segtune.tuning.confirm_study import baseline_scores, noise_floor_study

    fresh = noise_floor_study(study, run)
    begun = run.confirm.study.exists()
    with run.confirm.locked():
        prepare_study(run.confirm, fresh, resume=begun, extend=begun)
        if run_part(fresh, run.confirm, address, events, before_trials):
            return True
    record = noise_floor_record(fresh.num_trials, baseline_scores(study, run))
    write_atomic(run.noise_floor, json.dumps(record, indent=1) + "\n")
    return False


def _parts(study: Study, run: SearchDir) -> Iterator[tuple[Study, SearchDir]]:
    """Yield each part of a study with its folder.

    These are the study itself and, after a search on a proxy, some of its trials at full length.
    """
    yield study, run
    if study.search.proxy and best_trial(read_trials(run)):
        full = full_length_study(study, run)
        begun = run.full.study.exists()
        prepare_study(run.full, full, resume=begun, extend=begun)
        yield full, run.full


def run_part(
    study: Study,
    run: SearchDir,
    address: str | None,
    events: SearchEvents,
    before_trials: BeforeTrials | None = None,
    tell: Tell = tell_nobody,
) -> bool:
    """Run the trials that `run` does not hold yet. Return whether the search was stopped.

    The caller holds `run.locked()`, and has prepared the folder. `before_trials` is called once Ray
    runs; what it raises ends the search. `tell` receives notices.
    """
    from segtune.cluster.run import run_search

    check_trackers(study.config.log)
    prepare_trackers(study.config.log, run)

    def on_placement(placement: Placement, dashboard_url: str) -> None:
        events.on_placement(study, placement.describe(), dashboard_url)

    with events.watching(study, run):
        return run_search(
            study,
            run,
            address=address,
            on_placement=on_placement,
            before_trials=before_trials,
            tell=tell,
        )


def run_training(
    config: ExperimentConfig,
    out: str | Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    init_from: str | Path | None = None,
    listeners: Sequence[TrainingListener] = (),
) -> TrainResult:
    """Train a config in this process, or as one rank under torchrun, and return the outcome.

    `resume` continues the training run in `out`, and `overwrite` replaces it. `init_from` is a
    checkpoint whose weights a new training run starts from. The `listeners` follow the training run
    on rank 0, besides those that `log.to` asks for.

    A training run that ends unhealthy is a result: see `verdict`. A process group that the caller
    has opened stays open. Raise RunError if `out` holds a training run and neither `resume` nor
    `overwrite` is set, and SegtuneError if data, weights or checkpoint do not fit the config.
    """
    from segtune.tracking.open import recorders
    from segtune.training.distributed import Ranks
    from segtune.training.trainer import Trainer

    _check_start(resume, overwrite, init_from)
    trial = TrialDir(Path(out).absolute())
    config = absolute_paths(config)
    followers = [*recorders(config.log), *listeners]
    ranks = Ranks.join()
    try:
        if resume:
            trainer = Trainer.resume(config, trial, ranks, listeners=followers)
        else:
            trainer = Trainer.start(
                config,
                trial,
                ranks,
                init_from=Path(init_from) if init_from else None,
                overwrite=overwrite,
                listeners=followers,
            )
        if ranks.is_first:
            _record_environment(trial, config=config.seed)
        for record in trainer.epochs():
            if ranks.is_first:
                log.info("%s", epoch_line(record, trainer.config.schedule.epochs))
    except KeyboardInterrupt:
        if ranks.is_first:
            log.warning("interrupted; continue with: %s", _resume_command(trial))
        raise
    finally:
        ranks.close()
    return train_result(trial)


def run_training_on_workers(
    config: ExperimentConfig,
    out: str | Path,
    *,
    workers: int,
    address: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    init_from: str | Path | None = None,
    listeners: Sequence[TrainingListener] = (),
) -> TrainResult:
    """Train a config on a Ray worker group of `workers` ranks; otherwise as `run_training` does.

    One worker trains in this process, without Ray. `listeners` follow only that one: the others are
    in other processes.
    """
    if workers == 1:
        start: dict[str, Any] = {"resume": resume, "overwrite": overwrite, "init_from": init_from}
        return run_training(config, out, **start, listeners=listeners)
    from segtune.cluster.train_group import train_on_workers

    check_trackers(config.log)
    _check_start(resume, overwrite, init_from)
    trial = TrialDir(Path(out).absolute())
    # The trainer checks this too, but only after Ray has started, which takes seconds.
    if not (resume or overwrite):
        trial.check_unused()
    _record_environment(trial, config=config.seed)
    train_on_workers(
        absolute_paths(config),
        trial.path,
        workers,
        address=address,
        resume=resume,
        overwrite=overwrite,
        # Absolute, because workers run in folders of their own.
        init_from=str(Path(init_from).absolute()) if init_from else None,
    )
    return train_result(trial)


def _resume_command(trial: TrialDir) -> str:
    retraining = trial.read_retraining()
    if retraining:
        command = ["segtune", "retrain", retraining["search_run"], "--out", str(trial.path)]
    else:
        command = ["segtune", "train", "--config", str(trial.config), "--out", str(trial.path)]
    return shlex.join([*command, "--resume"])


def _check_start(resume: bool, overwrite: bool, init_from: str | Path | None) -> None:
    if resume and (overwrite or init_from):
        raise ValueError("`resume` continues a training run: no `overwrite`, no `init_from`")


def train_result(trial: TrialDir) -> TrainResult:
    """Return the outcome of the training run in a folder."""
    from segtune.training import checkpoint

    return TrainResult(
        best_miou=max(miou_by_epoch(trial.read_epochs()).values(), default=0.0),
        checkpoint=checkpoint.best_checkpoint(trial.checkpoints),
        verdict=trial.read_verdict() or Verdict(state="interrupted"),
    )
