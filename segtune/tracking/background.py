"""A tracker in a thread of its own, so that its network costs no steps and its errors no run."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np

from segtune.runs.environment import without_passwords
from segtune.runs.verdict import Verdict
from segtune.tracking.tracker import Axis, TrackedRun, Tracker

log = logging.getLogger(__name__)

# Points that wait for a slow tracker; more are left out, because memory is limited.
MAX_WAITING = 1000
# How long the end of a training run waits for what is still to be sent.
END_TIMEOUT_S = 60.0
MAX_MESSAGE = 300  # characters of an error


class BackgroundTracker(Tracker):
    """Calls another tracker in a thread. If that fails, it warns once and drops everything else."""

    def __init__(self, name: str, tracker: Tracker, *, begins_here: bool = False) -> None:
        """`name` is the one of `log.to`, for the warning.

        With `begins_here`, it begins in the thread that trains: it may ask for a password.
        """
        self._name = name
        self._tracker = tracker
        self._begins_here = begins_here
        self._has_failed = False
        self._calls: queue.Queue[Callable[[], None] | None] = queue.Queue(MAX_WAITING)
        self._thread = threading.Thread(target=self._work, daemon=True, name=f"tracker-{name}")

    def begin(self, run: TrackedRun) -> None:
        """Begin, and pass everything else on in the thread."""
        call = partial(self._tracker.begin, run)
        if self._begins_here:
            self._try(call)
        else:
            self._later(call)
        self._thread.start()

    def add(self, values: Mapping[str, float], axis: Axis, position: int) -> None:
        """Add a point of several curves, later."""
        self._later(partial(self._tracker.add, values, axis, position))

    def add_images(self, images: Mapping[str, np.ndarray], epoch: int) -> None:
        """Add images by name, later."""
        self._later(partial(self._tracker.add_images, images, epoch))

    def rewind(self, step: int) -> None:
        """Pass it on, later."""
        self._later(partial(self._tracker.rewind, step))

    def end(self, summary: Mapping[str, float], verdict: Verdict | None) -> None:
        """Wait until everything is passed on, but not for longer than the time limit."""
        if not (self._later(partial(self._tracker.end, summary, verdict)) and self._later(None)):
            return  # it is too slow: the thread ends after its call
        self._thread.join(END_TIMEOUT_S)
        if self._thread.is_alive():
            self._fail("does not answer")

    def _later(self, call: Callable[[], None] | None) -> bool:
        """Add a call, or the end of the thread (None); return False if too many are waiting."""
        try:
            self._calls.put_nowait(call)
        except queue.Full:
            self._fail("is too slow")
            return False
        return True

    def _work(self) -> None:
        while not self._has_failed and (call := self._calls.get()) is not None:
            self._try(call)

    def _try(self, call: Callable[[], None]) -> None:
        if self._has_failed:
            return
        try:
            call()
        except Exception as error:  # whatever it is: curves elsewhere are worth no training run
            message = without_passwords(f"{type(error).__name__}: {error}")
            self._fail(f"has failed: {' '.join(message.split())[:MAX_MESSAGE]}")

    def _fail(self, what: str) -> None:
        if not self._has_failed:
            self._has_failed = True
            log.warning(
                "log.to: %s %s; nothing more is sent there; epochs.jsonl has every epoch",
                self._name,
                what,
            )
