"""What earlier runs know about a new study: trials that count as its own, and points to try first."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from segtune.config.settings import Settings, differences
from segtune.errors import RunError
from segtune.runs.atomic import write_atomic
from segtune.runs.results import RUNNING, TrialResult, miou_by_epoch, ranked, read_trials
from segtune.runs.rundir import SearchDir
from segtune.tuning.study import Study, load_study

# Points that are taken from a run whose scores say nothing here.
POINTS_OF_OTHERS = 3


class KnownTrial(Settings):
    """A trial of an earlier run."""

    params: dict[str, Any] = Field(description="values of the space's settings")
    state: Literal["completed", "pruned", "unhealthy"] = Field(description="how it ended")
    mious: dict[int, float] = Field(description="validated mIoU by epoch")


class WarmStart(Settings):
    """What is told to the sampler before the first trial."""

    trials: tuple[KnownTrial, ...] = Field(
        default=(), description="results that count as this study's own"
    )
    points: tuple[dict[str, Any], ...] = Field(default=(), description="points to try first")

    @property
    def summary(self) -> str:
        """Returns what is known in words."""
        return f"{len(self.trials)} trials known from earlier runs, {len(self.points)} of their points to try first"


def collect(study: Study, paths: Sequence[str | Path]) -> WarmStart:
    """Reads earlier runs for a new study.

    Trials of a run that differs in nothing but what the space varies, and the seed, count as results. Of any other run the
    best points are only tried first: an mIoU on other images, or after another number of epochs, would mislead the sampler.
    Raises RunError where a folder is no run, or nothing in it lies in the space.
    """
    trials: list[KnownTrial] = []
    points: list[dict[str, Any]] = []
    for path in paths:
        run = SearchDir.open(path)
        theirs = load_study(run.study)
        usable = [t for t in read_trials(run) if t.state != RUNNING and _lies_in(study, t)]
        if not usable:
            raise RunError(
                f"--warm-start {path}: none of its trials lies in the space of this study ({', '.join(study.space.names)})"
            )
        if _same_but_for_the_space(study, theirs):
            trials += [
                _known(run, t) for t in usable if t.state in ("completed", "pruned", "unhealthy")
            ]
        else:
            points += [
                study.space.complete(t.params)
                for t in ranked(usable)[:POINTS_OF_OTHERS]
                if t.healthy
            ]
    return WarmStart(trials=tuple(trials), points=tuple(points))


def _lies_in(study: Study, trial: TrialResult) -> bool:
    return bool(trial.params) and not study.space.outside(trial.params)


def _same_but_for_the_space(study: Study, theirs: Study) -> bool:
    varied = {*study.space.names, *theirs.space.names, "seed"}
    names = {difference.name for difference in differences(study.config, theirs.config)}
    return not names - varied and set(theirs.space.names) <= set(study.space.names)


def _known(run: SearchDir, trial: TrialResult) -> KnownTrial:
    mious = miou_by_epoch(run.trial(trial.number).read_epochs())
    state = (
        trial.state
        if (trial.state in ("completed", "unhealthy") and mious) or trial.state == "unhealthy"
        else "pruned"
    )
    return KnownTrial(params=trial.params, state=state, mious=mious)  # pyright: ignore[reportArgumentType]


def write(run: SearchDir, known: WarmStart) -> None:
    """Keeps what is known in the run's folder: the earlier runs may be gone at a resume."""
    write_atomic(run.warm_start, json.dumps(known.dump()) + "\n")


def read(run: SearchDir) -> WarmStart:
    """Returns what the run was started with; empty where it was nothing."""
    return (
        WarmStart.parse(json.loads(run.warm_start.read_text()))
        if run.warm_start.exists()
        else WarmStart()
    )
