"""Confirm a search: train its best trials and the config itself again with fresh seeds.

Parses no command line and prints nothing, like `api.py`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from segtune.api import SearchEvents, run_part
from segtune.errors import RunError
from segtune.exporting.best_config import rewrite_best
from segtune.reporting.format import num_ended
from segtune.runs.atomic import write_atomic
from segtune.runs.results import read_trials
from segtune.runs.rundir import SearchDir, search_of
from segtune.tuning.confirm_study import (
    ConfirmPlan,
    confirm_study,
    plan_confirmation,
    retrained,
)
from segtune.tuning.preparation import prepare_study
from segtune.tuning.study import Study
from segtune.tuning.study_reader import load_study

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ConfirmResult:
    """The outcome of a confirmation."""

    record: Mapping[str, Any] | None  # as in RUN/confirmation.json; None if it was interrupted
    run: SearchDir  # the search run that was confirmed


class ConfirmEvents(SearchEvents, Protocol):
    """What a caller can follow while `confirm_run` runs. The methods here do nothing."""

    def on_plan(self, study: Study, run: SearchDir, plan: ConfirmPlan) -> None:
        """Receive what will be trained, before anything starts.

        `study` and `run` are those of the search.
        """


class _NoEvents(ConfirmEvents):
    """Follows nothing."""


def confirm_run(
    path: str | Path,
    *,
    top: int = 3,
    seeds: int = 3,
    address: str | None = None,
    max_concurrent: int | None = None,
    events: ConfirmEvents | None = None,
) -> ConfirmResult:
    """Train the best `top` trials of a search run and trial 0 with `seeds` fresh seeds each.

    The training runs are in RUN/confirm and have the budget of the search. Those that are complete
    are not repeated, and interrupted ones continue. At the end, RUN/confirmation.json is written.
    Candidates and seeds of an earlier confirmation are kept, so there may be more than asked for.

    Ctrl-C, SIGTERM and `segtune stop` end it: the result then has no record. Raise RunError if
    there is no such search run, if it is in use, or if it has nothing to confirm, and ClusterError
    if Ray does not answer or a training run does not fit.
    """
    run = _open(path)
    events = events or _NoEvents()
    study = load_study(run.study)
    with run.locked():
        _warn_if_unfinished(study, run)
        plan = plan_confirmation(study, run, top, seeds)
        events.on_plan(study, run, plan)
        fresh = confirm_study(study, run, plan)
        if max_concurrent:
            fresh = _with_concurrency(fresh, max_concurrent)
        if _train(fresh, run, address, events):
            return ConfirmResult(None, run)
        return ConfirmResult(_write_record(study, run, plan), run)


def _open(path: str | Path) -> SearchDir:
    """Return the search run to confirm. Raise RunError if it is a confirmation, or in use."""
    run = SearchDir.open(path)
    if run.confirms:
        raise RunError(
            f"{path}: holds the training runs of a confirmation; confirm the search run "
            f"{run.confirms.path}"
        )
    parent = search_of(run.path)
    for searched in (run, parent):
        if searched and searched.is_locked():
            raise RunError(
                f"{searched.path}: a search or a confirmation is running here; wait until it "
                f"ends, or end it with: segtune stop {searched.path}"
            )
    return run


def _warn_if_unfinished(study: Study, run: SearchDir) -> None:
    ended = num_ended(read_trials(run))
    if ended < study.num_trials:
        log.warning(
            "%s: only %d of %d trials have ended, so its best trials may change",
            run.path,
            ended,
            study.num_trials,
        )


def _with_concurrency(study: Study, max_concurrent: int) -> Study:
    return replace(study, search=study.search.override({"max_concurrent": max_concurrent}))


def _train(study: Study, run: SearchDir, address: str | None, events: SearchEvents) -> bool:
    """Train the runs that are not complete. Return whether the confirmation was stopped."""
    begun = run.confirm.study.exists()
    try:
        with run.confirm.locked():
            prepare_study(run.confirm, study, resume=begun, extend=begun)
            if _is_complete(study, run.confirm):
                return False  # starting Ray takes seconds
            return run_part(study, run.confirm, address, events)
    except KeyboardInterrupt:
        return True


def _is_complete(study: Study, fresh: SearchDir) -> bool:
    verdicts = [trial.read_verdict() for trial in fresh.trial_dirs()]
    ended = [verdict for verdict in verdicts if verdict and verdict.is_final]
    return len(ended) == study.num_trials


def _write_record(study: Study, run: SearchDir, plan: ConfirmPlan) -> Mapping[str, Any]:
    from segtune.checks.confirm_record import confirmation_record

    trained = retrained(study, run, plan)
    record = confirmation_record(study, plan, trained, run.read_confirmation())
    write_atomic(run.confirmation, json.dumps(record, indent=1) + "\n")
    rewrite_best(study, run)
    return record
