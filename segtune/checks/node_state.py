"""What a node of a cluster needs for a search, and what is wrong on it. Knows nothing of Ray.

The driver says what is needed (`NodeNeeds`). Each node looks (`inspect_node`) and sends what it
sees (`NodeState`). The driver compares that with what it sees itself. Needs no torch.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segtune.checks.disk_need import free_bytes
from segtune.config.data_config import DataConfig
from segtune.data.cache import cache_folder
from segtune.data.same_data import DataContent, data_content
from segtune.errors import SegtuneError, place_problem, shown_path
from segtune.runs.atomic import write_atomic
from segtune.runs.environment import package_versions, source_digest
from segtune.runs.rundir import SearchDir
from segtune.tuning.study import Study

# How long a network file system may take to show a new file to another node.
PATIENCE_S = 5.0
# Below this, a node's disk is nearly full: decoded images are not kept (`data.cache`), and Ray has
# little space for its own files.
LOW_DISK_BYTES = 2 * 10**9
MAX_CLOCK_DIFFERENCE_S = 5.0
GB = 10**9


@dataclass(frozen=True)
class NodeNeeds:
    """What a node needs for the trials of a search run."""

    run: str  # the folder of the search run
    token: str  # the content of `SearchDir.node_token`
    data: dict[str, Any] | None = None  # the tree of a DataConfig; None: is not checked
    files: tuple[str, ...] = ()  # checkpoints and weights

    @classmethod
    def of(cls, study: Study, run: SearchDir) -> NodeNeeds:
        """Return what the trials of a study need, and write the token into the run folder."""
        token = uuid.uuid4().hex
        write_atomic(run.node_token, token)
        data = study.config.data
        # Each node generates the shapes itself, and they are the same everywhere.
        is_checked = data.layout != "shapes"
        paths = (study.search.init_from, study.config.model.weights)
        # A name that is no path is an id on a hub.
        files = tuple(path for path in paths if path and os.path.exists(path))
        return cls(str(run.path), token, data.dump() if is_checked else None, files)


@dataclass(frozen=True)
class NodeState:
    """What a node sees, as it is sent to the driver."""

    source: str  # a digest of segtune's own files
    packages: Mapping[str, str]  # {distribution: version}
    data: DataContent | None = None  # None: it is absent, or not checked
    problems: tuple[str, ...] = ()  # trials would fail here, whatever other nodes see
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class NodeReport:
    """What is wrong on one node."""

    node: str  # its address, host and id
    problems: tuple[str, ...] = ()  # trials would fail, or would differ from those elsewhere
    warnings: tuple[str, ...] = ()

    @property
    def message(self) -> str:
        """One message with everything that is wrong on the node; "" if nothing is."""
        lines = [*self.problems, *self.warnings]
        return "\n  ".join([f"node {self.node}:", *lines]) if lines else ""


@dataclass(frozen=True)
class Reference:
    """What nodes are compared with."""

    driver: NodeState
    data: DataContent | None  # as the driver sees it, or the first node if the driver has no data
    data_from: str  # the machine that sees it

    @classmethod
    def of(cls, driver: NodeState, nodes: Mapping[str, NodeState]) -> Reference:
        """Return the reference for `nodes`, {name: state}."""
        by_machine = {"the driver's node": driver, **nodes}
        for machine, state in by_machine.items():
            if state.data is not None:
                return cls(driver, state.data, machine)
        return cls(driver, None, "")


def inspect_node(needs: NodeNeeds) -> NodeState:
    """Look at this machine. Takes tens of milliseconds, or more on a slow file system."""
    data, data_problems = _look_at_data(needs.data)
    problems = [*_run_problems(needs), *data_problems, *_absent_files(needs.files)]
    return NodeState(
        source_digest(), package_versions(), data, tuple(problems), tuple(_low_disks(needs.data))
    )


def judge(node: str, state: NodeState, reference: Reference, ahead_s: float = 0.0) -> NodeReport:
    """Return what is wrong on a node whose clock is at least `ahead_s` ahead, or behind if < 0."""
    problems = [*_software_problems(state, reference.driver), *state.problems]
    if state.data is not None and reference.data is not None:
        problems += state.data.differences(reference.data, reference.data_from)
    warnings = [*_package_warnings(state, reference.driver), *state.warnings]
    if abs(ahead_s) > MAX_CLOCK_DIFFERENCE_S:
        direction = "ahead of" if ahead_s > 0 else "behind"
        warnings.append(
            f"its clock is {abs(ahead_s):.0f} s {direction} the driver's, so the times in reports "
            "are wrong by that much; synchronise the clocks (NTP)"
        )
    return NodeReport(node, tuple(problems), tuple(warnings))


def _look_at_data(tree: dict[str, Any] | None) -> tuple[DataContent | None, list[str]]:
    if tree is None:
        return None, []
    try:
        return data_content(DataConfig.parse(tree)), []
    except SegtuneError as error:
        return None, [str(error)]
    except OSError as error:
        return None, [f"data.root: {place_problem(error) or error}"]


def _run_problems(needs: NodeNeeds) -> Iterator[str]:
    """Yield why the run folder cannot be used here, or is another folder than the driver's."""
    run = SearchDir(Path(needs.run))
    if problem := _token_problem(run, needs.token):
        yield (
            f"--out: {shown_path(run.path)} {problem}; it has to be on a file system that all "
            "nodes share, mounted at the same path"
        )
        return
    try:
        with tempfile.TemporaryFile(dir=run.path) as file:
            file.write(b"x")
    except OSError as error:
        yield f"--out: {shown_path(run.path)} cannot be written: {os.strerror(error.errno or 0)}"


