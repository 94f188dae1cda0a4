"""The nodes of a cluster while a search runs: those that are there at its start, and later ones.

A node that joins later is checked before its slots count. If it is not fit for trials, its slots
are reserved, so that Ray starts no trial there, and it is checked again from time to time.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group

from segtune.checks.node_state import NodeNeeds, NodeReport, Reference, inspect_node, judge
from segtune.cluster.node_checks import (
    ANSWER_TIMEOUT_S,
    Node,
    NodeChecker,
    alive_nodes,
    is_alone,
    read_look,
    start_look,
)
from segtune.cluster.placement import (
    Placement,
    live_nodes,
    max_concurrent,
    num_workers_on,
    place_trials,
)
from segtune.cluster.scaling import NodeRequest
from segtune.errors import ClusterError
from segtune.runs.rundir import SearchDir
from segtune.tuning.study import Study

log = logging.getLogger(__name__)

# How often the watch asks for the nodes of the cluster.
INTERVAL_S = 3.0
# How often an unfit node is checked again.
RECHECK_S = 60.0
# The label by which Ray places a bundle on one node.
NODE_LABEL = "ray.io/node-id"
LEAVE_OUT = (
    "repair this, or leave the node out: run `ray stop` there, or start its Ray with "
    "--num-cpus 0 --num-gpus 0"
)


class UnfitNodeError(Exception):
    """A trial has started on a node that joined later and is not fit for trials."""


@dataclass(frozen=True)
class LateNodeCheck:
    """How a trial checks its own node, unless the driver had checked it before the first trial."""

    needs: NodeNeeds
    reference: Reference
    checked: frozenset[str]  # the ids of nodes

    def __call__(self) -> None:
        """Raise UnfitNodeError if trials cannot run on this node."""
        node = ray.get_runtime_context().get_node_id()
        if node not in self.checked:
            report = judge(node, inspect_node(self.needs), self.reference)
            if report.problems:
                problems = "; ".join(report.problems)
                raise UnfitNodeError(f"node with id {node[:8]}: {problems}")


@dataclass
class _Look:
    """A check that runs on a node that has joined later."""

    node: Node
    reference: Any
    began: float = field(default_factory=time.monotonic)

    @property
    def is_done(self) -> bool:
        done, _ = ray.wait([self.reference], timeout=0)
        return bool(done) or time.monotonic() - self.began > ANSWER_TIMEOUT_S


@dataclass
class _Unfit:
    """A node that trials must not use."""

    node: Node
    reserved: list[PlacementGroup]  # one for each of its slots
    message: str
    checked: float = field(default_factory=time.monotonic)

    def release(self) -> None:
        for group in self.reserved:
            remove_placement_group(group)


class NodeWatch:
    """Knows which nodes are fit for the trials of a search, and how many trials they have room for.

    `room` is that number, at least 1: a search that has lost all nodes waits for others.
    """

    def __init__(
        self,
        study: Study,
        placement: Placement,
        checker: NodeChecker,
        request: NodeRequest | None = None,
    ) -> None:
        """`request` is what makes the cluster grow, if it scales by itself."""
        self._search = study.search
        self._request = request
        self._placement = placement  # its `concurrent` is that of the start
        self._checker = checker
        self._fit: dict[str, Node] = {}  # by id
        self._unfit: dict[str, _Unfit] = {}
        self._looks: dict[str, _Look] = {}
        self._last = time.monotonic()
        self.room = placement.concurrent
        self.most_room = self.room  # since the start of the search

    @classmethod
    def begin(
        cls, study: Study, run: SearchDir, placement: Placement, request: NodeRequest | None = None
    ) -> NodeWatch:
        """Check all nodes. Raise ClusterError if one that trials would use is not fit.

        Log a warning for each other node with a problem. The check is left out if the only node is
        that of the driver.
        """
        watch = cls(study, placement, NodeChecker(NodeNeeds.of(study, run)), request)
        nodes = alive_nodes()
        if not is_alone(nodes):
            start = time.monotonic()
            reports = watch._checker.check(nodes)
            # A node may leave while it is checked.
            alive = {node.id for node in alive_nodes()}
            checked = {
                node: report
                for node, report in zip(nodes, reports, strict=True)
                if node.id in alive
            }
            watch._refuse_unfit(checked)
            log.info("nodes: %d checked in %.1f s", len(checked), time.monotonic() - start)
            nodes = list(checked)
            place_trials(study.search, [node.resources for node in nodes])  # still fits
        watch._fit = {node.id: node for node in nodes}
        watch.room = watch.most_room = watch._count()
        return watch

    @property
    def late_check(self) -> LateNodeCheck:
        """What a trial does on a node that has joined later."""
        return LateNodeCheck(self._checker.needs, self._checker.reference, frozenset(self._fit))

    def update(self, num_trials: int) -> None:
        """Look for nodes that have joined or left. Does nothing if called again within seconds.

        `num_trials` run or wait to be started: the cluster may shrink if there is room for more.
        """
        if time.monotonic() - self._last < INTERVAL_S:
            return
        self._last = time.monotonic()
        if self._request:
            self._request.ask_for(num_trials)
        alive = {node.id: node for node in alive_nodes()}
        self._forget(alive)
        for node in alive.values():
            if self._is_due(node):
                self._looks[node.id] = _Look(node, start_look(node, self._checker.needs))
        for look in [look for look in self._looks.values() if look.is_done]:
            del self._looks[look.node.id]
            state = read_look(look.reference)
            self._take(look.node, self._checker.report(look.node, state))
        room = self._count()
        if room != self.room:
            log.info("%d trials at the same time, %d before", room, self.room)
        self.room = room
        self.most_room = max(self.most_room, room)

    def close(self) -> None:
        """Release what is reserved on unfit nodes."""
        while self._unfit:
            self._unfit.popitem()[1].release()

    def _refuse_unfit(self, reports: Mapping[Node, NodeReport]) -> None:
        unfit = []
        for node, report in reports.items():
            if report.problems and self._uses(node):
                unfit.append(report.message)
            elif report.message:
                log.warning("%s", report.message)
        if unfit:
            head = f"{len(unfit)} of {len(reports)} nodes cannot run the trials of this search:"
            tail = f"no trial was started; {LEAVE_OUT}"
            raise ClusterError("\n".join([head, *unfit, tail]))

    def _uses(self, node: Node) -> bool:
        """Whether Ray may place a part of a trial on a node.

        The process of a trial with several workers needs memory only, so any node will do for it.
        """
        return self._placement.workers > 1 or num_workers_on(node.resources, self._placement) > 0

    def _is_due(self, node: Node) -> bool:
        """Whether a node has to be checked now."""
        if node.id in self._fit or node.id in self._looks or not self._uses(node):
            return False
        unfit = self._unfit.get(node.id)
        return unfit is None or time.monotonic() - unfit.checked > RECHECK_S

    def _forget(self, alive: dict[str, Node]) -> None:
        """Forget the nodes that have left."""
        for node_id in [node_id for node_id in self._fit if node_id not in alive]:
            log.warning("node %s has left", self._fit.pop(node_id))
        for node_id in [node_id for node_id in self._looks if node_id not in alive]:
            del self._looks[node_id]
        for node_id in [node_id for node_id in self._unfit if node_id not in alive]:
            self._unfit.pop(node_id).release()

    def _take(self, node: Node, report: NodeReport) -> None:
        """Use a node that has joined, or keep trials away from it."""
        unfit = self._unfit.get(node.id)
        if report.problems:
            if unfit is None:
                self._unfit[node.id] = unfit = _Unfit(node, self._reserve(node), "")
            if report.message != unfit.message:
                log.warning("%s\nit has joined and gets no trials; %s", report.message, LEAVE_OUT)
            unfit.message, unfit.checked = report.message, time.monotonic()
            return
        if unfit:
            self._unfit.pop(node.id).release()
        self._fit[node.id] = node
        log.info("node %s has joined", node)
        if report.warnings:
            log.warning("%s", report.message)

    def _reserve(self, node: Node) -> list[PlacementGroup]:
        """Reserve every slot of a node. Those that a trial has taken by now, Ray reserves later."""
        place = [{NODE_LABEL: node.id}]
        return [
            placement_group([self._placement.resources], bundle_label_selector=place)
            for _ in range(num_workers_on(node.resources, self._placement))
        ]

    def _count(self) -> int:
        """Return for how many trials there is room now."""
        slots = sum(num_workers_on(node.resources, self._placement) for node in self._fit.values())
        return max(1, min(slots // self._placement.workers, max_concurrent(self._search)))


@contextmanager
def placed_trials(
    study: Study, run: SearchDir, address: str | None
) -> Iterator[tuple[Placement, NodeWatch | None]]:
    """Yield the placement of a study's trials and, on a cluster, the watch over its nodes.

    Raise ClusterError if no trial fits, or if a node is not fit for trials.
    """
    if address is None and len(live_nodes()) == 1:
        yield place_trials(study.search, live_nodes()), None
        return
    request = NodeRequest(study.search) if study.search.wait_for_nodes_s else None
    try:
        placement = request.wait() if request else place_trials(study.search, live_nodes())
        watch = NodeWatch.begin(study, run, placement, request)
        try:
            # A node may have left while it was checked.
            yield replace(placement, concurrent=watch.room), watch
        finally:
            watch.close()
    finally:
        if request:
            request.withdraw()
