"""The records in the files of a training run, as types. Reads and writes no file: `rundir.py` does.

Times are Unix time in seconds, by the clock of the process that wrote the record. They are part of
the record, because copying a folder changes the modification times of its files.
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
    mdice: float | None = None  # None in the files of early versions
    class_iou: tuple[float | None, ...] = ()  # None: neither labelled nor predicted
    top_class: str = ""  # the class that is predicted most often
    top_share: float = 0.0  # the fraction of the valid pixels predicted as `top_class`


@dataclass(frozen=True)
class EpochRecord:
    """One finished epoch: finite numbers, reduced over the ranks and equal on all of them.

    On disk a record is a flat JSON object on one line of `epochs.jsonl`. Its keys are the names of
    these fields, except that each loss and each field of `ValidationScores` has its own key.
    """

    epoch: int
    step: int = 0  # optimiser steps so far
    seconds: float = 0.0  # of training and validation so far, in all attempts
    ended: float = 0.0  # Unix time; 0 in the files of early versions
    lr: float = 0.0  # the encoder's learning rate at the last step
    losses: Mapping[str, float] = field(default_factory=dict)  # `loss`, the total, and its terms
    grad_norm: float = 0.0  # median over the steps, before clipping
    gradient_left: float = 1.0  # share of the gradient that the focal term leaves (`probes.py`)
    weight_growth: float | None = 1.0  # weight norm relative to the start; None: not finite
    init_miou: float | None = None  # mIoU of the weights of --init-from, before training
    validation: ValidationScores | None = None  # None: the epoch ended without a validation
    loss_scale: float | None = None  # of the scaler, after the epoch; None without a scaler
    skipped_steps: int | None = None  # by the scaler, in this epoch; None without a scaler

    @property
    def miou(self) -> float | None:
        """The validated mIoU in 0..1, or None if the epoch ended without a validation."""
        return self.validation.miou if self.validation else None

    def to_row(self) -> dict[str, Any]:
        """Return the record as it is written: a flat dictionary of plain JSON values."""
        row: dict[str, Any] = {name: getattr(self, name) for name in _PLAIN_FIELDS}
        for name in ("init_miou", "loss_scale", "skipped_steps"):
            if row[name] is None:
                del row[name]
        row |= self.losses
        if self.validation:
            row |= asdict(self.validation)
        return row

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> EpochRecord:
        """Return the record of a row. Keys that early versions did not write get their default."""
        plain = {name: row[name] for name in _PLAIN_FIELDS if name in row}
        scores: dict[str, Any] = {name: row[name] for name in _SCORE_FIELDS if name in row}
        losses = {name: row[name] for name in row if name not in plain and name not in scores}
        validation = None
        if scores.get("miou") is not None:
            scores.setdefault("constant_miou", 0.0)
            scores["class_iou"] = tuple(scores.get("class_iou", ()))
            validation = ValidationScores(**scores)
        return cls(**plain, losses=losses, validation=validation)


_SCORE_FIELDS = tuple(scores.name for scores in fields(ValidationScores))
_PLAIN_FIELDS = tuple(
    plain.name for plain in fields(EpochRecord) if plain.name not in ("losses", "validation")
)


@dataclass(frozen=True)
class PrecisionSwitch:
    """The change of a training run from float16 to another precision."""

    epoch: int  # in which it was made
    step: int  # the last step in the old precision
    before: str  # dtype of autocast, for example float16
    after: str
    reason: str  # the numbers that show that float16 overflowed

    @property
    def sentence(self) -> str:
        """What changed, where and why, in one line."""
        place = f"epoch {self.epoch}, step {self.step}"
        return f"{self.before} until {place}, then {self.after}, because {self.reason}"


@dataclass(frozen=True)
class Attempt:
    """One start of a trial by a search."""

    started: float | None  # Unix time; None in the folders of early versions
    paused: float | None = None  # Unix time of the pause that it ends; None: it ends no pause
    pause_epoch: int | None = None  # the epoch of that pause, after which it continues


@dataclass(frozen=True)
class NetworkProfile:
    """The size and the speed of a trial's network, measured once before it is trained."""

    parameters: int
    classes: tuple[str, ...]  # by label
    height: int  # of the image, in pixels
    width: int
    latency_ms: float | None = None  # median of forward passes of one image; None: not measured
    device: str = ""
    precision: str = ""

    @property
    def params_m(self) -> float:
        """Millions of parameters."""
        return self.parameters / 1e6

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> NetworkProfile:
        """Return the profile of a JSON object."""
        return cls(**{**row, "classes": tuple(row["classes"])})


@dataclass(frozen=True)
class GuardOutcome:
    """Which guards of the study a trial breaks, by what is known so far."""

    broken: tuple[str, ...] = ()  # a sentence for each
    # How far each guard is broken, as a sampler learns it: above 0 is broken, 0 is unknown.
    constraints: Mapping[str, float] = field(default_factory=dict)
    # False: there are guards on classes, and the trial has not been trained to its end.
    is_judged: bool = True

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> GuardOutcome:
        """Return the outcome of a JSON object."""
        return cls(tuple(row["broken"]), row["constraints"], row.get("is_judged", True))
