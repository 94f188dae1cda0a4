"""The state of a search run, a training run or a folder of search runs as plain JSON values.

docs/status.md describes the fields. A later version may add some; none changes its meaning.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from segtune.checks.forecast_record import read_forecast
from segtune.checks.search_limits import read_end
from segtune.reporting.format import num_ended
from segtune.reporting.rung_lines import rung_lines
from segtune.runs.activity import read_activity
from segtune.runs.pareto import pareto_front
from segtune.runs.results import (
    TrialResult,
    best_trial,
    miou_by_epoch,
    read_trials,
    validated_epochs,
)
from segtune.runs.rundir import SearchDir, TrialDir, search_runs_in
from segtune.runs.timeline import searched_s
from segtune.tuning.proxy_check import full_length_study
from segtune.tuning.study import Study

FORMAT = 1
FORECAST = (
    *("written", "num_trials", "num_ended", "elapsed_s", "epoch_s", "trial_s", "total_s"),
    *("low_s", "high_s", "left_s", "num_epochs", "disk_bytes", "peak_bytes"),
)


def search_tree(study: Study, run: SearchDir) -> dict[str, Any]:
    """Return the whole state of a search run."""
    tree: dict[str, Any] = {"format": FORMAT, "kind": "search", **_part(study, run)}
    tree["full"] = None
    if study.search.proxy and run.full.trials.exists():
        tree["full"] = _part(full_length_study(study, run), run.full)
    return tree


def _part(study: Study, run: SearchDir) -> dict[str, Any]:
    trials = read_trials(run)
    end = read_end(run)
    front = pareto_front(trials, study.search.objectives) if study.search.has_front else []
    confirmation = run.read_confirmation()
    return {
        "run": str(run.path),
        "driver": asdict(read_activity(run)),
        "settings": list(study.space.names),
        "epochs": study.epochs,
        "counts": {
            "trials": study.num_trials,
            "started": len(trials),
            "ended": num_ended(trials),
            "by_state": dict(Counter(trial.state for trial in trials)),
        },
        "best": _trial(best_trial(trials)),
        "front": [trial.id for trial in front],
        "best_config": str(run.best) if run.best.exists() else None,
        "trials": [_trial(trial) for trial in trials],
        "budget": _budget(study, run, trials),
        "end": {**asdict(end), "sentence": end.sentence} if end else None,
        "forecast": _forecast(run),
        "rungs": _rungs(study, run),
        "confirmation": confirmation["sentence"] if confirmation else None,
    }


def _trial(trial: TrialResult | None) -> dict[str, Any] | None:
    """Return a trial with its verdict, or None for None."""
    if trial is None:
        return None
    return {"trial": trial.id, **asdict(trial), "may_win": trial.may_win}


def _budget(study: Study, run: SearchDir, trials: Sequence[TrialResult]) -> dict[str, Any]:
    budget = study.search.budget
    num_epochs = sum(len(trial.read_epochs()) for trial in run.trial_dirs())
    return {
        "trials": {"used": num_ended(trials), "limit": study.num_trials},
        "epochs": {"used": num_epochs, "limit": budget.epochs},
        "hours": {"used": searched_s(run) / 3600, "limit": budget.hours},
    }


def _forecast(run: SearchDir) -> dict[str, Any] | None:
    record = read_forecast(run)
    return {name: getattr(record.latest, name) for name in FORECAST} if record else None


def _rungs(study: Study, run: SearchDir) -> list[dict[str, Any]]:
    return [{**asdict(line.worth), "order": line.order} for line in rung_lines(study, run)]


def training_tree(trial: TrialDir) -> dict[str, Any]:
    """Return how far a training run or a trial is, and how it has ended."""
    verdict = trial.read_verdict()
    scores = miou_by_epoch(validated_epochs(trial, verdict))
    best_epoch = max(scores, key=scores.__getitem__, default=0)
    return {
        "format": FORMAT,
        "kind": "training",
        "run": str(trial.path.absolute()),
        "epoch": trial.progress()[0],
        "miou": scores.get(best_epoch),
        "best_epoch": best_epoch,
        "verdict": verdict.dump() if verdict else None,
        "config": str(trial.config),
    }


def runs_tree(folder: Path) -> dict[str, Any]:
    """Return the search runs in a folder, with the best mIoU of each."""
    rows = []
    for name in search_runs_in(folder):
        run = SearchDir(folder / name)
        trials = read_trials(run)
        winner = best_trial(trials)
        rows.append(
            {
                "run": str(run.path),
                "running": read_activity(run).running,
                "started": len(trials),
                "ended": num_ended(trials),
                "best": winner.id if winner else None,
                "miou": winner.miou if winner else None,
            }
        )
    return {"format": FORMAT, "kind": "runs", "folder": str(folder.absolute()), "runs": rows}
