"""Numbers, names and commands as text, for the terminal and for the page. Prints nothing."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from segtune.runs.chosen_trial import part_of_best
from segtune.runs.records import EpochRecord, NetworkProfile
from segtune.runs.results import BAD_ENDS, RUNNING, TrialResult
from segtune.runs.rundir import SearchDir, search_of
from segtune.tuning.guards import GUARD
from segtune.tuning.study import Study

SHORT_UNITS = {"seconds": "s", "minutes": "min", "hours": "h"}


def format_value(value: Any) -> str:
    """Return the value of a setting: a float with three digits, transforms with plus signs."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)) and all(isinstance(item, dict) for item in value):
        return " + ".join(map(_format_transform, value)) or "[]"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _format_transform(spec: Mapping[str, Any]) -> str:
    """Return a transform as its name and its parameters: `GaussNoise p=0.2`."""
    parameters = (f"{key}={format_value(item)}" for key, item in spec.items() if key != "name")
    return " ".join([str(spec.get("name", "")), *parameters]).strip()


def format_miou(miou: float | None) -> str:
    """Return an mIoU in 0..1 as a percentage without its sign, or a dash for None."""
    return "-" if miou is None else f"{100 * miou:.2f}"


def format_duration(seconds: float) -> str:
    """Return seconds as M:SS or H:MM:SS."""
    minutes, rest = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def rough_duration(seconds: float) -> str:
    """Return seconds with two digits and a unit: `6.5 s`, `22 min`, `3.4 h`."""
    name, unit = time_unit(seconds)
    value = seconds / unit
    return (
        f"{value:.0f} {SHORT_UNITS[name]}" if value >= 9.95 else f"{value:.1f} {SHORT_UNITS[name]}"
    )


def time_unit(seconds: float) -> tuple[str, int]:
    """Return the name of a unit in which a duration is easy to read, and its seconds."""
    if seconds > 5400:
        return "hours", 3600
    return ("minutes", 60) if seconds > 90 else ("seconds", 1)


def short_names(names: Sequence[str]) -> dict[str, str]:
    """Return {dotted name: its last parts}, as many as tell it from the other names."""
    return {name: _shortest_tail(name, names) for name in names}


def _shortest_tail(name: str, names: Sequence[str]) -> str:
    tail = ""
    for part in reversed(name.split(".")):
        tail = f"{part}.{tail}" if tail else part
        if sum(other == tail or other.endswith(f".{tail}") for other in names) == 1:
            break
    return tail


def has_ended(trial: TrialResult) -> bool:
    """Whether a trial has ended or is paused: a resume does not continue it in any case."""
    return trial.state not in (RUNNING, "interrupted")


def num_ended(trials: Sequence[TrialResult]) -> int:
    """Return how many trials have ended, see `has_ended`."""
    return sum(map(has_ended, trials))


def format_profile(profile: NetworkProfile | None) -> str:
    """Return the size and the speed of a network in words, as far as they were measured."""
    if profile is None:
        return "network not measured"
    words = f"{_format_parameters(profile)} million parameters"
    if profile.latency_ms is None:
        return words
    size = f"{profile.height} x {profile.width}"
    return f"{_format_latency(profile)} ms for {size} pixels on {profile.device}, {words}"


def measured_columns(
    trials: Iterable[TrialResult],
) -> dict[str, Callable[[NetworkProfile | None], str]]:
    """Return {title: how to show a profile} of what was measured of the networks of `trials`."""
    profiles = [trial.profile for trial in trials if trial.profile]
    columns: dict[str, Callable[[NetworkProfile | None], str]] = {}
    if profiles:
        columns["params (M)"] = _format_parameters
    if any(profile.latency_ms is not None for profile in profiles):
        columns["latency (ms)"] = _format_latency
    return columns


def _format_parameters(profile: NetworkProfile | None) -> str:
    return "-" if profile is None else f"{profile.params_m:.2f}"


def _format_latency(profile: NetworkProfile | None) -> str:
    if profile is None or profile.latency_ms is None:
        return "-"
    return f"{profile.latency_ms:.2f}"


