"""What fits on a cluster: workers per trial, CPUs and GPUs per worker, trials at the same time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import ray

from segtune.errors import ClusterError
from segtune.tuning.study import SearchConfig

# A trial with a worker group is only the one who waits for it: a bundle may not be empty, but memory costs no CPU.
WAITING_BUNDLE = {"memory": 1024.0 * 1024}


@dataclass(frozen=True)
class Placement:
    """What one trial takes, and how many fit at the same time."""

    workers: int
    cpus: float  # per worker
    gpus: float  # per worker
    concurrent: int

    def describe(self) -> str:
        """Returns the placement in words."""
        gpus = f" and {self.gpus:g} GPU" if self.gpus else ""
        return f"{self.concurrent} at the same time, each {self.workers} worker(s) with {self.cpus:g} CPU{gpus}"


def live_nodes() -> list[Mapping[str, float]]:
    """Returns what each node of the cluster has in all: {"CPU": ..., "GPU": ...}."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def place_trials(search: SearchConfig, nodes: Sequence[Mapping[str, float]]) -> Placement:
    """Returns the placement of a study on a cluster's nodes (see `live_nodes`).

    The number of concurrent trials counts everything that a trial takes, node by node because a worker cannot straddle
    two, so that a search never waits for itself. Raises ClusterError where not even one trial fits.
    """
    have = {name: sum(node.get(name, 0.0) for node in nodes) for name in ("CPU", "GPU")}
    gpus = (
        search.gpus_per_worker
        if search.gpus_per_worker is not None
        else (1.0 if have["GPU"] else 0.0)
    )
    cpus = search.cpus_per_worker or _cpus_beside(gpus, nodes)
    places = sum(_places(node, cpus, gpus) for node in nodes)
    workers = search.workers_per_trial
    if places < workers:
        raise ClusterError(
            f"one trial needs {cpus * workers:g} CPUs and {gpus * workers:g} GPUs ({workers} workers), the cluster has "
            f"{have['CPU']:g} and {have['GPU']:g} on {len(nodes)} nodes, where {places} such workers find a place; "
            "lower --workers-per-trial, search.cpus_per_worker or --gpus-per-worker, or add nodes"
        )
    return Placement(
        workers,
        cpus,
        gpus,
        min(places // workers, search.trials, search.max_concurrent or search.trials),
    )


def _cpus_beside(gpus: float, nodes: Sequence[Mapping[str, float]]) -> float:
    """Returns the CPUs of a worker with so many GPUs: its share of the node with the fewest cores per GPU, 1 without GPUs."""
    shares = [
        node.get("CPU", 0.0) * gpus / node["GPU"] for node in nodes if gpus and node.get("GPU")
    ]
    return max(1.0, min(shares, default=1.0) // 1)


def _places(node: Mapping[str, float], cpus: float, gpus: float) -> int:
    """Returns how many workers fit on a node. A part of a GPU is a part of one GPU."""
    by_cpu, have = int(node.get("CPU", 0.0) / cpus + 1e-9), node.get("GPU", 0.0)
    if not gpus:
        return by_cpu
    return min(by_cpu, int(have / gpus + 1e-9) if gpus >= 1 else int(have) * int(1 / gpus + 1e-9))
