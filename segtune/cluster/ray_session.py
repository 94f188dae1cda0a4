"""Starting or joining Ray, and what fits on it: workers per trial, CPUs and GPUs per worker, trials at the same time."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from typing import Any

import ray

from segtune.cluster.forkserver import forkserver
from segtune.cluster.ray_internals import dashboard_url
from segtune.errors import ClusterError

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


# What its processes print is in their own logs; the terminal is the table's.
QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}


@contextlib.contextmanager
def ray_connection(address: str | None) -> Iterator[str]:
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
        yield dashboard_url()
        return
    os.environ.update({name: os.environ.get(name, value) for name, value in ENVIRONMENT.items()})
    with contextlib.ExitStack() as started:
        try:
            if address is None:
                python = started.enter_context(forkserver())
                # Without the dashboard there is no State API, and Ray's own clean-up of worker groups does nothing at all.
                # Said to be local: it would join a cluster that RAY_ADDRESS names or that `ray start` has left a note of.
                local: dict[str, Any] = {
                    "address": "local",
                    "include_dashboard": True,
                    "dashboard_host": "127.0.0.1",
                }
                ray.init(
                    **local, **QUIET, runtime_env={"py_executable": python} if python else None
                )
            else:
                ray.init(address=address, **QUIET, runtime_env={"env_vars": ENVIRONMENT})
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise ClusterError(
                f"--address {address}: no Ray cluster answers ({str(error).splitlines()[0]}); start one with: ray start --head"
            ) from None
        started.callback(ray.shutdown)
        yield dashboard_url()
