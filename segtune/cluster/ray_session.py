"""Starting a local Ray, or joining a cluster."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

import ray
from ray.exceptions import AuthenticationError

from segtune.checks.machine.ray_folder import (
    MAX_RAY_FOLDER,
    RAY_FOLDERS,
    folder_problem,
    ray_folder,
)
from segtune.cluster.forkserver import forkserver
from segtune.errors import ClusterError, place_problem

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
# Tune prints the traceback of a lost trial with this logger. The search says it in one line.
TUNE_LOGGER = "ray.tune.execution.tune_controller"

# Without the dashboard there is no State API, and Ray cannot clean up worker groups.
# "local": without it Ray joins the cluster that RAY_ADDRESS names, or that `ray start` has started
# on this machine.
LOCAL: dict[str, Any] = {
    "address": "local",
    "include_dashboard": True,
    "dashboard_host": "127.0.0.1",
}

ANSWER_TIMEOUT_S = 10.0


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
    logging.getLogger(TUNE_LOGGER).setLevel(logging.CRITICAL)
    with contextlib.ExitStack() as resources:
        with _interrupted_by_signals(), _as_cluster_error(address):
            if address is None:
                python = resources.enter_context(forkserver())
                runtime_env = {"py_executable": python} if python else {}
                folder = resources.enter_context(_short_folder())
                with _temporary_files_in(folder, runtime_env):
                    context = ray.init(**LOCAL, **QUIET, runtime_env=runtime_env or None)
            else:
                _check_answer(address)
                runtime_env = {"env_vars": {name: os.environ[name] for name in ENVIRONMENT}}
                context = ray.init(address=address, **QUIET, runtime_env=runtime_env)
            resources.callback(ray.shutdown)
        yield _dashboard_url(context)


def measured_start() -> tuple[str, float]:
    """Start a local Ray, run a task in a process of it, and stop it.

    Return the URL of the dashboard, and the seconds until the task has ended. Raise ClusterError as
    `ray_connection` does.
    """
    start = time.monotonic()
    with ray_connection(None) as url:
        ray.get(_no_work.remote())
        return url, time.monotonic() - start


@ray.remote(num_cpus=0)
def _no_work() -> None:
    """Return at once."""


def _check_answer(address: str) -> None:
    """Raise ConnectionError if nothing answers at `address`, HOST:PORT. Ray itself waits a minute.

    Other forms of an address are left to Ray.
    """
    host, _, port = address.rpartition(":")
    if not (host and port.isdigit()):
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_TIMEOUT_S).close()
    except (OSError, OverflowError) as error:
        raise ConnectionError(str(error)) from None


@contextlib.contextmanager
def _as_cluster_error(address: str | None) -> Iterator[None]:
    """Raise ClusterError if Ray does not start, or if no cluster answers."""
    try:
        yield
    except AuthenticationError:
        raise ClusterError(
            f"--address {address}: the cluster asks for a token, and this process has none or "
            "another one; set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH to a file with the "
            "token (`ray get-auth-token` prints it on the head node)"
        ) from None
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        if address is None:
            raise ClusterError(
                f"Ray does not start on this machine ({reason}); its logs are in "
                f"{ray_folder()}/ray/session_latest/logs"
            ) from None
        raise ClusterError(
            f"--address {address}: no Ray cluster answers ({reason}); "
            "start one with: ray start --head"
        ) from None
    except OSError as error:
        problem = place_problem(error)
        if problem is None:
            raise
        raise ClusterError(
            f"Ray does not start on this machine: {problem}; it writes into the home folder and "
            f"into {ray_folder()}: set HOME and RAY_TMPDIR to folders that can be written"
        ) from None


@contextlib.contextmanager
def _short_folder() -> Iterator[str | None]:
    """Yield a folder for Ray, or None if Ray's own choice is usable.

    Otherwise it is a new folder in /tmp, which is removed at the end. Raise ClusterError if /tmp
    cannot be written either.
    """
    problem = folder_problem(ray_folder())
    if not problem:
        yield None
        return
    try:
        folder = tempfile.TemporaryDirectory(
            prefix="segtune-", dir="/tmp", ignore_cleanup_errors=True
        )
    except OSError as error:
        raise ClusterError(
            f"{ray_folder()}: {problem}, and /tmp cannot be written ({error.strerror}); set "
            f"RAY_TMPDIR to a folder of at most {MAX_RAY_FOLDER} characters that can be written"
        ) from None
    with folder as path:
        log.info("%s: %s; Ray's files are in %s", ray_folder(), problem, path)
        yield path


@contextlib.contextmanager
def _temporary_files_in(folder: str | None, runtime_env: dict[str, Any]) -> Iterator[None]:
    """Let the processes that Ray starts in the block make their sockets in `folder`.

    Adds the earlier variables to `runtime_env`: a trial keeps its decoded images in TMPDIR, which
    may be a large disk.
    """
    if folder is None:
        yield
        return
    earlier = {name: os.environ[name] for name in RAY_FOLDERS if name in os.environ}
    runtime_env["env_vars"] = earlier
    os.environ.update(dict.fromkeys(RAY_FOLDERS, folder))
    try:
        yield
    finally:
        for name in RAY_FOLDERS:
            os.environ.pop(name)
        os.environ.update(earlier)


@contextlib.contextmanager
def _interrupted_by_signals() -> Iterator[None]:
    """Raise KeyboardInterrupt if SIGINT or SIGTERM arrives in the block, at its end at the latest.

    Python drops a KeyboardInterrupt that is raised in a callback, such as those of a fork, and the
    start of Ray forks often. `ray.init` installs a handler for SIGTERM, which ends the process
    without a message. The search installs other handlers when its trials run. Only the main thread
    may handle signals; a handler that the caller's program has for SIGINT stays.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    earlier = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    received: list[int] = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        received.append(number)
        raise KeyboardInterrupt

    if earlier[signal.SIGINT] is signal.default_int_handler:
        signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    except SystemExit:  # from Ray's handler of SIGTERM
        raise KeyboardInterrupt from None
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
    if received:
        raise KeyboardInterrupt


def _dashboard_url(context: Any) -> str:
    return f"http://{context.dashboard_url}" if context.dashboard_url else ""
