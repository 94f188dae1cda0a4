"""A sign of life on disk while a run moves. Judges nothing: `cluster/watch.py` looks whether it stands still."""

from __future__ import annotations

import json
import os
import socket
import statistics
import time
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from segtune.config.schema import HealthConfig
from segtune.runs.rundir import TrialDir

# At most: a thousand trials write to one shared file system.
WRITE_EVERY_S = 10.0
Item = TypeVar("Item")


class Heartbeat:
    """Writes now and then how many steps a run has made, and after how long a pause it has to be called hung.

    The limit is `hung_factor` times the median step but at least `hung_after_s`, because a checkpoint on slow storage or a
    first step that compiles kernels takes longer than any number of steps. The file is replaced, not synced: it is of no
    use after a crash.
    """

    def __init__(self, out: TrialDir | None, limits: HealthConfig) -> None:
        """Without `out`, as on all ranks but the first, nothing is written."""
        self.out, self.limits = out, limits
        self.every_s = min(WRITE_EVERY_S, limits.hung_after_s / 10)
        self.beats, self.written = 0, -self.every_s
        self.last = time.monotonic()
        self.steps: deque[float] = deque(maxlen=50)

    def beat(self) -> None:
        """Counts a step of training or validation."""
        now = time.monotonic()
        self.steps.append(now - self.last)
        self.last = now
        self.beats += 1
        if self.out and now - self.written >= self.every_s:
            self.written = now
            self._write(self.out.heartbeat)

    def along(self, items: Iterable[Item]) -> Iterator[Item]:
        """Yields the items with a beat at each."""
        for item in items:
            self.beat()
            yield item

    def _write(self, path: Path) -> None:
        step_s = statistics.median(self.steps)
        limit_s = max(self.limits.hung_after_s, self.limits.hung_factor * step_s)
        told = {
            "beats": self.beats,
            "step_s": step_s,
            "limit_s": limit_s,
            "host": socket.gethostname(),
            "pid": os.getpid(),
        }
        aside = path.with_name(f".{path.name}.{os.getpid()}")
        aside.write_text(json.dumps(told))
        os.replace(aside, path)
