"""Train the winner of a search at full length, and compare it with what the search estimated.

Parses no command line and prints nothing, like `api.py`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segtune.api import TrainResult, run_training_on_workers, train_result
from segtune.config.schema import ExperimentConfig
from segtune.config.yaml_io import parse_assignments
from segtune.errors import RunError
from segtune.runs.atomic import write_atomic
from segtune.runs.chosen_trial import open_chosen
from segtune.runs.results import read_trials
from segtune.runs.rundir import SearchDir, TrialDir
from segtune.tuning.retraining import plan_retraining
from segtune.tuning.search_config import SearchConfig
from segtune.tuning.study_reader import load_study

if TYPE_CHECKING:
    from segtune.training.listener import TrainingListener


@dataclass(frozen=True)
class RetrainResult:
    """The outcome of a retraining."""

    record: Mapping[str, Any]  # as in DIR/retrain.json; its `sentence` says whether it held
    training: TrainResult
    folder: Path  # of the training run


@dataclass(frozen=True)
class RetrainChanges:
    """What a retraining does differently from the search. By default, only the seed differs."""

    epochs: int | None = None  # warmup and intervals change in proportion
    seed: int | None = None  # default: one that the search has not used
    overrides: Sequence[str] = ()  # of the config, such as "optim.lr=1e-4"
    init_from: str | Path | None = None  # a checkpoint; default: as in the search


def retrain_run(
    path: str | Path,
    *,
    trial: int | None = None,
    changes: RetrainChanges | None = None,
    out: str | Path | None = None,
    workers: int | None = None,
    address: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    on_begin: Callable[[Mapping[str, Any], Path], None] | None = None,
    listeners: Sequence[TrainingListener] = (),
) -> RetrainResult:
    """Train the best trial of a search run, or `trial`, at full length, in `out`.

    The default of `out` is RUN/retrained, and that of `workers` is as in the search. `resume`
    continues the training run in `out` with the config that it began with, of which `overrides` may
    change what changes no numbers; if it is complete, only the comparison is made again.
    `overwrite` replaces it. `on_begin` receives the record and the folder before the training,
    and `listeners` follow it, as in `run_training_on_workers`.

    Raise RunError if there is no such search run or trial, or if `out` is in use, and SegtuneError
    if data, weights or checkpoint do not fit the config. KeyboardInterrupt leaves a training run
    that `resume` continues.
    """
    run, number = open_chosen(Path(path), trial, "retrain")
    folder = TrialDir(Path(out).absolute()) if out else run.retrained
    changes = changes or RetrainChanges()
    if not (resume or overwrite):
        folder.check_unused()
    record = _begun(folder, run) if resume else _begin(run, number, changes)
    # Also at a resume, because folders may have been moved.
    record = {**record, "search_run": str(run.path), "folder": str(folder.path)}
    if overwrite:
        _forget(folder)
    _write(folder, record)
    if on_begin:
        on_begin(record, folder.path)
    search = load_study(run.study).search
    if not (resume and _is_complete(folder)):
        run_training_on_workers(
            _config(record, changes.overrides if resume else ()),
            folder.path,
            workers=workers or search.workers_per_trial,
            address=address,
            resume=resume and folder.is_used(),
            overwrite=overwrite,
            init_from=record["init_from"] or None,
            listeners=listeners,
        )
    training = train_result(folder)
    record = _compared(run, record, training)
    _write(folder, record)
    return RetrainResult(record, training, folder.path)


def _forget(folder: TrialDir) -> None:
    """Delete the result of an earlier retraining: a resume must not take it for the new one's."""
    folder.verdict.unlink(missing_ok=True)
    folder.cut_epochs(0)
    shutil.rmtree(folder.checkpoints, ignore_errors=True)


def _begun(folder: TrialDir, run: SearchDir) -> Mapping[str, Any]:
    """Return the record of the retraining to resume. Raise RunError if there is none of `run`."""
    record = folder.read_retraining()
    if record is None:
        raise RunError(
            f"{folder.path}: no retraining has begun here; start it without --resume, or choose "
            "the --out with which it began"
        )
    trials = read_trials(SearchDir(run.path / record["part"]))
    if not any((t.id, t.params) == (record["trial"], record["params"]) for t in trials):
        raise RunError(
            f"{folder.path}: the retraining here belongs to another search run, "
            f"{record['search_run']}; choose another --out"
        )
    return record


def _begin(run: SearchDir, number: int | None, changes: RetrainChanges) -> dict[str, Any]:
    from segtune.checks.retrain_record import begun_record

    plan = plan_retraining(
        run,
        number=number,
        epochs=changes.epochs,
        seed=changes.seed,
        overrides=changes.overrides,
    )
    return begun_record(plan, run, _initial_weights(load_study(run.study).search, changes))


def _initial_weights(search: SearchConfig, changes: RetrainChanges) -> tuple[str, str]:
    """Return what the search and the retraining start from; empty: from the config's weights."""
    searched = search.init_from or ""
    ours = str(Path(changes.init_from).absolute()) if changes.init_from else searched
    return searched, ours


def _config(record: Mapping[str, Any], overrides: Sequence[str]) -> ExperimentConfig:
    config = ExperimentConfig.parse(record["config"])
    return config.override(*parse_assignments(overrides)) if overrides else config


def _is_complete(folder: TrialDir) -> bool:
    verdict = folder.read_verdict()
    return verdict is not None and verdict.state == "completed"


def _compared(
    run: SearchDir, record: Mapping[str, Any], training: TrainResult
) -> Mapping[str, Any]:
    """Return the record with the comparison, with what the search run holds by now."""
    from segtune.checks.retrain_record import compared_record

    part = SearchDir(run.path / record["part"])
    return compared_record(
        record,
        read_trials(part),
        part.read_noise_floor(),
        part.read_confirmation(),
        (training.best_miou, training.verdict),
    )


def _write(folder: TrialDir, record: Mapping[str, Any]) -> None:
    write_atomic(folder.retraining, json.dumps(record, indent=1) + "\n")
