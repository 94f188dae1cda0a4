"""Checks of a new space: settings that are never drawn, choices that are the same.

A study that was accepted before these checks existed is still read: only a new study is checked.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from segtune.config.schema import ExperimentConfig
from segtune.errors import ConfigError
from segtune.tuning.proxy import shorten
from segtune.tuning.search_config import SearchConfig
from segtune.tuning.space import Dimension, Space

# The settings of `data` that may vary. All others decide which pixels are validated, and against
# which labels: between two trials that differ there, mIoU cannot be compared.
VARIABLE_DATA = (
    "data.train",
    "data.value_range",
    "data.resize",
    "data.crop",
    "data.num_images",
    "data.cache",
    "data.cache_gb",
    "data.num_loaders",
)


class SpaceProblem(NamedTuple):
    """What is wrong with one setting of a space."""

    name: str  # of the setting; empty if it is about the space as a whole
    text: str


def space_problems(
    space: Space, config: ExperimentConfig, search: SearchConfig, rungs: Sequence[int]
) -> Iterator[SpaceProblem]:
    """Yield every reason to refuse a new study of `space` around `config`."""
    for dimension in space.dimensions:
        if reason := _never_drawn(dimension, space):
            yield SpaceProblem(dimension.name, reason)
        if dimension.name.startswith("data.") and dimension.name not in VARIABLE_DATA:
            yield SpaceProblem(
                dimension.name,
                "cannot vary in a search: it changes which pixels are validated or what their "
                "labels mean, so the mIoU of two trials could not be compared; "
                "set it in the config, and run one search for each value",
            )
        if repeated := _repeated_choice(dimension, config):
            yield SpaceProblem(dimension.name, repeated)
        if blind := _missed_rungs(dimension, config, search, rungs):
            yield SpaceProblem(dimension.name, blind)
        if uneven := _uneven_batch(dimension, space, config, search):
            yield SpaceProblem(dimension.name, uneven)
    if uneven := _uneven(config.schedule.batch_size, space, config, search):
        yield SpaceProblem("", f"schedule.batch_size: the config's {uneven}")
    excluded = [_excluded_by_config(dimension, space) for dimension in space.dimensions]
    if all(excluded):
        yield SpaceProblem(space.names[0], f"{excluded[0]}; nothing is left to vary")


def space_notes(space: Space, search: SearchConfig) -> Iterator[SpaceProblem]:
    """Yield a note on each setting that is possible but probably not meant."""
    drawn: list[Dimension] = []
    for dimension in space.dimensions:
        if reason := _excluded_by_config(dimension, space):
            yield SpaceProblem(dimension.name, reason)
        else:
            drawn.append(dimension)
    yield from _known_good_notes(space, search)
    if search.sampler == "grid" and space.has_priors:
        yield SpaceProblem(
            "",
            "search.sampler grid draws every combination, so the priors have no effect; remove "
            "them, or choose another sampler",
        )
    if "seed" in space.names:
        yield SpaceProblem(
            "seed",
            "a search over seeds finds the one with the most luck; its mIoU says little about the "
            "config",
        )
    num_points = _largest_number_of_points(drawn)
    # Trial 0, the config itself, may lie outside the space.
    if search.sampler != "grid" and num_points < search.trials - 1:
        yield SpaceProblem(
            "",
            f"the space has at most {num_points:.0f} different points, and search.trials is "
            f"{search.trials}: points are repeated; lower --trials, or use sampler: grid, which "
            "draws each point once",
        )


def _known_good_notes(space: Space, search: SearchConfig) -> Iterator[SpaceProblem]:
    points = search.known_good
    for index, point in enumerate(points):
        drawn = space.complete(point)
        for name in point:
            if name in space.names and name not in drawn:
                yield SpaceProblem(
                    "",
                    f"search.known_good.{index}: {name} has no effect, because its condition does "
                    "not hold in this point",
                )
    # Trial 0 is the config itself.
    if len(points) >= search.trials:
        yield SpaceProblem(
            "",
            f"search.trials is {search.trials}, so at most {search.trials - 1} of the "
            f"{len(points)} points in search.known_good are tried",
        )


def _excluded_by_config(dimension: Dimension, space: Space) -> str:
    """Return why a setting is never drawn with this config; empty if it may be drawn."""
    by_name = {d.name: d for d in space.dimensions}
    for name, value in dimension.when.items():
        if name in by_name:
            if _excluded_by_config(by_name[name], space):
                return f"is never drawn, because {name} is not"
        elif not _same(space.base[name], value):
            return (
                f"is never drawn: it needs {name} {value!r}, and the config has "
                f"{space.base[name]!r}"
            )
    return ""


def _never_drawn(dimension: Dimension, space: Space) -> str:
    """Return why the conditions of a setting can never hold; empty if they can.

    Conditions on settings that the config fixes are not examined: another config may fulfil them.
    """
    by_name = {d.name: d for d in space.dimensions}
    required: dict[str, Any] = {}
    pending = [(name, value, dimension.name) for name, value in dimension.when.items()]
    while pending:
        name, value, origin = pending.pop(0)
        if name in required and not _same(required[name], value):
            return (
                f"when: never holds: {name} would have to be {required[name]!r} and, for "
                f"{origin}, {value!r}; remove one of the two conditions"
            )
        required[name] = value
        parent = by_name.get(name)
        if parent is None:
            continue
        inherited = "" if origin == dimension.name else f"{origin} is never drawn: "
        if not parent.contains(value):
            return (
                f"when: never holds: {inherited}{name} {value!r} is not drawn from {parent}; "
                "take one of its values, or remove the condition"
            )
        if parent.kind in ("uniform", "loguniform"):
            return (
                f"when: never holds: {inherited}{parent} draws {name} {value!r} almost never; "
                "make it a choice, or remove the condition"
            )
        pending += [(above, needed, name) for above, needed in parent.when.items()]
    return ""


def _missed_rungs(
    dimension: Dimension, config: ExperimentConfig, search: SearchConfig, rungs: Sequence[int]
) -> str:
    """Return a message if trials with some interval have no validation at a rung; else empty."""
    if dimension.name != "schedule.val_every":
        return ""
    for interval in dimension.whole_values():
        trained = config.override({dimension.name: interval})
        trained = shorten(trained, search.proxy) if search.proxy else trained
        if not all(trained.schedule.validates(rung) for rung in rungs):
            return (
                f"with {interval} there is no validation at every rung "
                f"({', '.join(map(str, rungs))}), so trials could not be compared there; "
                "leave val_every out of the space, or use scheduler: none"
            )
    return ""


def _uneven_batch(
    dimension: Dimension, space: Space, config: ExperimentConfig, search: SearchConfig
) -> str:
    """Return a message if a drawn batch does not divide among the workers; empty otherwise."""
    if dimension.name != "schedule.batch_size":
        return ""
    problems = (_uneven(size, space, config, search) for size in dimension.whole_values())
    return next(filter(None, problems), "")


def _uneven(batch_size: int, space: Space, config: ExperimentConfig, search: SearchConfig) -> str:
    workers, accumulate = search.workers_per_trial, config.schedule.accumulate
    parts = workers * accumulate
    if "schedule.accumulate" in space.names or batch_size % parts == 0:
        return ""
    return (
        f"{batch_size} does not divide among {workers} workers x accumulate {accumulate}; "
        f"take multiples of {parts}"
    )


def _repeated_choice(dimension: Dimension, config: ExperimentConfig) -> str:
    """Return a message if two choices are the same value for the config; empty otherwise."""
    if dimension.kind != "choice":
        return ""
    kept: list[tuple[Any, Any]] = []
    for value in dimension.values:
        meaning = _meaning(config, {**dimension.when, dimension.name: value}, dimension.name)
        for other, its_meaning in kept:
            if _same(meaning, its_meaning):
                return f"choice: {other!r} and {value!r} are the same value; remove one of them"
        kept.append((value, meaning))
    return ""


def _meaning(config: ExperimentConfig, changes: Mapping[str, Any], name: str) -> Any:
    """Return a value as the config holds it: 1 becomes 1.0 for a setting that is a number."""
    try:
        return config.override(changes).get(name)
    except ConfigError:  # possible only together with values of other settings
        return changes[name]


def _same(ours: Any, theirs: Any) -> bool:
    # In Python, True == 1; as settings they differ.
    return ours == theirs and isinstance(ours, bool) == isinstance(theirs, bool)


def _largest_number_of_points(dimensions: Sequence[Dimension]) -> float:
    """Return an upper bound of the number of different points; infinite if a range has fractions.

    Conditions can only make the number smaller.
    """
    number = 1.0
    for dimension in dimensions:
        match dimension.kind:
            case "choice":
                number *= len(dimension.values) + bool(dimension.when)
            case "int":
                low, high = dimension.values
                number *= high - low + 1 + bool(dimension.when)
            case _:
                return math.inf
    return number
