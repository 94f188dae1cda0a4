"""Search methods of libraries that cannot be installed next to segtune.

Each runs in an interpreter of its own, which an environment variable names, and hears and answers
over pipes (peer_server.py). Conditional settings are always drawn, and dropped if they are
inactive.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from dataclasses import asdict
from typing import Any

from benchmarks.places import ROOT
from benchmarks.search.methods.method import Decision, End, Job
from benchmarks.search.methods.peer_task import Axis, PeerTask, Point
from benchmarks.search.tasks import Task
from segtune.errors import SegtuneError
from segtune.tuning.space import Dimension, Space

# Of each library: the variable that names its interpreter, and what to install there.
INTERPRETERS = {
    "syne_tune": ("SEGTUNE_SYNE_TUNE_PYTHON", '"syne-tune[gpsearchers,kde]==0.13.0" "numpy<2"'),
    "smac": ("SEGTUNE_SMAC_PYTHON", "smac==2.4.1"),
    "dehb": ("SEGTUNE_DEHB_PYTHON", "dehb==0.1.2"),
    "neps": ("SEGTUNE_NEPS_PYTHON", "neural-pipeline-search==0.17.0"),
}
NUM_ERROR_CHARACTERS = 2000  # of a peer that has ended, in the message


def interpreter(library: str) -> str:
    """Return the interpreter that has a library. Raises SegtuneError if no variable names it."""
    variable, packages = INTERPRETERS[library]
    python = os.environ.get(variable)
    if not python:
        raise SegtuneError(
            f"{variable}: not set; it names a Python interpreter that has {library}. "
            f"Run: python3 -m venv PEER && PEER/bin/pip install {packages} "
            f"&& export {variable}=$PWD/PEER/bin/python"
        )
    return python


class PeerMethod:
    """A search that another interpreter runs."""

    def __init__(self, library: str, method: str, task: Task, seed: int) -> None:
        """`method` is one of the adapter of the library."""
        python = interpreter(library)
        self.space = task.space
        self.first = own_point(task.space)
        self.points: dict[int, Point] = {}
        self.paused: set[int] = set()
        self.seconds_elsewhere = 0.0
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed by `close`)
        module = "benchmarks.search.methods.peer_server"
        self.server = subprocess.Popen(
            [python, "-m", module, library],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
        )
        axes = tuple(axis_of(dimension) for dimension in task.space.dimensions)
        row = asdict(PeerTask(method, axes, self.first, task.grace, task.epochs, seed))
        self._send(row)

    def next_job(self) -> Job | None:
        answer = self._call("next_job")
        if answer is None:
            return None
        number, point = answer
        if number < len(self.points):
            assert number in self.paused, f"trial {number} goes on, but it was not paused"
            self.paused.remove(number)
            return Job(number)
        assert number == len(self.points), f"trial {number} is not the next one"
        self.points[number] = point
        # The config itself may lie outside the ranges; the peer knows it moved into them.
        assert number or point == self.first, "the config itself is not the first trial"
        params = params_of(self.space, point) if number else self.space.complete({})
        return Job(number, params)

    def began(self, number: int, params: dict[str, Any]) -> None:
        self.points[number] = point_of(self.space, params, self.points[number])
        self._call("began", number, self.points[number])

    def report(self, number: int, epoch: int, score: float) -> Decision:
        assert number not in self.paused, f"trial {number} reports, but it is paused"
        decision = Decision(self._call("report", number, epoch, score))
        if decision is Decision.PAUSE:
            self.paused.add(number)
        return decision

    def end(self, number: int, state: End) -> None:
        self.paused.discard(number)
        self._call("end", number, state)

    def close(self) -> None:
        """End the other interpreter."""
        assert self.server.stdin
        assert self.server.stdout
        # If the other interpreter has ended already, closing would flush to a broken pipe.
        if self.server.poll() is None:
            self.server.stdin.close()
        self.server.wait()
        self.server.stdout.close()
        self.errors.close()

    def _send(self, message: Any) -> None:
        assert self.server.stdin
        self.server.stdin.write(json.dumps(message) + "\n")
        self.server.stdin.flush()

    def _call(self, name: str, *arguments: Any) -> Any:
        """Return what a method of the search in the other interpreter returns."""
        assert self.server.stdout
        try:
            self._send([name, *arguments])
            line = self.server.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            self.errors.seek(0)
            raise RuntimeError(f"the peer has ended: {self.errors.read()[-NUM_ERROR_CHARACTERS:]}")
        result, self.seconds_elsewhere = json.loads(line)
        return result


def axis_of(dimension: Dimension) -> Axis:
    """Return the axis of a dimension. The labels of a choice are the indices of its options."""
    if dimension.kind == "choice":
        labels = tuple(str(index) for index in range(len(dimension.values)))
        return Axis(dimension.name, dimension.kind, labels=labels)
    return Axis(dimension.name, dimension.kind, *dimension.values)


def own_point(space: Space) -> Point:
    """Return the config itself, with its values of inactive settings too."""
    middle = {axis.name: _middle(axis) for axis in map(axis_of, space.dimensions)}
    return point_of(space, {name: space.base[name] for name in space.names}, middle)


def _middle(axis: Axis) -> Any:
    if axis.kind == "choice":
        return axis.labels[0]
    return axis.cast((axis.low + axis.high) / 2)


def point_of(space: Space, params: dict[str, Any], others: Point) -> Point:
    """Return params as a point within the ranges, with `others` for what it cannot tell."""
    point = dict(others)
    for dimension in space.dimensions:
        value = params.get(dimension.name)
        if dimension.kind == "choice":
            index = dimension.index_of(value) if dimension.name in params else None
            if index is not None:
                point[dimension.name] = str(index)
        elif value is not None:
            low, high = dimension.values
            point[dimension.name] = min(max(value, low), high)
    return point


def params_of(space: Space, point: Point) -> dict[str, Any]:
    """Return a point as params; inactive settings are dropped."""
    values = {
        dimension.name: dimension.values[int(point[dimension.name])]
        if dimension.kind == "choice"
        else point[dimension.name]
        for dimension in space.dimensions
    }
    return space.complete(values)
