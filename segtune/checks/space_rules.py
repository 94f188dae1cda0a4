"""The linter of a study: rules about its space and its number of trials, and the list of all rules.

A rule is a function of the study, the trials that it draws and the sizes of its data set. It trains
nothing and opens no image. `tuning/space_checks.py` refuses what is impossible; these rules find
what is possible and probably not meant.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

from segtune.checks.data_sizes import DataSizes
from segtune.checks.drawn_trials import DrawnTrials, draw_trials
from segtune.checks.findings import Finding, percent
from segtune.checks.loss_rules import dice_alone, focal_alone, gamma_in_fp16
from segtune.checks.schedule_rules import (
    logarithmic_draws,
    plausible_lr,
    rungs_after_warmup,
    warmup_within_budget,
)
from segtune.errors import first_of
from segtune.tuning.samplers import STARTUP_TRIALS
from segtune.tuning.space import Dimension
from segtune.tuning.study import Study

Rule = Callable[[Study, DrawnTrials, DataSizes], Iterator[Finding]]

# Without a measured noise floor, a range is called narrow if its ends differ by less than this
# factor: seeds alone move mIoU by 1 to 2 points (mmsegmentation#2956 and #3795).
NARROW = 1.1
# A choice is worth a word if more than this share of searches never draw it.
UNDRAWN = 0.2
MAX_NAMED = 4


def space_findings(study: Study, sizes: DataSizes | None = None) -> list[Finding]:
    """Return what the rules find in a study, errors first; takes tenths of a second."""
    drawn = draw_trials(study)
    known = sizes or DataSizes()
    found = [finding for rule in RULES for finding in rule(study, drawn, known)]
    return sorted(found, key=lambda finding: finding.severity != "error")


def trials_beyond_start(study: Study, drawn: DrawnTrials, sizes: DataSizes) -> Iterator[Finding]:
    """Find searches that end before their sampler has begun to learn."""
    search = study.search
    if search.sampler in ("random", "grid") or search.trials > STARTUP_TRIALS:
        return
    yield Finding(
        "warning",
        "random-start",
        "search.trials",
        f"{search.trials} trials are not more than the {STARTUP_TRIALS} that "
        f"{search.chosen_sampler} draws at random first",
        f"so no trial is drawn from what the others showed: it is a random search (Bergstra et "
        f"al. 2011; {STARTUP_TRIALS} is Optuna's default)",
        f"--trials {2 * STARTUP_TRIALS} or more, or set search.sampler: random",
    )


def grid_within_trials(study: Study, drawn: DrawnTrials, sizes: DataSizes) -> Iterator[Finding]:
    """Find grids that have more points than the search has trials, and values that none draws."""
    search = study.search
    if search.sampler != "grid":
        return
    points = study.points()
    if len(points) <= search.trials:
        return
    undrawn = list(_undrawn_values(study, points[: search.trials]))
    missed = f"; never drawn: {first_of(undrawn, MAX_NAMED)}" if undrawn else ""
    yield Finding(
        "warning",
        "grid-size",
        "search.trials",
        f"the grid has {len(points)} points with the config itself and known_good, and "
        f"search.trials is {search.trials}: {percent(1 - search.trials / len(points))} of them are "
        f"not tried{missed}",
        "a part of a grid tests some values only beside some others, and each range at few values "
        "(Bergstra and Bengio 2012)",
        f"--trials {len(points)}, or a smaller search.grid_points ({search.grid_points} now), or "
        "set search.sampler: auto",
    )


def _undrawn_values(study: Study, points: list[dict[str, Any]]) -> Iterator[str]:
    """Yield each value of the grid that no point has."""
    for dimension in study.space.dimensions:
        drawn = {_text(point[dimension.name]) for point in points if dimension.name in point}
        values = dimension.grid(study.search.grid_points)
        yield from (
            f"{dimension.name} {_text(value)}" for value in values if _text(value) not in drawn
        )


def choices_drawn(study: Study, drawn: DrawnTrials, sizes: DataSizes) -> Iterator[Finding]:
    """Find choices that a search of this length probably never draws.

    A condition that seldom holds counts too. The chance that a choice is never drawn is (1 - p)^n
    for n draws; p is its share of the random draws.
    """
    search = study.search
    if search.sampler == "grid":
        return
    num_draws = max(0, search.trials - len(study.points()))
    for dimension in study.space.dimensions:
        if dimension.kind == "choice" and not dimension.is_fixed:
            yield from _undrawn_choices(study, dimension, num_draws)


def _undrawn_choices(study: Study, dimension: Dimension, num_draws: int) -> Iterator[Finding]:
    named = {_text(point.get(dimension.name)) for point in study.points()}
    share = 1 / len(dimension.values)
    for parent in study.space.dimensions:
        if parent.name in dimension.when and parent.kind == "choice":
            share /= len(parent.values)
    chance = (1 - share) ** num_draws
    left_out = [_text(value) for value in dimension.values if _text(value) not in named]
    if not left_out or chance <= UNDRAWN:
        return
    needed = _trials_needed(share) + len(study.points())
    yield Finding(
        "warning",
        "undrawn-choice",
        dimension.name,
        f"has {len(dimension.values)} choices, of which each random trial draws one in "
        f"{1 / share:.0f}: with {num_draws} trials to draw, each of "
        f"{first_of(left_out, MAX_NAMED)} is left out with a chance of {percent(chance)}",
        "a choice that no trial has cannot win: (1 - 1/k)^n for k choices and n draws",
        f"--trials {needed} (chance below {percent(UNDRAWN)}), fewer choices, or name them in "
        "search.known_good",
    )


def _trials_needed(share: float) -> int:
    """Return how many draws leave a choice of this share out with a chance of at most UNDRAWN."""
    number = 1
    while (1 - share) ** number > UNDRAWN:
        number += 1
    return number


def ranges_beyond_noise(study: Study, drawn: DrawnTrials, sizes: DataSizes) -> Iterator[Finding]:
    """Find ranges so narrow that their effect is probably smaller than the noise between seeds.

    No noise floor is known before a search, so the width itself is judged: see NARROW.
    """
    for dimension in study.space.dimensions:
        ratio = _relative_width(dimension)
        if ratio is None or ratio >= NARROW:
            continue
        low, high = min(dimension.values), max(dimension.values)
        yield Finding(
            "warning",
            "narrow-range",
            dimension.name,
            f"varies from {low:g} to {high:g} only, a factor of {ratio:.3g}",
            "two seeds of one config differ by 1 to 2 points of mIoU (mmsegmentation#2956, #3795); "
            f"no noise floor is known here, so a factor below {NARROW:g} counts as within it",
            f"widen it, for example to [{low / 2:g}, {high * 2:g}], or leave it out of the space",
        )


def _relative_width(dimension: Dimension) -> float | None:
    """Return the largest value divided by the smallest; None if that says nothing of its width."""
    values = dimension.values
    numbers = [v for v in values if isinstance(v, (int, float)) and not isinstance(v, bool)]
    if dimension.name == "seed" or len(numbers) != len(values) or len(set(numbers)) < 2:
        return None
    return max(numbers) / min(numbers) if min(numbers) > 0 else None


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


RULES: tuple[Rule, ...] = (
    warmup_within_budget,
    rungs_after_warmup,
    focal_alone,
    gamma_in_fp16,
    dice_alone,
    plausible_lr,
    logarithmic_draws,
    trials_beyond_start,
    grid_within_trials,
    choices_drawn,
    ranges_beyond_noise,
)
