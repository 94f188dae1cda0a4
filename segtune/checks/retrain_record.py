"""The record of `segtune retrain`, as DIR/retrain.json holds it, and its result in words.

Reads and writes no file. Scores in the record are in 0..1, in sentences in per cent.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from segtune.checks.findings import shown_value
from segtune.checks.retraining import Estimate, Outcome, judge
from segtune.config.schema import absolute_paths
from segtune.config.settings import Difference
from segtune.runs.results import TrialResult, best_trial
from segtune.runs.rundir import SearchDir
from segtune.runs.verdict import OUTRANKED, Verdict
from segtune.tuning.retraining import RetrainPlan

FORMAT = 1
# Settings that follow from the number of epochs.
PER_EPOCH = ("schedule.warmup_epochs", "schedule.warmup_steps", "schedule.val_every")
# More changed settings than this are counted, not named.
MAX_NAMED = 4


def begun_record(plan: RetrainPlan, run: SearchDir, init_from: tuple[str, str]) -> dict[str, Any]:
    """Return the record of a retraining that begins, as plain JSON values.

    The caller adds the folders `search_run` and `folder`. `init_from` are the checkpoints that the
    search and the retraining start from, or empty.
    """
    from segtune import __version__

    changed = _changes(plan.changed)
    searched_epochs = plan.searched.schedule.epochs
    if plan.trial.state in OUTRANKED:
        searched_epochs = plan.trial.epoch
        changed["schedule.epochs"] = [searched_epochs, plan.config.schedule.epochs]
    if init_from[0] != init_from[1]:
        changed["--init-from"] = [value or None for value in init_from]
    return {
        "format": FORMAT,
        "version": __version__,
        "part": str(plan.part.path.relative_to(run.path)),  # "." or "full"
        "trial": plan.trial.id,
        "params": plan.trial.params,
        "init_from": init_from[1],
        "seed": plan.config.seed,
        "searched_seed": plan.searched.seed,
        "epochs": plan.config.schedule.epochs,
        "searched_epochs": searched_epochs,
        "rescaled": _changes(plan.rescaled),
        "changed": changed,
        "config": absolute_paths(plan.config).dump(),
        "outcome": None,
        "sentence": "",
    }


def _changes(changed: Sequence[Difference]) -> dict[str, list[Any]]:
    """Return {dotted name: [value of the search, value of the retraining]}."""
    return {difference.name: [difference.theirs, difference.ours] for difference in changed}


def compared_record(
    record: Mapping[str, Any],
    trials: Sequence[TrialResult],
    noise: Mapping[str, Any] | None,
    confirmation: Mapping[str, Any] | None,
    result: tuple[float, Verdict],
) -> dict[str, Any]:
    """Return the record of a retraining that has ended.

    `trials` are those of its part of the search. `noise` and `confirmation` are the records of the
    same part, if there are any. `result` is the best mIoU and the verdict of the retraining.
    """
    estimate = _estimate(record, trials, noise, confirmation)
    miou, verdict = result
    outcome: Outcome = "unhealthy"
    if verdict.state == "completed":
        outcome = "cannot be judged" if _is_repetition(record) else judge(miou, estimate)
    compared = dict(record) | {
        "written": round(time.time(), 3),
        "estimate": asdict(estimate)
        | {"margin": estimate.margin, "best_of": _best_of(record, trials)},
        "miou": miou,
        "state": verdict.state,
        "reason": verdict.reason,
        "outcome": outcome,
        "difference": miou - estimate.mean,
    }
    return compared | {"sentence": _sentence(compared)}


def _best_of(record: Mapping[str, Any], trials: Sequence[TrialResult]) -> int:
    """Return of how many trials the retrained one is the best; 1 if another trial is better."""
    best = best_trial(trials)
    is_best = best is not None and best.id == record["trial"]
    return sum(trial.may_win for trial in trials) if is_best else 1


def _is_repetition(record: Mapping[str, Any]) -> bool:
    """Whether the retraining repeats the trial's own training run, seed included."""
    return not record["changed"] and record["seed"] == record["searched_seed"]


