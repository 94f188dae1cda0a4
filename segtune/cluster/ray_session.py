"""Starting a local Ray, or joining a cluster."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from typing import Any

import ray

from segtune.cluster.forkserver import forkserver
from segtune.errors import ClusterError

log = logging.getLogger(__name__)

# Environment variables that every process of a search needs before it imports Ray. A value that the
# user has set is kept.
ENVIRONMENT = {
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "1",  # the Train tab of the dashboard
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # a relative path means the same in every process
    # The default of 60 s is short for a busy machine on which every worker imports torch.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "120",
    # The controller of a worker group takes one report of a worker at each check. At the default
    # interval of 2 s reports pile up, and stops come late.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.25",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # one process less per trial
    # The trial's own files hold the same, and survive a crash.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # segtune handles Ctrl-C; Tune would advise its own restore
    "RAY_AIR_NEW_OUTPUT": "0",  # the new output prints a box even at verbosity 0
    "NO_ALBUMENTATIONS_UPDATE": "1",
}

# What Ray's processes print is in their own logs. The terminal shows segtune's table.
QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}

# Without the dashboard there is no State API, and Ray cannot clean up worker groups.
# "local": without it Ray joins the cluster that RAY_ADDRESS names, or that `ray start` has started
# on this machine.
LOCAL: dict[str, Any] = {
    "address": "local",
    "include_dashboard": True,
    "dashboard_host": "127.0.0.1",
}


@contextlib.contextmanager
def ray_connection(address: str | None) -> Iterator[str]:
    """Join the cluster at `address`, or start a local Ray; yield the URL of the dashboard.

    At the end of the block, leave the cluster or stop the local Ray. If this process is connected
    to a Ray already, use that one and leave it running. The URL is empty if there is no dashboard.
    Raise ClusterError if no cluster answers, and for the address of a Ray client.
    """
    if address and address.startswith("ray://"):
        raise ClusterError(
            f"--address {address}: a search cannot run through the Ray client, because its files "
            "are written on the machine of the driver; run the command on a node of the cluster "
            "with --address auto, or submit it there: ray job submit --address http://HEAD:8265 "
            "-- python -m segtune.search --address auto …"
        )
    if ray.is_initialized():
        yield _dashboard_url(ray.init(ignore_reinit_error=True, **QUIET))
        return
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    with contextlib.ExitStack() as resources:
        try:
            if address is None:
                python = resources.enter_context(forkserver())
                runtime_env = {"py_executable": python} if python else None
                context = ray.init(**LOCAL, **QUIET, runtime_env=runtime_env)
            else:
                runtime_env = {"env_vars": {name: os.environ[name] for name in ENVIRONMENT}}
                context = ray.init(address=address, **QUIET, runtime_env=runtime_env)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise ClusterError(
                f"--address {address}: no Ray cluster answers ({str(error).splitlines()[0]}); "
                "start one with: ray start --head"
            ) from None
        resources.callback(ray.shutdown)
        yield _dashboard_url(context)


def _dashboard_url(context: Any) -> str:
    return f"http://{context.dashboard_url}" if context.dashboard_url else ""
