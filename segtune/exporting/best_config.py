"""best.yaml: the config of a trial as a short file that says where it comes from.

A comment at the top names the search run, the trial and its score, how many trials there were and
whether the trial was confirmed. Each searched setting says what the config itself had.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from segtune.checks.confirmed_best import confirmation_line
from segtune.config.schema import ExperimentConfig
from segtune.config.short import short_text
from segtune.config.yaml_io import Source, comment_lines, inline_yaml, write_yaml
from segtune.runs.atomic import write_atomic
from segtune.runs.chosen_trial import part_of_best
from segtune.runs.results import RUNNING, TrialResult, best_trial, read_trials
from segtune.runs.rundir import SearchDir, search_of
from segtune.tuning.study import Study


def write_best(
    study: Study,
    run: SearchDir,
    best: TrialResult | None,
    trials: Sequence[TrialResult] | None = None,
) -> None:
    """Write the config of the best trial that may win to best.yaml, if the file differs.

    `trials` are all trials; None: the search is still running. A confirmation has no best.yaml: its
    trials differ in the seed, and the best seed is luck.
    """
    if best and not run.confirms:
        _write(run.best, trial_config_text(study, run, best, trials))
    elif study.search.guards.limits:
        run.best.unlink(missing_ok=True)  # trial 0 has ended since, and now no trial may win


def write_front(
    study: Study,
    run: SearchDir,
    front: Sequence[TrialResult],
    trials: Sequence[TrialResult] | None = None,
) -> None:
    """Write the config of each trial of the Pareto front to the folder pareto/, and no other.

    `trials` are as in `write_best`.
    """
    for trial in front:
        _write(run.pareto / f"{trial.id}.yaml", trial_config_text(study, run, trial, trials))
    kept = {trial.id for trial in front}
    for config in run.pareto.glob("*.yaml"):
        if config.stem not in kept:
            config.unlink()


def rewrite_best(study: Study, run: SearchDir) -> None:
    """Write best.yaml again after a confirmation, which it then names; also that of a proxy's run.

    Do nothing if the best config of `run` is not one of its own trials: after a search on a proxy,
    it is one of those at full length.
    """
    if not run.best.exists() or part_of_best(run).path != run.path:
        return
    trials = read_trials(run)
    write_best(study, run, best_trial(trials), trials)
    parent = search_of(run.path)
    if parent and parent.full.path == run.path and parent.best.exists():
        write_atomic(parent.best, run.best.read_bytes())


def _write(path: Path, text: str) -> None:
    if not path.exists() or path.read_text() != text:
        write_atomic(path, text)


def trial_config_text(
    study: Study,
    run: SearchDir,
    trial: TrialResult,
    trials: Sequence[TrialResult] | None = None,
    *,
    changes: tuple[Mapping[str, Any], Source] | None = None,
    full: bool = False,
) -> str:
    """Return the config of a trial as YAML text, at full length if the study has a proxy.

    `trials` are all trials of the search run; None: the comment counts none, because the search is
    still running. `changes` are settings that the user has changed since, and where. With
    `full`, every setting is written; otherwise those that differ from their default, those that
    were searched, and the changed ones.
    """
    config = study.config.override(trial.params)
    comments = {name: _comment(study, name, value) for name, value in trial.params.items()}
    if changes:
        config = config.override(*changes)
        comments |= dict.fromkeys(changes[0], "changed at the export")
    head = [*_origin(run, trial), *_standing(study, run, trial, trials), *_absent(run, full)]
    text = (
        comment_lines(write_yaml(config.dump()), comments)
        if full
        else short_text(config, _of_values(config, comments))
    )
    return "".join(f"# {line}\n" for line in head) + text


def _comment(study: Study, name: str, value: Any) -> str:
    own_value = study.config.get(name)
    if value == own_value:
        return "searched; as in the config itself"
    return f"chosen by the search; the config itself has {inline_yaml(own_value)}"


def _of_values(config: ExperimentConfig, comments: Mapping[str, str]) -> dict[str, str]:
    """Return the comments of settings, without those of whole sections, which would write all."""
    return {name: text for name, text in comments.items() if not isinstance(config.get(name), dict)}


def _origin(run: SearchDir, trial: TrialResult) -> list[str]:
    parent = search_of(run.path)
    name = f"{parent.path.name}/{run.path.name}" if parent else run.path.name
    return [f"trial {trial.id} of {name}: {score_words(trial)}"]


def score_words(trial: TrialResult) -> str:
    """Return the score of a trial in words."""
    if trial.miou is None:
        return "no mIoU"
    return f"mIoU {100 * trial.miou:.2f} at epoch {trial.best_epoch}"


def _standing(
    study: Study, run: SearchDir, trial: TrialResult, trials: Sequence[TrialResult] | None
) -> list[str]:
    """Return how many trials there were, the config's own score, and whether it is confirmed."""
    if trials is None:
        return ["The search was still running when this was written."]
    ended = [other for other in trials if other.state not in (RUNNING, "interrupted")]
    itself = next((other for other in trials if other.number == 0), None)
    own = ""
    if itself and trial.number:
        own = f"; the config itself (trial 0): {score_words(itself)}"
    lines = [f"{len(ended)} of {study.num_trials} trials have ended{own}"]
    best = best_trial(trials)
    if best is None or best.number != trial.number:
        return [*lines, "This is not the best trial of the search."]
    return [*lines, f"confirmed: {confirmation_line(run, trial)}"]


def _absent(run: SearchDir, full: bool) -> list[str]:
    if full:
        return []
    from segtune import __version__

    command = shlex.join(["segtune", "export", str(run.path), "--full"])
    return [
        f"Absent settings have the defaults of segtune {__version__}; with every setting: {command}"
    ]