def _estimate(
    record: Mapping[str, Any],
    trials: Sequence[TrialResult],
    noise: Mapping[str, Any] | None,
    confirmation: Mapping[str, Any] | None,
) -> Estimate:
    """Return the estimate from fresh seeds if there are some, else from the single score."""
    rows = [confirmation["baseline"], *confirmation["candidates"]] if confirmation else []
    for row in rows:
        scores = [score for score in row["scores"].values() if score is not None]
        if row["trial"] == record["trial"] and len(scores) > 1:
            return Estimate(row["mean"], len(scores), row["std"], len(scores))
    (single,) = [trial.miou for trial in trials if trial.id == record["trial"]]
    assert single is not None  # only a healthy trial is retrained
    if noise and noise["std"] is not None:
        return Estimate(single, 1, noise["std"], len(noise["scores"]))
    return Estimate(single, 1)


def _sentence(record: Mapping[str, Any]) -> str:
    score, estimate = f"{100 * record['miou']:.1f} mIoU", record["estimate"]
    mean = f"{100 * estimate['mean']:.1f}"
    if record["outcome"] == "unhealthy":
        ending = f"{record['state']} ({record['reason']})" if record["reason"] else record["state"]
        return f"did not hold: the retraining ended {ending}; the search estimated {mean} mIoU"
    if record["outcome"] == "cannot be judged":
        return f"cannot be judged: {score}, {_why_not(record, mean)}{_other_training(record)}"
    size = f"{mean} ± {100 * estimate['margin']:.1f} ({_source(estimate)})"
    if record["outcome"] == "fell short":
        below = f"{-100 * record['difference']:.1f} below what the search estimated, {size}"
        return f"fell short: {score}, {below}{_luck(record)}{_other_training(record)}"
    above = ", so it is better than estimated" if record["difference"] > estimate["margin"] else ""
    return f"held: {score}; the search estimated {size}{above}{_other_training(record)}"


def _why_not(record: Mapping[str, Any], mean: str) -> str:
    if _is_repetition(record):
        return (
            f"the search has {mean} with the same seed, and this repeats that training run; leave "
            "--seed out"
        )
    part = Path(record["search_run"]) / record["part"]
    command = shlex.join(["segtune", "confirm", str(part)])
    return (
        f"the search has {mean} in one training run, and the noise between seeds is unknown; "
        f"measure it: {command}, then compare: {_compare_command(record)}"
    )


def _compare_command(record: Mapping[str, Any]) -> str:
    """Return the command that compares again, after a confirmation."""
    run, folder = record["search_run"], record["folder"]
    out = [] if folder == str(SearchDir(Path(run)).retrained.path) else ["--out", folder]
    return shlex.join(["segtune", "retrain", run, *out, "--resume"])


def _source(estimate: Mapping[str, Any]) -> str:
    """Return in words which scores an estimate is of."""
    if estimate["num_scores"] > 1:
        return f"{estimate['num_scores']} fresh seeds"
    return (
        f"one training run; the interval is from {estimate['num_seeds']} seeds of the config itself"
    )


def _luck(record: Mapping[str, Any]) -> str:
    """Return what the choice of the best trial has to do with a score below the estimate."""
    number = record["estimate"]["best_of"]
    if number == 1:
        return ""
    if record["estimate"]["num_scores"] > 1:
        return f"; its seeds were fresh, so the luck of the best of {number} trials is no reason"
    return (
        f"; one reason: the estimate is the best of {number} single scores, and the best is partly "
        "lucky (winner's curse)"
    )


def _other_training(record: Mapping[str, Any]) -> str:
    """Return in words how the retraining differs from what the search trained."""
    changed = dict(record["changed"])
    theirs, ours = changed.pop("schedule.epochs", (None, None))
    words = [f"{ours} epochs instead of {theirs}"] if ours else []
    if ours:
        changed = {name: values for name, values in changed.items() if name not in PER_EPOCH}
    for name, (old, new) in list(changed.items())[:MAX_NAMED]:
        words.append(f"{name} {shown_value(new)} instead of {shown_value(old)}")
    if len(changed) > MAX_NAMED:
        words.append(f"{len(changed) - MAX_NAMED} more settings")
    if not words:
        return ""
    return f"; trained differently from the search: {', '.join(words)}"
