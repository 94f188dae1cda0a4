"""The public functions: train one config, run a study."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segtune.config.schema import ExperimentConfig, load_config
from segtune.config.settings import differences
from segtune.config.yaml_io import write_yaml
from segtune.errors import RunError
from segtune.runs.atomic import write_atomic
from segtune.runs.results import best_trial, miou_by_epoch, read_trials, to_frame
from segtune.runs.rundir import SearchDir, check_name
from segtune.tuning import warm_start
from segtune.tuning.proxy_check import full_length_study
from segtune.tuning.study import Study, load_study
from segtune.tuning.warm_start import WarmStart

if TYPE_CHECKING:
    import pandas

from segtune.config.schema import absolute_paths
from segtune.reporting.format import epoch_line
from segtune.runs.rundir import TrialDir
from segtune.runs.verdict import Verdict

log = logging.getLogger(__name__)

# Settings of the search block that may change at a resume: they place trials or add some, and change no draw.
FREE_ON_RESUME = ("trials", "max_concurrent", "cpus_per_worker", "retries")


@dataclass(frozen=True)
class Winner:
    """The best trial of a study."""

    config: ExperimentConfig
    miou: float  # in 0..1


@dataclass(frozen=True)
class StudyResult:
    """What a search has found. `best` is None where no trial was healthy."""

    best: Winner | None
    trials: pandas.DataFrame
    run: Path


def run_study(
    study: Study,
    out: str | Path = "runs",
    name: str = "study",
    *,
    resume: bool = False,
    address: str | None = None,
    around: Callable[[SearchDir, Study], AbstractContextManager[None]] = lambda run, study: (
        nullcontext()
    ),
    **options: Any,
) -> StudyResult:
    """Runs a study in the folder out/name and returns its trials as a table and the best of them.

    `around` is entered for the search, and once more where a proxy's trials are carried to full length. Raises RunError
    where the folder holds another run, KeyboardInterrupt after a graceful stop (see `segtune stop`).
    """
    run = SearchDir(Path(out) / check_name(name))
    from segtune.cluster.run import run_search

    last = run
    with run.locked():
        prepare(run, study, resume)
        for part, last in phases(study, run):
            with around(last, part):
                interrupted = run_search(part, last, address=address, **options)
            if interrupted:
                raise KeyboardInterrupt
    trials, winner = read_trials(run), best_trial(read_trials(last))
    if last is not run and last.best.exists():
        write_atomic(run.best, last.best.read_bytes())
    found = (
        Winner(load_config(run.best), winner.miou) if winner and winner.miou is not None else None
    )
    return StudyResult(found, to_frame(trials), run.path)


def phases(study: Study, run: SearchDir) -> Iterator[tuple[Study, SearchDir]]:
    """Yields what is searched and where: the study itself and, once that is done, the trials that a proxy carries to full length."""
    yield study, run
    if study.search.proxy and best_trial(read_trials(run)):
        full, full_run = full_length_study(study, run), run.full
        prepare(full_run, full, resume=full_run.study.exists(), extend=True)
        yield full, full_run


def prepare(
    run: SearchDir,
    study: Study,
    resume: bool,
    *,
    extend: bool = False,
    known: WarmStart | None = None,
) -> None:
    """Writes the study into a new run folder, or checks at a resume that it is the one that was begun. Raises RunError.

    With `extend` the space may have been widened since; `known` is what earlier runs tell a new one.
    """
    if resume and extend:
        _check_extension(run, study)
    elif resume:
        begun = load_study(SearchDir.open(run.path).study)
        changed = [str(difference) for difference in differences(study.config, begun.config)]
        changed += [
            str(difference)
            for difference in differences(study.search, begun.search)
            if difference.name not in FREE_ON_RESUME
        ]
        changed += [
            f"space {n}: {a} here, {b} there" for n, a, b in _different_dimensions(study, begun)
        ]
        if changed:
            listed = "\n  ".join(changed)
            raise RunError(
                f"{run.path}: --resume goes on with the study that was begun, but these differ:\n  {listed}\nundo them, widen the space with --extend, or choose another --name"
            )
    elif run.study.exists() or run.trials.exists():
        raise RunError(
            f"{run.path}: holds a run already; go on with --resume, or choose another --name"
        )
    run.trials.mkdir(parents=True, exist_ok=True)
    if known:
        warm_start.write(run, known)
    write_atomic(run.study, write_yaml(study.dump()))


def _check_extension(run: SearchDir, study: Study) -> None:
    """Raises RunError where the config differs, or a trial of the run lies outside of the new space."""
    begun = load_study(SearchDir.open(run.path).study)
    problems = [f"config {changed}" for changed in differences(study.config, begun.config)]
    known = warm_start.read(run)
    drawn = [
        # Trial 0 is the config itself, which may lie outside its space.
        (f"trial {t.id}", t.params)
        for t in read_trials(run)
        if t.number
    ] + [("a trial of --warm-start", t.params) for t in known.trials]
    problems += [
        f"{name}: {problem}" for name, params in drawn for problem in study.space.outside(params)
    ]
    if problems:
        listed = "\n  ".join(problems)
        raise RunError(f"{run.path}: --extend widens a space or adds trials, but here:\n  {listed}")


def _different_dimensions(ours: Study, theirs: Study) -> list[tuple[str, Any, Any]]:
    a, b = ours.space.dump(), theirs.space.dump()
    return [
        (name, a.get(name), b.get(name))
        for name in dict.fromkeys([*a, *b])
        if a.get(name) != b.get(name)
    ]


@dataclass(frozen=True)
class TrainResult:
    """What a training run leaves behind."""

    best_miou: float  # in 0..1
    checkpoint: Path | None  # the weights of the best validation
    verdict: Verdict


def run_training(
    config: ExperimentConfig,
    out: str | Path,
    *,
    resume: bool = False,
    init_from: str | Path | None = None,
) -> TrainResult:
    """Trains a config in this process (or as one rank under torchrun) and returns the best validated mIoU.

    Raises RunError where `out` already holds a run and `resume` is not asked for, and SegtuneError for data, weights
    and checkpoints that do not fit. A run that ends unhealthy is a result, not an error: see `verdict`.
    """
    from segtune.training.distributed import Ranks
    from segtune.training.trainer import Trainer

    trial = TrialDir(Path(out).absolute())
    check_folder(trial, resume)
    ranks = Ranks.join()
    try:
        config = absolute_paths(config)
        if resume:
            trainer = Trainer.resume(config, trial, ranks)
        else:
            weights = Path(init_from) if init_from else None
            trainer = Trainer.start(config, trial, ranks, init_from=weights)
        for record in trainer.epochs():
            if ranks.is_first:
                log.info("%s", epoch_line(record, config.schedule.epochs))
    except KeyboardInterrupt:
        if ranks.is_first:
            log.warning(
                "interrupted; go on with: segtune train --config %s --out %s --resume",
                trial.config,
                out,
            )
        raise
    finally:
        ranks.close()
    return result_of(trial)


def check_folder(trial: TrialDir, resume: bool) -> None:
    """Raises RunError where a new run would overwrite an earlier one."""
    if not resume and (trial.epochs.exists() or any(trial.checkpoints.glob("*-*"))):
        raise RunError(
            f"{trial.path}: holds a run already; continue it with --resume, or choose another --out"
        )


def result_of(trial: TrialDir) -> TrainResult:
    """Reads what a finished run has left in its folder."""
    from segtune.training import checkpoint

    verdict = trial.read_verdict() or Verdict(state="interrupted")
    return TrainResult(_best_miou(trial), checkpoint.best_checkpoint(trial.checkpoints), verdict)


def _best_miou(trial: TrialDir) -> float:
    return max(miou_by_epoch(trial.read_epochs()).values(), default=0.0)
