"""The heartbeat of a training run: a small file that changes while the run makes steps.

Judges nothing: the supervisor of a search reads the file and detects hangs.
"""

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

from segtune.config.health_config import HealthConfig
from segtune.runs.rundir import TrialDir

# Rare enough that a thousand trials can write to one shared file system.
MAX_INTERVAL_S = 10.0
Item = TypeVar("Item")


class Heartbeat:
    """Writes how many steps a training run has made, and after which pause it counts as hung.

    The limit is `hung_factor` times the median step, but at least `hung_after_s`: a checkpoint on
    slow storage, or a first step that compiles kernels, takes longer than many steps. The file is
    replaced but not synced, because after a crash it is of no use.
    """

    def __init__(self, out: TrialDir | None, limits: HealthConfig) -> None:
        """Without `out`, nothing is written. Only rank 0 has one."""
        self.out = out
        self.limits = limits
        self._interval_s = min(MAX_INTERVAL_S, limits.hung_after_s / 10)
        self._num_beats = 0
        self._last_beat = time.monotonic()
        self._last_write = -self._interval_s
        self._steps_s: deque[float] = deque(maxlen=50)

    def beat(self) -> None:
        """Count a step of training or validation."""
        now = time.monotonic()
        self._steps_s.append(now - self._last_beat)
        self._last_beat = now
        self._num_beats += 1
        if self.out and now - self._last_write >= self._interval_s:
            self._last_write = now
            self._write(self.out.heartbeat)

    def wrap(self, items: Iterable[Item]) -> Iterator[Item]:
        """Yield the items, with a beat before each."""
        for item in items:
            self.beat()
            yield item

    def _write(self, path: Path) -> None:
        step_s = statistics.median(self._steps_s)
        content = {
            "beats": self._num_beats,
            "step_s": step_s,
            "limit_s": max(self.limits.hung_after_s, self.limits.hung_factor * step_s),
            "host": socket.gethostname(),
            "pid": os.getpid(),
        }
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        temporary.write_text(json.dumps(content))
        os.replace(temporary, path)
