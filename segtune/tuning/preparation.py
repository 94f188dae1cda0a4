"""The folder of a search run before its first trial: what is written into it, what is checked.

Draws no trial and starts nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

from segtune.config.schema import CHANGEABLE_ON_RESUME
from segtune.config.settings import Difference, differences
from segtune.config.yaml_io import write_yaml
from segtune.errors import RunError
from segtune.runs.atomic import write_atomic
from segtune.runs.results import TrialResult, read_trials
from segtune.runs.rundir import SearchDir
from segtune.tuning import warm_start
from segtune.tuning.measured import warn_of_unmeasured
from segtune.tuning.study import Study
from segtune.tuning.study_reader import load_study
from segtune.tuning.warm_start import TELLING_STATES, WarmStart

log = logging.getLogger(__name__)

# Settings of the search block that may change at a resume. They decide how many trials there are
# and where they run, but not which points are drawn; only the sampler auto chooses tpe instead of
# curves if there are many trials. The storage is filled from the run folder.
FREE_ON_RESUME = (
    *("trials", "max_concurrent", "cpus_per_worker", "retries", "storage", "noise_floor"),
    *("wait_for_nodes_s", "corner_steps", "pictures"),
    *("budget.hours", "budget.epochs", "stop_when.regret"),
    *("breaker.first", "breaker.recent", "breaker.share"),
    *("notify.command", "notify.webhook", "notify.events", "notify.unhealthy_share"),
    "notify.timeout_s",
)


def prepare_study(
    run: SearchDir,
    study: Study,
    *,
    resume: bool = False,
    extend: bool = False,
    earlier: WarmStart | None = None,
) -> None:
    """Write the study into the folder of a search run; the caller holds `run.locked()`.

    Without `resume` the search run has to be new, and `earlier` is what earlier search runs
    contribute to it. With `resume` the study has to be the one with which the search run began;
    `extend` also allows other ranges, other choices, and more settings in the space.

    Raise RunError if the folder holds another search run, or none to resume.
    """
    if resume and extend:
        _check_extension(run, study)
    elif resume:
        _check_same_study(run, study)
    elif run.study.exists() or run.trials.exists():
        raise RunError(
            f"{run.path}: holds a search run already; continue it with --resume, "
            "or choose another --name"
        )
    run.trials.mkdir(parents=True, exist_ok=True)
    if earlier:
        warm_start.write(run, earlier)
    write_atomic(run.study, write_yaml(study.dump()))


def _check_same_study(run: SearchDir, study: Study) -> None:
    """Raise RunError if the study differs from the one with which the search run began."""
    begun = load_study(SearchDir.open(run.path).study)
    problems = [
        *_config_differences(study, begun),
        *(d for d in differences(study.search, begun.search) if d.name not in FREE_ON_RESUME),
        *_different_dimensions(study, begun),
    ]
    if problems:
        listed = "\n  ".join(map(str, problems))
        raise RunError(
            f"{run.path}: --resume continues the study that this search run began with, but these "
            f"settings differ:\n  {listed}\n"
            "undo the changes, change the space with --extend, or choose another --name"
        )


def _check_extension(run: SearchDir, study: Study) -> None:
    """Raise RunError if the config differs, or if the new space lacks a setting of a trial.

    Say how many trials lie outside its ranges. They stay in the search run and may win.
    """
    begun = load_study(SearchDir.open(run.path).study)
    trials = read_trials(run)
    # Not trial 0: it is the config itself, which may lie outside its space.
    drawn = [(f"trial {trial.id}", trial.params) for trial in trials if trial.number]
    drawn += [("a trial of --warm-start", trial.params) for trial in warm_start.read(run).trials]
    problems = [f"config {changed}" for changed in _config_differences(study, begun)]
    for name, params in drawn:
        unknown = [setting for setting in params if setting not in study.space.names]
        problems += [f"{name}: {setting}: not in the space" for setting in unknown]
    if problems:
        listed = "\n  ".join(problems)
        raise RunError(
            f"{run.path}: --extend may change the ranges of the space, and add settings or trials, "
            f"but not this:\n  {listed}"
        )
    ended = [trial for trial in trials if trial.state in TELLING_STATES]
    warn_of_unmeasured(study.search.guards, run, ended)
    num_outside = sum(bool(study.space.missed_by(params)) for _, params in drawn)
    if num_outside:
        log.info(
            "%d of %d trials lie outside the new space: the sampler does not learn from them",
            num_outside,
            len(drawn),
        )
    _warn_of_other_rungs(begun, study, trials)


def _warn_of_other_rungs(begun: Study, study: Study, trials: Sequence[TrialResult]) -> None:
    """Say what other rungs mean for the trials that the search run has, if they are others."""
    before, now = begun.rungs(), study.rungs()
    if before == now:
        return
    paused = [trial for trial in trials if trial.state == "paused"]
    lost = [trial for trial in paused if not study.search.pauses or trial.epoch < min(now)]
    log.warning(
        "the rungs were epochs %s and are now %s; earlier trials count at the new ones, and %d of "
        "%d paused trials can no longer go on",
        _listed(before),
        _listed(now),
        len(lost),
        len(paused),
    )


def _listed(epochs: Sequence[int]) -> str:
    return ", ".join(map(str, epochs)) or "none"


def _config_differences(ours: Study, theirs: Study) -> list[Difference]:
    """Return the settings that differ and may not: those that change the numbers of a trial."""
    changed = differences(ours.config, theirs.config)
    return [d for d in changed if d.name not in CHANGEABLE_ON_RESUME]


def _different_dimensions(ours: Study, theirs: Study) -> Iterator[Difference]:
    our_space, their_space = ours.space.dump(), theirs.space.dump()
    for name in our_space | their_space:
        if our_space.get(name) != their_space.get(name):
            yield Difference(f"space {name}", our_space.get(name), their_space.get(name))
