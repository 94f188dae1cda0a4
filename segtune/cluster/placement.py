"""What one trial takes of a cluster, and how many trials fit at the same time. Starts nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import ray

from segtune.errors import ClusterError
from segtune.tuning.search_config import SearchConfig

# The process of a trial with a worker group only waits for the group and needs no CPU. Ray rejects
# an empty bundle, so it reserves 1 MiB of memory.
WAITING_BUNDLE = {"memory": 1024.0 * 1024}


@dataclass(frozen=True)
class Placement:
    """What one trial takes, and how many trials fit at the same time."""

    workers: int  # per trial
    cpus: float  # per worker
    gpus: float  # per worker
    concurrent: int  # trials

    @property
    def resources(self) -> dict[str, float]:
        """What one worker takes, in Ray's terms."""
        return {"CPU": self.cpus} | ({"GPU": self.gpus} if self.gpus else {})

    def describe(self) -> str:
        """Return the placement in words."""
        gpus = f" and {self.gpus:g} GPU" if self.gpus else ""
        return (
            f"{self.concurrent} at the same time, each {self.workers} worker(s) "
            f"with {self.cpus:g} CPU{gpus}"
        )


def live_nodes() -> list[Mapping[str, float]]:
    """Return the total resources of each live node: {"CPU": ..., "GPU": ...}."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def place_trials(search: SearchConfig, nodes: Sequence[Mapping[str, float]]) -> Placement:
    """Return the placement of a study's trials on the nodes of a cluster (see `live_nodes`).

    Workers are counted node by node, because a worker cannot span two nodes. A search that starts
    no more than `concurrent` trials therefore never waits for resources that it holds itself.
    Raise ClusterError if not even one trial fits.
    """
    totals = {name: sum(node.get(name, 0.0) for node in nodes) for name in ("CPU", "GPU")}
    gpus = search.gpus_per_worker
    if gpus is None:
        gpus = 1.0 if totals["GPU"] else 0.0
    cpus = search.cpus_per_worker or _default_cpus(gpus, nodes)
    workers = search.workers_per_trial
    num_slots = sum(_num_slots(node, cpus, gpus) for node in nodes)
    if num_slots < workers:
        raise ClusterError(
            f"one trial needs {cpus * workers:g} CPUs and {gpus * workers:g} GPUs "
            f"({workers} workers), the cluster has {totals['CPU']:g} and {totals['GPU']:g} "
            f"on {len(nodes)} nodes, which have room for {num_slots} such workers; "
            "lower --workers-per-trial, search.cpus_per_worker or --gpus-per-worker, or add nodes"
        )
    return Placement(workers, cpus, gpus, min(num_slots // workers, max_concurrent(search)))


def max_concurrent(search: SearchConfig) -> int:
    """Return how many trials may run at the same time on a cluster that is large enough."""
    return min(search.trials, search.max_concurrent or search.trials)


def num_workers_on(node: Mapping[str, float], placement: Placement) -> int:
    """Return how many workers of a placement fit on a node, if nothing else runs there."""
    return _num_slots(node, placement.cpus, placement.gpus)


def _default_cpus(gpus: float, nodes: Sequence[Mapping[str, float]]) -> float:
    """Return the CPUs of a worker with `gpus` GPUs: at least 1, and exactly 1 without GPUs.

    With GPUs it is the worker's share of the cores on the node that has the fewest cores per GPU.
    """
    shares = [
        node.get("CPU", 0.0) * gpus / node["GPU"] for node in nodes if gpus and node.get("GPU")
    ]
    return max(1.0, min(shares, default=1.0) // 1)


def _num_slots(node: Mapping[str, float], cpus: float, gpus: float) -> int:
    """Return how many workers fit on a node. A fraction of a GPU is a fraction of a single GPU."""
    rounding = 1e-9
    by_cpus = int(node.get("CPU", 0.0) / cpus + rounding)
    if not gpus:
        return by_cpus
    num_gpus = node.get("GPU", 0.0)
    if gpus >= 1:
        return min(by_cpus, int(num_gpus / gpus + rounding))
    return min(by_cpus, int(num_gpus) * int(1 / gpus + rounding))
