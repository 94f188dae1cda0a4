"""What is wrong with a study although each of its parts is valid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from segtune.config.yaml_io import Source
from segtune.errors import ConfigError
from segtune.tuning.space import Space
from segtune.tuning.study import Study

# Samplers that draw the same points with and without guards.
IGNORE_GUARDS = ("random", "grid", "cmaes")


def study_problems(study: Study) -> list[str]:
    """Return what is wrong with a study although each of its parts is valid."""
    return [
        *_schedule_problems(study),
        *_known_good_problems(study),
        *_proxy_problems(study),
        *_rung_problems(study),
        *_cmaes_problems(study),
        *_worker_problems(study),
        *_objective_problems(study),
    ]


def study_notes(study: Study) -> list[str]:
    """Return what is possible but probably not what the user expects."""
    search = study.search
    notes = []
    if search.guards.limits and search.sampler in IGNORE_GUARDS:
        notes.append(
            f"search.sampler: {search.sampler} does not avoid trials that break a guard; they only "
            "cannot win. gp, tpe and nsga2 learn from search.guards"
        )
    if search.has_front:
        notes.append(
            f"several objectives ({', '.join(search.objectives)}): every trial is trained to its "
            "end"
        )
    return notes


def _schedule_problems(study: Study) -> list[str]:
    if study.config.schedule.steps is None and "schedule.steps" not in study.space.names:
        return []
    return [
        "schedule.steps: a search counts in epochs, so this must be null; set schedule.epochs to "
        "steps * schedule.batch_size / number of training images"
    ]


def _known_good_problems(study: Study) -> list[str]:
    problems: list[str] = []
    for index, point in enumerate(study.search.known_good):
        place = f"search.known_good.{index}"
        wrong = study.space.outside(point) or _left_out(study.space, point)
        problems += [f"{place}: {problem}" for problem in wrong]
        if not wrong:
            try:
                study.config.override(study.space.complete(point), Source(place))
            except ConfigError as error:
                problems += error.problems
    return problems


def _left_out(space: Space, point: Mapping[str, Any]) -> list[str]:
    """Return a message for each setting that a point has to name.

    A point that leaves out a name has the config's own value. A sampler cannot learn from a point
    outside the space, so the config's own value has to lie inside.
    """
    completed = space.complete(point)
    return [
        f"leaves out {d.name}, and the config's own value {completed[d.name]!r} is outside {d}; "
        f"add {d.name} to this point"
        for d in space.missed_by(completed)
    ]


def _proxy_problems(study: Study) -> list[str]:
    proxy = study.search.proxy
    longest = study.config.schedule.epochs
    if proxy and proxy.epochs and proxy.epochs > longest:
        return [
            f"search.proxy.epochs: {proxy.epochs} is more than the config's own {longest}; "
            f"choose at most {longest}"
        ]
    return []


def _rung_problems(study: Study) -> list[str]:
    schedule = study.trial_config({}).schedule
    validated = [epoch for epoch in range(1, schedule.epochs + 1) if schedule.validates(epoch)]
    blind = [rung for rung in study.rungs() if rung not in validated]
    if blind:
        return [
            f"search.scheduler: there are rungs at epochs {study.rungs()}, "
            f"but no validation at {blind}; validated are {_shortened(validated)} "
            f"(schedule.val_every {schedule.val_every}): choose grace_epochs among them"
        ]
    return []


def _cmaes_problems(study: Study) -> list[str]:
    if study.search.sampler != "cmaes":
        return []
    varying = [d for d in study.space.dimensions if not d.is_fixed]
    unsuitable = [d.name for d in varying if d.kind == "choice" or d.when]
    if unsuitable:
        return [
            "search.sampler: cmaes draws only numbers, but these are choices or conditional: "
            f"{', '.join(unsuitable)}; choose auto or tpe"
        ]
    if len(varying) < 2:
        return [
            f"search.sampler: cmaes needs two or more numbers that vary, got {len(varying)}; "
            "choose auto or tpe"
        ]
    return []


def _objective_problems(study: Study) -> list[str]:
    search = study.search
    if not search.has_front:
        return []
    problems = []
    if search.sampler in ("cmaes", "curves"):
        problems.append(
            f"search.sampler: {search.sampler} takes one objective, but search.objectives has "
            f"{len(search.objectives)}; choose gp, tpe or nsga2"
        )
    if search.stop_when.regret:
        problems.append(
            "search.stop_when.regret: looks at mIoU alone, but search.objectives has "
            f"{len(search.objectives)}; remove it, or set search.budget"
        )
    if search.proxy:
        problems.append(
            "search.proxy: chooses the trials for the full length by mIoU alone, but "
            f"search.objectives has {len(search.objectives)}; remove one of the two"
        )
    return problems


def _worker_problems(study: Study) -> list[str]:
    search = study.search
    if search.workers_per_trial > 1 and search.gpus_per_worker and search.gpus_per_worker < 1:
        return [
            f"search.gpus_per_worker: a fraction ({search.gpus_per_worker:g}) needs "
            f"workers_per_trial 1, got {search.workers_per_trial}; choose 1 or more GPUs"
        ]
    if search.wait_for_nodes_s and search.gpus_per_worker is None:
        return [
            "search.wait_for_nodes_s: needs search.gpus_per_worker (0 for none), because a cluster "
            "without nodes does not show whether its nodes will have GPUs"
        ]
    return []


def _shortened(epochs: Sequence[int]) -> str:
    """Return a list of epochs as text, of a long one the first four and the last."""
    if len(epochs) <= 8:
        return ", ".join(map(str, epochs))
    return f"{', '.join(map(str, epochs[:4]))}, … {epochs[-1]}"
