"""How many images and steps a second a training run makes, by the host's clock."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

# Steps over which the rate is averaged: enough to even out the loaders, few enough to follow a
# change.
NUM_STEPS = 50


class StepRate:
    """The mean duration of the latest steps. Pauses, such as a validation, do not count."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last: float | None = None
        self._durations: deque[float] = deque(maxlen=NUM_STEPS)

    def pause(self) -> None:
        """Do not count the time until the next step: it includes more than the step."""
        self._last = None

    def step(self) -> None:
        """Count a step that has ended now."""
        now = self._clock()
        if self._last is not None:
            self._durations.append(now - self._last)
        self._last = now

    @property
    def step_s(self) -> float | None:
        """The mean seconds of a step; None before the second step."""
        if not self._durations:
            return None
        return sum(self._durations) / len(self._durations)

    def images_per_s(self, batch_size: int) -> float | None:
        """Return the images per second for `batch_size` images per step; None if not known."""
        return batch_size / self.step_s if self.step_s else None
