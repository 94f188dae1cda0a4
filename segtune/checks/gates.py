"""Which settings have an effect only if another one has a certain value.

A gate does not decide that a setting is dead: `liveness.py` observes that. It explains why, and its
explanation is tried out: with the gate open, the setting has to be live.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from segtune.config.schema import ExperimentConfig
from segtune.tuning.space import Dimension


@dataclass(frozen=True)
class Gate:
    """A condition on one of several settings: it holds if any of them is open."""

    names: tuple[str, ...]
    opening: Any  # a value that opens the first of them; in `closed` if none is known
    closed: tuple[Any, ...] = ()  # the values that close it; all others open it
    opens: tuple[Any, ...] = ()  # instead of `closed`: the only values that open it

    @property
    def name(self) -> str:
        """The setting that is opened."""
        return self.names[0]

    @property
    def can_be_tried(self) -> bool:
        """Whether there is a value that opens it."""
        return self._opens(self.opening)

    def is_open(self, config: ExperimentConfig) -> bool:
        """Whether the condition holds for a config."""
        return any(self._opens(config.get(name)) for name in self.names)

    def openings(self, dimensions: Sequence[Dimension]) -> list[tuple[str, Any]]:
        """Return (setting, value) for each setting of the gate that a space can open."""
        found = []
        for dimension in dimensions:
            if dimension.name in self.names:
                is_choice = dimension.kind == "choice"
                values = dimension.values if is_choice else dimension.grid(3)[::-1]
                opening = [value for value in values if self._opens(value)]
                found += [(dimension.name, value) for value in opening[:1]]
        return found

    def _opens(self, value: Any) -> bool:
        return value in self.opens if self.opens else value not in self.closed


def _weight(*terms: str) -> Gate:
    return Gate(tuple(f"loss.{term}.weight" for term in terms), 1.0, (0.0,))


def _probability(name: str) -> Gate:
    return Gate((f"augment.{name}.prob",), 1.0, (0.0,))


MIXING = Gate(("augment.mix.kind",), "cutmix", ("none",))
WARMUP = Gate(("schedule.warmup_epochs", "schedule.warmup_steps"), 1, (0, 0.0, None))
# All gates of a setting have to be open.
GATES: dict[str, tuple[Gate, ...]] = {
    "loss.focal.gamma": (_weight("focal"),),
    "loss.focal.form": (_weight("focal"),),
    "loss.focal.alpha": (_weight("focal"), Gate(("loss.focal.form",), "sigmoid", ("softmax",))),
    "loss.dice.per_class": (_weight("dice"),),
    "loss.lovasz.per_image": (_weight("lovasz"),),
    "loss.tversky.alpha": (_weight("tversky"),),
    "loss.tversky.beta": (_weight("tversky"),),
    "loss.custom.weight": (Gate(("loss.custom.name",), None, (None,)),),
    "loss.label_smoothing": (_weight("ce"),),
    "loss.class_weights": (_weight("ce", "focal"),),
    "loss.ohem.keep": (_weight("ce", "focal"),),
    "augment.ratio": (Gate(("augment.scales",), None, opens=(None,)),),
    "augment.rotate.degree": (_probability("rotate"),),
    "augment.cutout.holes": (_probability("cutout"),),
    "augment.cutout.size": (_probability("cutout"),),
    "augment.erase.area": (_probability("erase"),),
    "augment.erase.aspect": (_probability("erase"),),
    "augment.erase.fill": (_probability("erase"),),
    "augment.erase.labels": (_probability("erase"),),
    "augment.mix.kind": (_probability("mix"),),
    "augment.mix.prob": (MIXING,),
    "augment.mix.alpha": (MIXING, _probability("mix")),
    "schedule.warmup_epochs": (Gate(("schedule.warmup_steps",), None, opens=(None,)),),
    "schedule.warmup_start": (WARMUP,),
    "schedule.eta_min": (Gate(("schedule.poly_power",), 1.0, (0.0,)),),
    "val.window": (Gate(("val.mode",), "slide", ("whole",)),),
    "val.stride": (Gate(("val.mode",), "slide", ("whole",)),),
}
# The settings that a proxy sets in every trial, each with the proxy's own.
PROXY_SETS = {
    "schedule.epochs": "search.proxy.epochs",
    "data.num_images": "search.proxy.num_images",
}
