"""What a peer in another interpreter learns of a task. Needs the standard library only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Point = dict[str, Any]  # a value of each axis: a number, or a label of a choice


@dataclass(frozen=True)
class Axis:
    """A dimension of the space, without conditions."""

    name: str
    kind: str  # uniform, loguniform, int or choice
    low: float = 0.0
    high: float = 1.0
    labels: tuple[str, ...] = ()  # of a choice

    @property
    def is_log(self) -> bool:
        """Whether the range is drawn on a logarithmic scale."""
        return self.kind == "loguniform"

    def cast(self, value: Any) -> Any:
        """Return a value of a library as a plain Python value."""
        match self.kind:
            case "choice":
                return str(value)
            case "int":
                return int(value)
            case _:
                return float(value)


@dataclass(frozen=True)
class PeerTask:
    """A search that a peer is to run."""

    method: str  # of the library
    axes: tuple[Axis, ...]
    first: Point  # the config itself, moved into the ranges
    grace: int  # epoch of the first rung
    epochs: int  # of a training run at full length
    seed: int

    def cast(self, point: Any) -> Point:
        """Return the point of a library with plain Python values, and without other names."""
        return {axis.name: axis.cast(point[axis.name]) for axis in self.axes}

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> PeerTask:
        """Return the task that `dataclasses.asdict` has written."""
        axes = tuple(Axis(**{**axis, "labels": tuple(axis["labels"])}) for axis in row["axes"])
        return cls(**{**row, "axes": axes})