def _token_problem(run: SearchDir, token: str) -> str:
    """Return why the token of the run folder is not the driver's, or "" if it is."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            os.listdir(run.path)  # makes a network file system look again
            if run.node_token.read_text() == token:
                return ""
            problem = "is not the folder that the driver has"
        except FileNotFoundError:
            problem = "does not exist" if not run.path.is_dir() else "is not the driver's folder"
        except OSError as error:
            return f"cannot be read: {os.strerror(error.errno or 0)}"
        if time.monotonic() > deadline:
            return problem
        time.sleep(0.5)


def _absent_files(files: tuple[str, ...]) -> Iterator[str]:
    for path in files:
        if not os.path.exists(path):
            yield f"{shown_path(path)}: no such checkpoint or file of weights"


def _low_disks(data: dict[str, Any] | None) -> Iterator[str]:
    """Yield a warning for each of the node's own disks that is nearly full."""
    places = {Path(tempfile.gettempdir()): "for the files of Ray"}
    cache = data["cache"] if data else "auto"
    if cache != "none":
        places[cache_folder() if cache == "auto" else Path(cache)] = "for decoded images"
    for place, use in places.items():
        with contextlib.suppress(OSError):  # a trial says so
            free = free_bytes(place)
            if free < LOW_DISK_BYTES:
                yield f"{place}: only {free / GB:.1f} GB of disk are free {use}"


def _software_problems(state: NodeState, driver: NodeState) -> Iterator[str]:
    here, there = (which.packages.get("segtune", "not known") for which in (state, driver))
    if here != there:
        yield f"segtune {here}, {there} on the driver's node; install the same on all nodes"
    elif state.source != driver.source:
        yield "segtune's files differ from the driver's; install the same revision on all nodes"


def _package_warnings(state: NodeState, driver: NodeState) -> Iterator[str]:
    differences = [
        f"{name} {state.packages.get(name, 'not installed')} ({version} on the driver's node)"
        for name, version in driver.packages.items()
        if name != "segtune" and state.packages.get(name) != version
    ]
    if differences:
        yield f"other packages, so results may differ: {', '.join(differences)}"
