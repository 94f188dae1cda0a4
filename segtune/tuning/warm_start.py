"""Results and points of earlier search runs that a new study begins with."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field

from segtune.config.settings import Settings, differences
from segtune.errors import RunError
from segtune.runs.atomic import write_atomic
from segtune.runs.pareto import MIOU
from segtune.runs.results import RUNNING, TrialResult, miou_by_epoch, ranked, read_trials
from segtune.runs.rundir import SearchDir
from segtune.runs.verdict import OUTRANKED
from segtune.tuning.measured import NOTHING, Measured, measured, warn_of_unmeasured
from segtune.tuning.study import Study
from segtune.tuning.study_reader import load_study

# How many points are taken from a run whose scores cannot be compared with those of this study.
POINTS_OF_OTHERS = 3
# Trials that ended in one of these states say something about their point.
TELLING_STATES = ("completed", *OUTRANKED, "unhealthy")


class KnownTrial(Settings):
    """A finished trial, as samplers learn from it."""

    params: dict[str, Any] = Field(description="values of the space's settings")
    state: Literal["completed", "pruned", "unhealthy"] = Field(description="how it ended")
    mious: dict[int, float] = Field(description="validated mIoU by epoch")
    constraints: dict[str, float] = Field(
        default_factory=dict, description="by how much each guard is broken, above 0; see guards.py"
    )
    costs: dict[str, float] = Field(
        default_factory=dict, description="value of each objective besides mIoU"
    )

    @property
    def is_infeasible(self) -> bool:
        """Whether a sampler is to avoid the trial's region: it was unhealthy or breaks a guard."""
        return self.state == "unhealthy" or any(v > 0 for v in self.constraints.values())

    def objective_values(self, objectives: Sequence[str]) -> tuple[float, ...] | None:
        """Return the value of each objective if the trial completed and has all of them."""
        known = {MIOU: max(self.mious.values(), default=None), **self.costs}
        values = tuple(v for name in objectives if (v := known.get(name)) is not None)
        return values if self.state == "completed" and len(values) == len(objectives) else None

    @classmethod
    def of(
        cls,
        params: Mapping[str, Any],
        state: str,
        mious: Mapping[int, float],
        measured: Measured = NOTHING,
    ) -> Self:
        """Return the trial; `state` is one of TELLING_STATES.

        A paused trial counts as pruned. So does a completed trial without a score, because it has
        no value to learn from.
        """
        match state:
            case "unhealthy":
                known_state = "unhealthy"
            case "completed" if mious:
                known_state = "completed"
            case _:
                known_state = "pruned"
        return cls(
            params=dict(params),
            state=known_state,
            mious=dict(mious),
            constraints=dict(measured.constraints),
            costs=dict(measured.costs),
        )


class WarmStart(Settings):
    """Trials that count as results of a new study, and points that it tries first."""

    trials: tuple[KnownTrial, ...] = Field(
        default=(), description="results that count as this study's own"
    )
    points: tuple[dict[str, Any], ...] = Field(default=(), description="points to try first")

    @property
    def summary(self) -> str:
        """The numbers of trials and points, in one line."""
        return (
            f"{len(self.trials)} trials of earlier runs count as results; "
            f"{len(self.points)} of their points are tried first"
        )


def collect(study: Study, paths: Sequence[str | Path], classes: Sequence[str] = ()) -> WarmStart:
    """Read earlier search runs for a new study.

    If a run differs from the study only in the settings of the space and in the seed, its trials
    count as results. From any other run only the best points are taken, to be tried first: an mIoU
    on other images, from other initial weights, or after another number of epochs, would mislead
    the sampler.

    `classes` are the names of the classes, for trials whose network was not measured. Warn if the
    guards on size or latency cannot judge a trial. Raise RunError if a folder holds no search run,
    or if none of its trials lies in the space.
    """
    trials: list[KnownTrial] = []
    points: list[dict[str, Any]] = []
    for path in paths:
        run = SearchDir.open(path)
        theirs = load_study(run.study)
        usable = [t for t in read_trials(run) if t.state != RUNNING and _lies_in(study, t)]
        if not usable:
            raise RunError(
                f"--warm-start {path}: none of its trials lies in the space of this study "
                f"({', '.join(study.space.names)})"
            )
        if _same_but_for_the_space(study, theirs):
            telling = [t for t in usable if t.state in TELLING_STATES]
            warn_of_unmeasured(study.search.guards, run, telling)
            trials += [_known(study, run, t, classes) for t in telling]
        else:
            best = [t for t in ranked(usable)[:POINTS_OF_OTHERS] if t.may_win]
            points += [study.space.complete(t.params) for t in best]
    return WarmStart(trials=tuple(trials), points=tuple(points))


def _lies_in(study: Study, trial: TrialResult) -> bool:
    """Whether the space can draw the trial's values; the config's own for names it leaves out."""
    space = study.space
    return (
        bool(trial.params)
        and not space.outside(trial.params)
        and not space.outside(space.complete(trial.params))
    )


def _same_but_for_the_space(study: Study, theirs: Study) -> bool:
    varied = {*study.space.names, *theirs.space.names, "seed"}
    names = {difference.name for difference in differences(study.config, theirs.config)}
    if study.search.init_from != theirs.search.init_from:
        return False
    return not names - varied and set(theirs.space.names) <= set(study.space.names)


def _known(study: Study, run: SearchDir, trial: TrialResult, classes: Sequence[str]) -> KnownTrial:
    folder = run.trial(trial.number)
    mious = miou_by_epoch(folder.read_epochs())
    # By the guards and objectives of this study. A network that was not measured has no size.
    numbers = measured(study.search, run, folder, classes)
    return KnownTrial.of(trial.params, trial.state, mious, numbers)


def write(run: SearchDir, known: WarmStart) -> None:
    """Write the warm start to the run folder: the earlier runs may be gone at a resume."""
    write_atomic(run.warm_start, json.dumps(known.dump()) + "\n")


def read(run: SearchDir) -> WarmStart:
    """Return the warm start of a search run; empty if it had none."""
    if not run.warm_start.exists():
        return WarmStart()
    return WarmStart.parse(json.loads(run.warm_start.read_text()))