def kind_of(trial: TrialResult) -> str:
    """Return what went wrong with a trial in a word; empty if nothing did."""
    return trial.kind or ("breaks a guard" if trial.broken_guards else "")


def broken_words(trial: TrialResult) -> str:
    """Return the guards that a trial breaks, as a sentence without its subject."""
    return f"breaks a guard: {'; '.join(trial.broken_guards)}"


def why_not_again(trial: TrialResult) -> str:
    """Return why a trial that may not win should not be trained again without a change."""
    if trial.state in BAD_ENDS:
        reason = f": {trial.reason}" if trial.reason else ""
        return f"trial {trial.id} is {trial.state}{reason}; its config may end the same way again"
    if trial.broken_guards:
        return f"trial {trial.id} {broken_words(trial)}"
    if trial.healthy and not trial.is_judged:
        return f"trial {trial.id} is {trial.state}: guards on classes judge only completed trials"
    return f"trial {trial.id} is {trial.state} and has no validation yet"


def reason_of(trial: TrialResult) -> str:
    """Return the reason of a trial's verdict and the guards that it breaks; empty without any.

    A trial that was not trained because of its guards has them in its reason.
    """
    is_named = trial.kind == GUARD or not trial.broken_guards
    return "; ".join(filter(None, [trial.reason, "" if is_named else broken_words(trial)]))


def baseline_note(study: Study, trials: Sequence[TrialResult]) -> str:
    """Return that no trial could be compared with trial 0, if a guard does; empty otherwise."""
    if study.search.guards.class_iou_drop is None:
        return ""
    baseline = next((trial for trial in trials if trial.number == 0), None)
    if baseline is None or not has_ended(baseline) or baseline.state == "completed":
        return ""
    return (
        "search.guards.class_iou_drop was not judged: trial 0 ended as "
        f"{baseline.kind or baseline.state}, so there is nothing to compare with"
    )


def next_steps(study: Study, run: SearchDir) -> dict[str, str]:
    """Return {label: path or command} of what a user may do with a search run.

    Empty for a proxy whose trials were continued at full length: the best config is then one of
    those.
    """
    if part_of_best(run).path != run.path:
        return {}
    # After a search on a proxy, this is the folder of the trials at full length.
    whole_run = search_of(run.path) or run
    storage = hide_password(study.search.storage or str(run.journal))
    curves = {"curves": tensorboard_command(run)}
    return {
        "best config": str(run.best),
        "retrain it": shlex.join(["segtune", "retrain", str(whole_run.path)]),
        **(curves if "tensorboard" in study.config.log.to else {}),
        "study": shlex.join(["optuna-dashboard", storage]),
    }


def tensorboard_command(run: SearchDir) -> str:
    """Return the command that shows the curves of all trials."""
    return shlex.join(["tensorboard", "--logdir", str(run.trials)])


def retrained_line(run: SearchDir) -> str:
    """Return whether the retrained winner reached its estimate; empty if it was not retrained.

    Raise RunError if the record of `segtune retrain` cannot be read.
    """
    record = run.retrained.read_retraining()
    if record is None:
        return ""
    trial = f"trial {record['trial']}"
    if record["outcome"] is None:
        command = shlex.join(["segtune", "retrain", str(run.path), "--resume"])
        return f"{trial} has not ended; continue it if it was interrupted: {command}"
    return f"{trial} {record['sentence']}"


def hide_password(url: str) -> str:
    """Return the URL of a database with its password replaced by asterisks."""
    return re.sub(r"(://[^:/@]*):[^@]*@", r"\1:***@", url)


def epoch_line(record: EpochRecord, epochs: int) -> str:
    """Return one epoch as a line for the terminal; `epochs` is the length of the training run."""
    losses = " ".join(f"{name} {value:.4f}" for name, value in record.losses.items())
    line = f"epoch {record.epoch}/{epochs}  {losses}  lr {record.lr:.2e}  {record.seconds:.1f} s"
    if scores := record.validation:
        line += f"  mIoU {format_miou(scores.miou)}  aAcc {100 * scores.aacc:.2f}"
    return line
