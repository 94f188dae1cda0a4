"""Starting or joining Ray, and what fits on it: workers per trial, CPUs and GPUs per worker, trials at the same time."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray

from segtune.cluster.forkserver import forkserver
from segtune.errors import ClusterError
from segtune.study import SearchConfig

log = logging.getLogger(__name__)

# What every process of a search needs to know before it imports Ray.
ENVIRONMENT = {
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "1",  # the Train tab of the dashboard
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths mean the same in every process
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "120",  # 60 s is short for a busy machine that imports torch
    # A group's controller takes one report of a worker at each look: at its 2 s they pile up, and stops come late.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.25",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # saves a process per trial
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the trial's own files say the same, and survive a crash
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C is ours: Tune would advise its own restore
    "RAY_AIR_NEW_OUTPUT": "0",  # the new one prints a box even at verbosity 0
    "NO_ALBUMENTATIONS_UPDATE": "1",
}

# A trial with a worker group is only the one who waits for it: a bundle may not be empty, but memory costs no CPU.
WAITING_BUNDLE = {"memory": 1024.0 * 1024}


# What its processes print is in their own logs; the terminal is the table's.
QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}


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


def plan_resources(search: SearchConfig, nodes: Sequence[Mapping[str, float]]) -> Placement:
    """Returns the placement of a study on a cluster's nodes (see `live_nodes`).

    The number of concurrent trials counts everything that a trial takes, node by node because a worker cannot straddle
    two, so that a search never waits for itself. Raises ClusterError where not even one trial fits.
    """
    have = {name: sum(node.get(name, 0.0) for node in nodes) for name in ("CPU", "GPU")}
    gpus = search.gpus_per_worker if search.gpus_per_worker is not None else (1.0 if have["GPU"] else 0.0)
    cpus = search.cpus_per_worker or _cpus_beside(gpus, nodes)
    places = sum(_places(node, cpus, gpus) for node in nodes)
    workers = search.workers_per_trial
    if places < workers:
        raise ClusterError(
            f"one trial needs {cpus * workers:g} CPUs and {gpus * workers:g} GPUs ({workers} workers), the cluster has "
            f"{have['CPU']:g} and {have['GPU']:g} on {len(nodes)} nodes, where {places} such workers find a place; "
            "lower --workers-per-trial, search.cpus_per_worker or --gpus-per-worker, or add nodes"
        )
    return Placement(workers, cpus, gpus, min(places // workers, search.trials, search.max_concurrent or search.trials))


def _cpus_beside(gpus: float, nodes: Sequence[Mapping[str, float]]) -> float:
    """Returns the CPUs of a worker with so many GPUs: its share of the node with the fewest cores per GPU, 1 without GPUs."""
    shares = [node.get("CPU", 0.0) * gpus / node["GPU"] for node in nodes if gpus and node.get("GPU")]
    return max(1.0, min(shares, default=1.0) // 1)


def _places(node: Mapping[str, float], cpus: float, gpus: float) -> int:
    """Returns how many workers fit on a node. A part of a GPU is a part of one GPU."""
    by_cpu, have = int(node.get("CPU", 0.0) / cpus + 1e-9), node.get("GPU", 0.0)
    if not gpus:
        return by_cpu
    return min(by_cpu, int(have / gpus + 1e-9) if gpus >= 1 else int(have) * int(1 / gpus + 1e-9))


@contextlib.contextmanager
def session(address: str | None) -> Iterator[str]:
    """Joins the cluster at `address`, or starts a local Ray that ends with the block; yields the dashboard's URL.

    A Ray that this process is connected to already is used and left running. Raises ClusterError where none answers, and
    for a client's address.
    """
    if address and address.startswith("ray://"):
        raise ClusterError(
            f"--address {address}: a search cannot be driven through the Ray client, because its files are written where the driver is; "
            "run the command on a node of the cluster with --address auto, or submit it there: "
            "ray job submit --address http://HEAD:8265 -- python -m segtune.search --address auto …"
        )
    if ray.is_initialized():
        yield _dashboard()
        return
    os.environ.update({name: os.environ.get(name, value) for name, value in ENVIRONMENT.items()})
    with contextlib.ExitStack() as started:
        try:
            if address is None:
                python = started.enter_context(forkserver())
                # Without the dashboard there is no State API, and Ray's own clean-up of worker groups does nothing at all.
                # Said to be local: it would join a cluster that RAY_ADDRESS names or that `ray start` has left a note of.
                local: dict[str, Any] = {"address": "local", "include_dashboard": True, "dashboard_host": "127.0.0.1"}
                ray.init(**local, **QUIET, runtime_env={"py_executable": python} if python else None)
            else:
                ray.init(address=address, **QUIET, runtime_env={"env_vars": ENVIRONMENT})
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise ClusterError(
                f"--address {address}: no Ray cluster answers ({str(error).splitlines()[0]}); start one with: ray start --head"
            ) from None
        started.callback(ray.shutdown)
        yield _dashboard()


def _dashboard() -> str:
    from ray._private.worker import get_dashboard_url

    url = get_dashboard_url()
    return f"http://{url}" if url else ""


def release_orphans() -> int:
    """Removes the placement groups of this job whose creator is dead; returns how many groups the job holds besides.

    A trial that is stopped or killed takes its Train controller with it, but Ray keeps the controller's placement group,
    workers and all, for as long as the driver lives: its own cleaner asks the State API, and was seen to wait for ever with
    the dashboard running. The table of the control store knows the creator in any case.
    """
    from ray._private.state import state
    from ray._raylet import ActorID, PlacementGroupID
    from ray.core.generated.gcs_pb2 import PlacementGroupTableData  # pyright: ignore[reportAttributeAccessIssue]
    from ray.util.placement_group import PlacementGroup, remove_placement_group

    job = ray.get_runtime_context().get_job_id()
    held = 0
    for data in map(PlacementGroupTableData.FromString, state._connect_and_get_accessor().get_placement_group_table()):
        if data.creator_job_id.hex() != job or data.is_detached or data.state == PlacementGroupTableData.REMOVED:
            continue
        # What no actor has created belongs to this process: the groups of Tune's trials.
        if data.creator_actor_id != ActorID.nil().binary() and data.creator_actor_dead:
            log.debug("releasing a placement group of a trial that has ended")
            remove_placement_group(PlacementGroup(PlacementGroupID(data.placement_group_id)))
        else:
            held += 1
    return held
