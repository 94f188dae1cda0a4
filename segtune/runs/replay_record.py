"""What a replay finds, as types and as JSON. Computes nothing: `training/replay_step.py` does."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

# In the order of a step. `weights`: those before the step. `norm`: that of all gradients.
Phase = Literal["weights", "forward", "loss", "backward", "norm", "update"]


@dataclass(frozen=True)
class Origin:
    """The first value of a step that is not finite, and the operation that computed it."""

    phase: Phase
    layer: str  # dotted name and class of the module; the loss term; or the parameter
    operation: str  # of torch, for example convolution or ConvolutionBackward0
    inf_share: float = 0.0  # of the values of the result
    nan_share: float = 0.0
    dtype: str = ""  # of the result, for example float16
    largest_input: float | None = None  # largest absolute value of the finite inputs
    dtype_max: float | None = None  # the largest number of `dtype`
    parameters: tuple[str, ...] = ()  # whose values or gradients are involved
    line: str = ""  # file:line of the call, if it is not in torch
    rank: int = 0
    part: int = 1  # the micro-batch, from 1


@dataclass(frozen=True)
class StepNumbers:
    """The numbers of one replayed step."""

    step: int
    losses: dict[str, float]
    grad_norm: float

    @property
    def loss(self) -> float:
        """The loss that is minimised."""
        return self.losses["loss"]

    @property
    def is_finite(self) -> bool:
        """Whether the loss and the norm of the gradients are finite."""
        return math.isfinite(self.loss) and math.isfinite(self.grad_norm)


@dataclass(frozen=True)
class RemedyResult:
    """The step and the few steps after it, tried with changed settings from the same weights."""

    settings: dict[str, Any]  # {dotted name: value}; empty: as in the training run
    steps: list[StepNumbers]
    loss_after: float  # on the images of the first step, after all steps
    stays_finite: bool  # all steps, `loss_after` and the weights
    works: bool  # see `remedies.works`


@dataclass(frozen=True)
class ReplayRecord:
    """A whole replay."""

    trial: str
    kind: str
    evidence: str
    step: int
    epoch: int
    exact: bool
    note: str
    recorded: StepNumbers
    replayed: StepNumbers
    reproduced: bool
    differences: list[str]  # between this machine and that of the training run
    origin: Origin | None
    earlier: Origin | None  # a value in the forward pass that did not reach the loss
    images: list[list[str]]
    activations: dict[str, float] = field(default_factory=dict)  # largest output of each module
    gradients: dict[str, dict[str, float]] = field(default_factory=dict)  # by parameter
    weights: dict[str, dict[str, float]] = field(default_factory=dict)  # by parameter
    remedies: list[RemedyResult] = field(default_factory=list)
    conclusion: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)  # of the remedy that works

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values; numbers that are not finite are the words inf and nan."""
        return _plain(asdict(self))


def json_number(value: float) -> float | str:
    """Return a number as JSON can hold it: inf, -inf and nan as words. `float` reads both."""
    return value if math.isfinite(value) else str(value)


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return json_number(value)
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
