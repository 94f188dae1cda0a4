"""Takes real steps at the corners of a space, and says which of them would end a trial.

Knows no Ray: the caller hands over what takes the steps, in this process or on a search's workers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from segtune.checks.corner_findings import Outcome, findings_of, refuses_config
from segtune.checks.corners import LARGEST_STEP, Corner, corners_of
from segtune.checks.disk_need import format_bytes
from segtune.checks.findings import Finding, shown_value
from segtune.checks.safe_range import SafeRange, safe_range
from segtune.checks.step_costs import StepCosts
from segtune.tuning.study import Study

# Of the file RUN/corners.json.
FORMAT = 1

# Takes the steps of each corner and returns their costs, in the same order.
Measure = Callable[[Sequence[Corner]], Sequence[StepCosts]]


@dataclass(frozen=True)
class CornerReport:
    """What real steps at the corners of a space have shown."""

    num_steps: int
    costs: tuple[StepCosts, ...]  # of each corner, the config itself first
    probes: tuple[StepCosts, ...]  # of the further points that safe ranges needed
    left_out: tuple[str, ...]  # corners that were not tried, each with the reason
    findings: tuple[Finding, ...]

    def dump(self) -> dict[str, Any]:
        """Return the report as plain JSON values."""
        return {
            "format": FORMAT,
            "num_steps": self.num_steps,
            "costs": [costs.dump() for costs in self.costs],
            "probes": [costs.dump() for costs in self.probes],
            "left_out": list(self.left_out),
            "findings": [finding.dump() for finding in self.findings],
        }

    def rows(self) -> list[dict[str, str]]:
        """Return a row of text for each corner."""
        return [_row(costs) for costs in self.costs]

    def about(self) -> str:
        """Return what was tried and what was left out, in one line."""
        number = len(self.costs)
        corners = "the config itself" if number == 1 else f"{number} corners of the space"
        text = f"{corners}, {self.num_steps} real optimiser steps each at the peak learning rate"
        return text + (f"; left out: {', '.join(self.left_out)}" if self.left_out else "")


def costs_of(tree: Mapping[str, Any]) -> list[StepCosts]:
    """Return the costs of each corner from the content of RUN/corners.json."""
    return [StepCosts.parse(costs) for costs in tree.get("costs", ())]


def take_corner_steps(study: Study, measure: Measure) -> CornerReport:
    """Take steps at each corner of a study, and look for the safe range of those that fail.

    If the config itself fails, no other corner is tried. If the largest step fails, the models and
    the precisions are tried with the largest step that was healthy. A corner whose network breaks a
    guard is left out, because the search does not train such a trial.
    """
    corners = corners_of(study)
    explorer = _Explorer(study, measure)
    itself, *others = corners.chosen
    outcomes = explorer.outcomes([itself])
    left_out = list(corners.left_out)
    if refuses_config(study, outcomes[0].costs):
        left_out += [f"{corner.name} (the config itself fails)" for corner in others]
    else:
        outcomes += explorer.outcomes([c for c in others if not c.is_choice])
        choices = [c for c in others if c.is_choice]
        outcomes += explorer.outcomes(_with_healthy_step(study, choices, outcomes))
    known = explorer.known.values()
    too_large = [costs for costs in known if costs.breaks_guard]
    left_out += [f"{costs.name} (breaks search.guards.params_m)" for costs in too_large]
    costs = [outcome.costs for outcome in outcomes]
    probes = [probe for probe in known if probe not in [*costs, *too_large]]
    return CornerReport(
        *(study.search.corner_steps, tuple(costs), tuple(probes)),
        *(tuple(left_out), tuple(findings_of(study, outcomes))),
    )


def _with_healthy_step(
    study: Study, corners: Sequence[Corner], outcomes: Sequence[Outcome]
) -> list[Corner]:
    """Return corners with the largest step that was healthy in place of the largest step."""
    largest = next((o for o in outcomes if o.corner.name == LARGEST_STEP), None)
    if largest is None or largest.costs.verdict is None:
        return list(corners)
    own = {name: study.space.base[name] for name in largest.corner.moved}
    healthy = largest.safe.healthy if largest.safe else own
    return [
        replace(
            corner.moved_to(healthy, study.space.base),
            name=corner.name.replace(LARGEST_STEP, "largest healthy step"),
        )
        for corner in corners
    ]


class _Explorer:
    """Takes the steps of each point once."""

    def __init__(self, study: Study, measure: Measure) -> None:
        self.study = study
        self.measure = measure
        self.known: dict[str, StepCosts] = {}

    def outcomes(self, corners: Sequence[Corner]) -> list[Outcome]:
        """Take the steps of the corners that are new, and return what each has shown.

        A corner whose network breaks a guard has no outcome.
        """
        new = [corner for corner in corners if _key(corner.params) not in self.known]
        costs = self._measured(new)
        return [
            Outcome(corner, cost, self._safe_range(corner) if cost.verdict else None)
            for corner, cost in zip(new, costs, strict=True)
            if not cost.breaks_guard
        ]

    def _measured(self, corners: Sequence[Corner]) -> list[StepCosts]:
        costs = list(self.measure(corners)) if corners else []
        self.known |= {_key(c.params): cost for c, cost in zip(corners, costs, strict=True)}
        return costs

    def _safe_range(self, corner: Corner) -> SafeRange | None:
        """Return where a corner that has failed begins to work; None if no point was healthy."""
        return safe_range(self.study.space, corner, self._is_healthy)

    def _is_healthy(self, corner: Corner) -> bool:
        known = self.known.get(_key(corner.params)) or self._measured([corner])[0]
        return known.verdict is None


def _key(params: Mapping[str, Any]) -> str:
    return json.dumps(params, sort_keys=True)


def _row(costs: StepCosts) -> dict[str, str]:
    params = ", ".join(f"{name} {shown_value(value)}" for name, value in costs.params.items())
    memory = "-"
    if costs.step_s is not None and costs.peak_bytes is not None:
        memory = format_bytes(costs.peak_bytes)
    return {
        "corner": costs.name,
        "values": params or "-",
        "end": costs.verdict.kind if costs.verdict else "healthy",
        "s per step": "-" if costs.step_s is None else f"{costs.step_s:.3g}",
        "memory": memory,
    }
