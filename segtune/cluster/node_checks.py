"""Checks the nodes of a cluster: a light task on each looks, and the driver judges.

What is looked at, and what counts as wrong, is in `checks.node_state`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from segtune.checks.node_state import (
    NodeNeeds,
    NodeReport,
    NodeState,
    Reference,
    inspect_node,
    judge,
)

# A node may have to start a Python process first, and to read segtune and OpenCV from a slow disk.
ANSWER_TIMEOUT_S = 120.0
CLOCK_TIMEOUT_S = 20.0


@dataclass(frozen=True, eq=False)
class Node:
    """A live node of the cluster."""

    id: str  # hexadecimal
    address: str
    host: str
    resources: Mapping[str, float]  # in total: {"CPU": ..., "GPU": ...}

    def __str__(self) -> str:
        """Return its address, host and id, by which a user finds it."""
        return f"{self.address} ({self.host}, id {self.id[:8]})"


def alive_nodes() -> list[Node]:
    """Return the live nodes of the cluster that this process is connected to."""
    return [
        Node(
            node["NodeID"],
            node["NodeManagerAddress"],
            node["NodeManagerHostname"],
            node["Resources"],
        )
        for node in ray.nodes()
        if node["Alive"]
    ]


def is_alone(nodes: Sequence[Node]) -> bool:
    """Whether the cluster is the node of this process only. Its trials then see what this sees."""
    return [node.id for node in nodes] == [ray.get_runtime_context().get_node_id()]


class NodeChecker:
    """Checks nodes against what the driver sees."""

    def __init__(self, needs: NodeNeeds) -> None:
        self.needs = needs
        self.driver = inspect_node(needs)
        self.reference = Reference.of(self.driver, {})

    def check(self, nodes: Sequence[Node]) -> list[NodeReport]:
        """Return what is wrong on each node. Takes as long as the slowest of them."""
        started = [start_look(node, self.needs) for node in nodes]
        ray.wait(started, num_returns=len(started), timeout=ANSWER_TIMEOUT_S)
        looks = [read_look(look) for look in started]
        ahead_s = _clocks(nodes)
        states = {
            str(node): look
            for node, look in zip(nodes, looks, strict=True)
            if isinstance(look, NodeState)
        }
        if self.reference.data is None:
            self.reference = Reference.of(self.driver, states)
        return [
            self.report(node, look, ahead)
            for node, look, ahead in zip(nodes, looks, ahead_s, strict=True)
        ]

    def report(self, node: Node, look: NodeState | str, ahead_s: float = 0.0) -> NodeReport:
        """Return what is wrong on a node; `look` is what it has sent, or why it has not."""
        if isinstance(look, str):
            return NodeReport(str(node), (look,))
        return judge(str(node), look, self.reference, ahead_s)


def start_look(node: Node, needs: NodeNeeds) -> Any:
    """Start a task that looks at a node. It takes no CPU, so it does not wait for trials."""
    return _on(node, inspect_node).remote(needs)


def read_look(look: Any) -> NodeState | str:
    """Return what a node has sent by now, or why there is nothing."""
    try:
        return ray.get(look, timeout=0)
    except GetTimeoutError:
        return f"it has not answered within {ANSWER_TIMEOUT_S:.0f} s"
    except RayError as error:
        text = str(error)
        if "No module named 'segtune" in text:
            return "segtune is not installed in the Python of its Ray; install it there"
        last = (text.strip().splitlines() or [type(error).__name__])[-1]
        return f"it could not be checked: {last[:300]}"


def _on(node: Node, function: Any) -> Any:
    place = NodeAffinitySchedulingStrategy(node.id, soft=False)
    return ray.remote(function).options(num_cpus=0, max_retries=0, scheduling_strategy=place)


def _read_clock() -> float:
    return time.time()


def _clocks(nodes: Sequence[Node]) -> list[float]:
    """Return by how much the clock of each node is ahead of this one's at least, in seconds."""
    sent = time.time()
    started = [_on(node, _read_clock).remote() for node in nodes]
    ray.wait(started, num_returns=len(started), timeout=CLOCK_TIMEOUT_S)
    received = time.time()
    ahead_s = []
    for reference in started:
        try:
            ahead_s.append(at_least_ahead(ray.get(reference, timeout=0), sent, received))
        except RayError:  # it has not answered
            ahead_s.append(0.0)
    return ahead_s


def at_least_ahead(there: float, sent: float, received: float) -> float:
    """Return by how much another clock is ahead of ours for certain; below 0 if it is behind.

    It showed `there` at some moment between `sent` and `received`.
    """
    if there > received:
        return there - received
    return min(0.0, there - sent)
