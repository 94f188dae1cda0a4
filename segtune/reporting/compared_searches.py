"""Several searches side by side: their winners, their progress, and the settings that differ."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from segtune.checks.confirmed_best import confirmation_words
from segtune.errors import RunError
from segtune.reporting.format import (
    format_miou,
    format_value,
    has_ended,
    num_ended,
)
from segtune.runs.chosen_trial import part_of_best
from segtune.runs.results import TrialResult, best_trial, read_trials
from segtune.runs.rundir import SearchDir
from segtune.runs.timeline import read_sessions
from segtune.tuning.proxy_check import full_length_study
from segtune.tuning.study import Study
from segtune.tuning.study_reader import load_study

# What differs between two searches without a meaning for the comparison.
UNCOMPARED = ("search.storage", "search.pictures", "search.max_concurrent", "search.retries")
UNCOMPARED_SECTION = "search.notify."


@dataclass(frozen=True)
class ComparedSearch:
    """One search of a comparison. After a search on a proxy, its trials at full length."""

    name: str
    study: Study
    run: SearchDir
    trials: Sequence[TrialResult]

    @property
    def best(self) -> TrialResult | None:
        """The best trial."""
        return best_trial(self.trials)

    @property
    def baseline(self) -> TrialResult | None:
        """Trial 0, the config itself."""
        return next((trial for trial in self.trials if trial.number == 0), None)

    @property
    def confirmed(self) -> str:
        """The verdict of a confirmation on the best trial, or that there is none."""
        if self.best is None:
            return "-"
        verdict, problem = self._confirmation
        return verdict or f"no: {problem}"

    @property
    def lacks_confirmation(self) -> bool:
        """Whether there is a best trial that was not confirmed."""
        return self.best is not None and not self._confirmation[0]

    @property
    def _confirmation(self) -> tuple[str, str]:
        assert self.best is not None
        return confirmation_words(self.run, self.best)

    @property
    def cells(self) -> dict[str, str]:
        """The row of the search in the table, by column."""
        best, baseline = self.best, self.baseline
        gain = "-"
        if best and baseline and best.miou is not None and baseline.miou is not None:
            gain = f"{100 * (best.miou - baseline.miou):+.2f}"
        return {
            "search": self.name,
            "trials": f"{num_ended(self.trials)} of {self.study.num_trials}",
            "epochs": str(self.study.epochs),
            "worker-hours": f"{self.progress[-1][0]:.3g}" if self.progress else "-",
            "best": best.id if best else "-",
            "mIoU": format_miou(best.miou if best else None),
            "config itself": format_miou(baseline.miou if baseline else None),
            "difference": gain,
        }

    @property
    def best_by_trial(self) -> list[tuple[float, float]]:
        """The best mIoU in 0..1 of the first 1, 2, … trials, by their number."""
        points: list[tuple[float, float]] = []
        for count, trial in enumerate(filter(has_ended, self.trials), 1):
            best = max(points[-1][1] if points else 0.0, (trial.may_win and trial.miou) or 0.0)
            points.append((count, best))
        return points

    @cached_property
    def progress(self) -> list[tuple[float, float]]:
        """Worker-hours of training and validation so far, and the best mIoU in 0..1 by then.

        Epochs are in the order of their ends. Only trials that may win count.
        """
        sessions = read_sessions(self.run)
        workers = sessions[-1].workers if sessions else self.study.search.workers_per_trial
        points: list[tuple[float, float]] = []
        hours = best = 0.0
        for _, seconds, miou in sorted(self._epochs(), key=lambda epoch: epoch[0]):
            hours += seconds * workers / 3600
            best = max(best, miou)
            points.append((hours, best))
        return points

    def _epochs(self) -> Iterator[tuple[float, float, float]]:
        """Yield end, seconds and mIoU of each epoch; an epoch without a validation has mIoU 0."""
        for trial in self.trials:
            before = 0.0
            for record in self.run.trial(trial.number).read_epochs():
                miou = record.miou or 0.0
                counts = trial.may_win and record.epoch <= trial.epoch
                yield record.ended, record.seconds - before, miou if counts else 0.0
                before = record.seconds


def open_searches(paths: Sequence[str | Path]) -> list[ComparedSearch]:
    """Return the searches in these folders. Raise RunError if there are fewer than two."""
    runs = [SearchDir.open(path) for path in paths]
    if len({run.path.resolve() for run in runs}) < 2:
        raise RunError("a comparison needs at least two different search runs: RUN RUN …")
    names = [run.path.name for run in runs]
    if len(set(names)) < len(names):
        names = [str(path) for path in paths]
    return [_open(name, run) for name, run in zip(names, runs, strict=True)]


def _open(name: str, run: SearchDir) -> ComparedSearch:
    study, part = load_study(run.study), part_of_best(run)
    if part.path != run.path:
        study = full_length_study(study, run)
    return ComparedSearch(name, study, part, read_trials(part))


def differing_settings(searches: Sequence[ComparedSearch]) -> list[tuple[str, list[str]]]:
    """Return the settings of config, space and search that differ, with a value for each search."""
    trees = [_flat(_tree(search.study)) for search in searches]
    names = list(dict.fromkeys(name for tree in trees for name in tree))
    rows = [(name, [tree.get(name, "-") for tree in trees]) for name in names]
    return [(n, values) for n, values in rows if len(set(values)) > 1 and _is_compared(n)]


def _is_compared(name: str) -> bool:
    return name not in UNCOMPARED and not name.startswith(UNCOMPARED_SECTION)


def _tree(study: Study) -> dict[str, Any]:
    space = {d.name: str(d) for d in study.space.dimensions}
    return {**study.config.dump(), "space": space, "search": study.search.dump()}


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return {dotted name: value as text} of the leaves."""
    leaves: dict[str, str] = {}
    for name, value in tree.items():
        # The names of a space have dots themselves; they are not sections.
        if isinstance(value, Mapping) and value:
            leaves |= _flat(value, f"{prefix}{name}.")
        elif isinstance(value, list):
            leaves[f"{prefix}{name}"] = json.dumps(value)
        else:
            leaves[f"{prefix}{name}"] = format_value(value)
    return leaves


def warnings_of(searches: Sequence[ComparedSearch]) -> list[str]:
    """Return why the scores of the searches may not be comparable, one sentence each."""
    differing = {name for name, _ in differing_settings(searches)}
    data = sorted(name for name in differing if name.startswith(("data.", "val.")))
    sentences = []
    if data:
        sentences.append(
            f"Not comparable as they are: the searches differ in {', '.join(data)}, so they may "
            "validate on other images or in another way."
        )
    if len({search.study.epochs for search in searches}) > 1:
        sentences.append("The trials differ in their length, and longer ones reach more.")
    if any(search.lacks_confirmation for search in searches):
        sentences.append(
            "A winner that is not confirmed is partly lucky, the more so the more trials its "
            "search had; confirm each with segtune confirm RUN before comparing them."
        )
    return sentences


def winner_rows(searches: Sequence[ComparedSearch]) -> list[tuple[str, list[str]]]:
    """Return the values that the winners have of every setting that any of the spaces varies."""
    names = dict.fromkeys(name for search in searches for name in search.study.space.names)
    return [(name, [_value(search, name) for search in searches]) for name in names]


def _value(search: ComparedSearch, name: str) -> str:
    """Return a setting of the winner; a setting outside its space has the config's own value."""
    if search.best is None:
        return "-"
    if name in search.best.params:
        return format_value(search.best.params[name])
    if name in search.study.space.names:
        return "not set"
    return f"{format_value(search.study.config.get(name))} (fixed)"
