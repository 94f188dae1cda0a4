"""The records in a run's files, as types. Reads and writes no file: `rundir.py` does.

Times are Unix time in seconds, by the clock of the process that wrote the record. They stand in
the files themselves, because copying a folder changes the times of its files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any


@dataclass(frozen=True)
class ValidationScores:
    """Scores of one validation over all ranks, in 0..1."""

    miou: float
    constant_miou: float  # mIoU of predicting the most frequent class everywhere
    aacc: float = 0.0
    macc: float = 0.0
    class_iou: tuple[float | None, ...] = ()  # None: neither labelled nor predicted
    top_class: str = ""  # the class that is predicted most often
    top_share: float = 0.0  # the fraction of the valid pixels that it is predicted on


@dataclass(frozen=True)
class EpochRecord:
    """One finished epoch: finite numbers, reduced over the ranks and equal on all of them.

    On disk a record is one flat JSON object, a line of `epochs.jsonl`. Its keys are the names of
    these fields and those of `ValidationScores`; each loss has its own key.
    """

    epoch: int
    step: int = 0  # optimiser steps so far
    seconds: float = 0.0  # of training and validation so far, in all attempts
    ended: float = 0.0  # Unix time; 0 in the files of early versions
    lr: float = 0.0  # the encoder's learning rate at the last step
    losses: Mapping[str, float] = field(default_factory=dict)  # `loss` is minimised; terms follow
    grad_norm: float = 0.0  # median over the steps, before clipping
    gradient_left: float = 1.0  # see `probes.gradient_left`
    weight_growth: float | None = 1.0  # weight norm relative to the start; None: not finite
    init_miou: float | None = None  # of the weights that --init-from gave
    validation: ValidationScores | None = None  # None: the epoch ended without a validation

    @property
    def miou(self) -> float | None:
        """The validated mIoU in 0..1, or None if the epoch ended without a validation."""
        return self.validation.miou if self.validation else None

    def to_row(self) -> dict[str, Any]:
        """Return the record as it is written: a flat dictionary of plain JSON values."""
        row: dict[str, Any] = {"epoch": self.epoch, "step": self.step}
        row |= {"seconds": self.seconds, "ended": self.ended}
        if self.init_miou is not None:
            row["init_miou"] = self.init_miou
        row |= self.losses
        row |= {name: getattr(self, name) for name in ("grad_norm", "gradient_left")}
        row |= {"weight_growth": self.weight_growth, "lr": self.lr}
        if self.validation:
            row |= asdict(self.validation)
        return row

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> EpochRecord:
        """Return the record of a row. Early versions wrote fewer keys; these get their default."""
        mine = {name: row[name] for name in _PLAIN_FIELDS if name in row}
        scores: dict[str, Any] = {"constant_miou": 0.0}
        scores |= {name: row[name] for name in _SCORES if name in row}
        scores["class_iou"] = tuple(scores.get("class_iou", ()))
        return cls(
            **mine,
            losses={n: v for n, v in row.items() if n not in _PLAIN_FIELDS and n not in _SCORES},
            validation=ValidationScores(**scores) if row.get("miou") is not None else None,
        )


_SCORES = tuple(score.name for score in fields(ValidationScores))
_PLAIN_FIELDS = tuple(f.name for f in fields(EpochRecord) if f.name not in ("losses", "validation"))


@dataclass(frozen=True)
class Attempt:
    """One start of a trial by a search."""

    started: float | None  # Unix time; None in the folders of early versions
