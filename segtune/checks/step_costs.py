"""What a few real steps of a config cost: the record of a corner step, in `RUN/corners.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from segtune.runs.verdict import Verdict
from segtune.tuning.guards import GUARD


@dataclass(frozen=True)
class StepCosts:
    """What a few real steps of one config cost on a worker, and how they ended."""

    name: str  # "the config itself", "largest batch", …
    params: dict[str, Any]  # searched values that differ from the config
    verdict: Verdict | None  # None: the steps were healthy
    start_s: float | None  # building data, network and optimiser
    step_s: float | None  # median optimiser step without the first, all accumulation included
    steps_per_epoch: int | None  # optimiser steps of one epoch
    val_image_s: float | None  # seconds per validation image on this rank
    num_val_images: int | None
    peak_bytes: int | None  # GPU: peak allocated; CPU: growth of the process's peak RSS
    # Size of one full checkpoint (weights + optimiser), measured or computed from the real states.
    checkpoint_bytes: int | None

    @property
    def breaks_guard(self) -> bool:
        """Whether no steps were taken, because the network is larger than a guard allows."""
        return self.verdict is not None and self.verdict.kind == GUARD

    @classmethod
    def unmeasured(cls, name: str, params: Mapping[str, Any], verdict: Verdict | None) -> StepCosts:
        """Return a record without numbers."""
        ended = verdict.dump() if verdict else None
        return cls.parse({"name": name, "params": params, "verdict": ended})

    def dump(self) -> dict[str, Any]:
        """Return the record as plain JSON values."""
        verdict = self.verdict.dump() if self.verdict else None
        return {**vars(self), "params": dict(self.params), "verdict": verdict}

    @classmethod
    def parse(cls, tree: Mapping[str, Any]) -> StepCosts:
        """Return the record that `dump` has written; a number that is absent is None."""
        values: dict[str, Any] = {field.name: tree.get(field.name) for field in fields(cls)}
        verdict = tree.get("verdict")
        values["verdict"] = Verdict.parse(verdict) if verdict else None
        values["params"] = dict(tree.get("params") or {})
        return cls(**values)
