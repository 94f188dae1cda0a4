"""The outcome of a search in plain sentences, the ends by their causes, and the next commands."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segtune.checks.confirmed_best import confirmation_words
from segtune.checks.search_limits import read_end
from segtune.reporting.format import (
    format_miou,
    format_value,
    has_ended,
    num_ended,
    retrained_line,
)
from segtune.runs.chosen_trial import part_of_best
from segtune.runs.environment import Environment, read_environments
from segtune.runs.results import BAD_ENDS, RUNNING, TrialResult, best_trial
from segtune.runs.rundir import SearchDir, search_of
from segtune.tuning.confirm_study import trial_reader
from segtune.tuning.study import Study

# More changes than this are left to the table of trials.
MAX_CHANGES = 8
MAX_IDS = 12


@dataclass(frozen=True)
class Cause:
    """The trials that went wrong for one reason."""

    state: str
    kind: str
    trials: Sequence[str]  # ids
    evidence: str  # of the first of them
    advice: Sequence[tuple[str, int]]  # and how many trials have it, the most frequent first

    @property
    def shown(self) -> str:
        """The ids, the first MAX_IDS of them."""
        rest = len(self.trials) - MAX_IDS
        return ", ".join(self.trials[:MAX_IDS]) + (f" and {rest} more" if rest > 0 else "")


def causes(run: SearchDir, trials: Sequence[TrialResult]) -> list[Cause]:
    """Return the unhealthy and failed trials by their causes, the most frequent first."""
    groups: dict[tuple[str, str], list[TrialResult]] = {}
    for trial in trials:
        if trial.state in BAD_ENDS:
            groups.setdefault((trial.state, trial.kind), []).append(trial)
    return [
        _cause(run, *key, members)
        for key, members in sorted(groups.items(), key=lambda item: -len(item[1]))
    ]


def _cause(run: SearchDir, state: str, kind: str, trials: Sequence[TrialResult]) -> Cause:
    verdicts = [run.trial(trial.number).read_verdict() for trial in trials]
    advice = Counter(verdict.advice for verdict in verdicts if verdict and verdict.advice)
    evidence = verdicts[0].evidence if verdicts[0] else ""
    return Cause(state, kind, [t.id for t in trials], evidence, advice.most_common(3))


def summary(
    study: Study, run: SearchDir, trials: Sequence[TrialResult], best: TrialResult | None
) -> list[str]:
    """Return what came out of a search, one claim per sentence."""
    sentences = [*_winner(study, trials, best)]
    if best and not run.confirms:
        verdict, problem = confirmation_words(run, best)
        sentences.append(f"Confirmation: {verdict}." if verdict else f"Not confirmed: {problem}.")
    sentences.append(_ends(study, trials))
    whole = search_of(run.path) or run
    if part_of_best(whole).path == run.path and (retrained := retrained_line(whole)):
        sentences.append(f"Retrained: {retrained}.")
    return sentences


def _winner(study: Study, trials: Sequence[TrialResult], best: TrialResult | None) -> Iterator[str]:
    if best is None:
        yield "No trial may win so far: none is healthy, validated and keeps the guards."
        return
    baseline = next((trial for trial in trials if trial.number == 0), None)
    reached = f"mIoU {format_miou(best.miou)} at epoch {best.best_epoch} of {study.epochs}"
    if best is baseline:
        yield f"No trial is better than the config itself, trial {best.id}: {reached}."
        return
    yield f"Trial {best.id} is the best: {reached}."
    if baseline and baseline.miou is not None and best.miou is not None:
        gain = 100 * (best.miou - baseline.miou)
        yield (
            f"The config itself (trial {baseline.id}) reached {format_miou(baseline.miou)}, so the "
            f"difference is {gain:+.2f} in one training run each."
        )
    changes = changed_settings(study, best)
    if 0 < len(changes) <= MAX_CHANGES:
        words = [f"{name} is {new} (was {old})" for name, old, new in changes]
        yield f"What the best trial changes: {', '.join(words)}."


def changed_settings(study: Study, trial: TrialResult) -> list[tuple[str, str, str]]:
    """Return name, the config's own value and the trial's value of the settings that differ."""
    own = study.space.complete({})
    return [
        (name, format_value(own[name]) if name in own else "not set", format_value(value))
        for name, value in trial.params.items()
        if name not in own or own[name] != value
    ]


def _ends(study: Study, trials: Sequence[TrialResult]) -> str:
    states = Counter(trial.state for trial in trials)
    words = ", ".join(f"{number} {state}" for state, number in states.most_common())
    kinds = Counter(trial.kind for trial in trials if trial.state in BAD_ENDS and trial.kind)
    why = ", ".join(f"{kind} {number}" for kind, number in kinds.most_common())
    sentence = f"{num_ended(trials)} of {study.num_trials} trials have ended"
    sentence += f": {words}" if words else ""
    return f"{sentence}. Causes of unhealthy and failed ends: {why}." if why else f"{sentence}."


def commands(
    study: Study, run: SearchDir, trials: Sequence[TrialResult], best: TrialResult | None
) -> dict[str, str]:
    """Return {what it does: command} of the next steps, the most useful first."""
    whole = search_of(run.path) or run
    steps: dict[str, str] = {}
    if any(not has_ended(trial) for trial in trials) or len(trials) < study.num_trials:
        steps |= _how_to_go_on(run, whole, trials)
    # After a search on a proxy, the best config is one of those at full length.
    if best is None or run.confirms or part_of_best(run).path != run.path:
        return steps
    record = run.read_confirmation()
    if record is None and best.number != 0:
        steps["Confirm the best trial with fresh seeds"] = _segtune("confirm", run)
    elif record and (more := _more_seeds(record)):
        number, top = more
        options = ("--top", str(top), "--seeds", str(number))
        steps["Confirm with more seeds"] = _segtune("confirm", run, *options)
    if whole.retrained.read_retraining() is None:
        steps["Train the best config at full length"] = _segtune("retrain", whole)
    steps["Save the best config"] = _segtune("export", whole, "--out", "best.yaml")
    return steps


def _more_seeds(record: Mapping[str, Any]) -> tuple[int, int] | None:
    """Return how many seeds may show a difference, and for how many trials; None: no advice."""
    rows = record["candidates"]
    more = [row["more_seeds"] for row in rows if row["outcome"] == "within the noise"]
    numbers = [number for number in more if number]
    if any(row["outcome"] == "better" for row in rows) or not numbers:
        return None
    return len(record["seeds"]) + min(numbers), len(rows)


def _segtune(command: str, run: SearchDir, *options: str) -> str:
    return shlex.join(["segtune", command, str(run.path), *options])


def _how_to_go_on(
    run: SearchDir, whole: SearchDir, trials: Sequence[TrialResult]
) -> dict[str, str]:
    """Return the command that continues a search; none if its study has to be changed first."""
    end = read_end(run)
    if end and not end.options:
        return {}
    label = "Continue the search"
    if end:
        label += " with a larger budget"
    elif any(trial.state == RUNNING for trial in trials):
        label += ", unless it is still running"
    return {label: _resume(whole, end.options if end else {})}


def _resume(run: SearchDir, options: Mapping[str, str]) -> str:
    words = ["segtune", "search", "--space", str(run.study), "--out", str(run.path.parent)]
    changes = [word for option in options.items() for word in option]
    return shlex.join([*words, "--name", run.path.name, *changes, "--resume"])


def reproduction(run: SearchDir) -> dict[str, str]:
    """Return {what it does: command} that repeats the search and its best trial.

    After a search on a proxy, the best trial is one of those at full length.
    """
    part = part_of_best(run)
    best = best_trial(trial_reader(part).read())
    sessions = [s for s in read_environments(run.environment) if s.command]
    steps: dict[str, str] = {}
    if sessions and sessions[0].command:
        steps["This search was started with"] = _typed(sessions[0].command)
    again = ["segtune", "search", "--space", str(run.study), "--name", f"{run.path.name}-again"]
    steps["Repeat the search"] = shlex.join(again)
    if best:
        config = part.trial(best.number).config
        words = ["segtune", "train", "--config", str(config), "--out", "repeated"]
        steps[f"Repeat trial {best.id} without Ray"] = shlex.join(words)
        words = ["segtune", "evaluate", "--checkpoint", str(run.path)]
        steps["Evaluate its checkpoint"] = shlex.join(words)
    return steps


def _typed(command: Sequence[str]) -> str:
    """Return a recorded command line as a user types it, without the path of the program."""
    program = Path(command[0])
    words = (
        [program.name] if program.suffix != ".py" else ["python", "-m", f"segtune.{program.stem}"]
    )
    return shlex.join([*words, *command[1:]])


def environment_rows(run: SearchDir) -> list[tuple[str, str]]:
    """Return what the last session of a search ran on, as (name, value)."""
    sessions = read_environments(run.environment)
    return list(_environment(sessions[-1], len(sessions))) if sessions else []


def _environment(session: Environment, num_sessions: int) -> Iterator[tuple[str, str]]:
    yield "sessions", str(num_sessions)
    yield "host", f"{session.host}, {session.platform}"
    yield "GPUs", ", ".join(session.gpus or ()) or "none on the driver's host"
    yield "Python", session.python
    packages = session.packages or {}
    yield "packages", ", ".join(f"{name} {version}" for name, version in packages.items())
    if session.revision:
        yield "revision", session.revision + (" with changes" if session.is_changed else "")
    variables = session.variables or {}
    if variables:
        yield "variables", ", ".join(f"{name}={value}" for name, value in variables.items())
    seeds = session.seeds or {}
    yield "seeds", ", ".join(f"{name} {seed}" for name, seed in seeds.items())
