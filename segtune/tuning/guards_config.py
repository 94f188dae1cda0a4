"""The `search.guards` of a study: what a trial must keep to be able to win."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from segtune.config.settings import Settings


def _check_least_ious(least: dict[str, float]) -> dict[str, float]:
    """Return {class: least IoU}. Raise ValueError if a number is not an IoU."""
    wrong = [f"{name}: {iou:g}" for name, iou in least.items() if not 0 <= iou <= 1]
    if wrong:
        raise ValueError(
            f"expected an IoU from 0 to 1, got {', '.join(wrong)}; 60 % is written 0.6"
        )
    return least


class GuardsConfig(Settings):
    """Limits on a trial. A trial that breaks one of them cannot win."""

    class_iou_drop: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="How far the IoU of each class may lie below that of trial 0, the config "
        "itself: 0.05 allows 5 points. null: no limit.",
    )
    params_m: float | None = Field(
        default=None,
        gt=0,
        description="Largest number of parameters, in millions. A larger model is not trained. "
        "null: no limit.",
    )
    latency_ms: float | None = Field(
        default=None,
        gt=0,
        description="Longest time of the forward pass of one validation image on the worker's "
        "device, in milliseconds. A slower model is not trained. null: no limit.",
    )
    least_ious: Annotated[dict[str, float], AfterValidator(_check_least_ious)] = Field(
        default_factory=dict,
        alias="class",
        description="Least IoU of single classes by name, from 0 to 1, such as {person: 0.6}. A "
        "class that has no pixel in the validation masks counts as 0. On a proxy, only the trials "
        "at full length are judged.",
    )

    @property
    def has_class_guards(self) -> bool:
        """Whether a guard needs the IoUs of a trial that has been trained to its end."""
        return self.class_iou_drop is not None or bool(self.least_ious)

    @property
    def limits(self) -> dict[str, float]:
        """The guards that are set, {name: limit}, in a fixed order."""
        single = {
            name: getattr(self, name) for name in ("params_m", "latency_ms", "class_iou_drop")
        }
        of_classes = {f"class.{name}": iou for name, iou in self.least_ious.items()}
        return {name: limit for name, limit in single.items() if limit is not None} | of_classes
