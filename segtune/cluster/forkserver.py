"""Starts the workers of a local Ray as forks of one process that has imported what they need.

Ray starts a Python for each worker. Two trials that begin together import torch and transformers
twice, which takes six seconds each on the cores on which Ray itself starts. Here one process, the
fork server, imports them while Ray starts. In place of Python, Ray runs this file as a script that
needs no library. The script asks the fork server for a fork, which becomes the worker, and stays
alive because Ray watches it.

Ray itself is imported by each fork. When it is imported it reads the address and the secrets of its
cluster, and two forks of a process that had imported it would generate the same ids.

On a cluster there is no fork server: Ray starts its workers as usual.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

log = logging.getLogger(__name__)

# What a trial imports up to its first step, then the slow imports of Ray.
IMPORTS = (
    "segtune.training.trainer",
    "torch._dynamo",
    "pandas",
    "pyarrow.dataset",
    "aiohttp",
    "jsonschema",
    "requests",
    "rich.console",
)
# How long a worker waits for the fork server to finish its imports. Ray gives up a worker that has
# not answered after 60 s.
FORK_TIMEOUT_S = 40.0


@contextmanager
def forkserver() -> Iterator[str | None]:
    """Run a fork server while the block runs; yield the command for Ray's `py_executable`.

    Yield None if there can be no fork server. Workers then start as usual, only slower.
    """
    with ExitStack() as resources:
        command = None
        if sys.platform == "linux":  # on other systems some libraries do not survive a fork
            try:
                command = _start(resources)
            except OSError as error:
                log.warning("each worker imports torch by itself: %s", error)
        yield command


def _start(resources: ExitStack) -> str:
    """Start a server that ends with `resources`; return the command that asks it for a fork."""
    import shlex
    import subprocess
    import tempfile

    # Open to this user alone. Not in TMPDIR: the path of a socket has at most 107 characters.
    folder = resources.enter_context(
        tempfile.TemporaryDirectory(prefix="segtune-", dir="/tmp", ignore_cleanup_errors=True)
    )
    path = os.path.join(folder, "fork")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(socket.SOMAXCONN)
        server = subprocess.Popen(
            [sys.executable, "-m", "segtune.cluster.forkserver", str(listener.fileno())],
            pass_fds=[listener.fileno()],
            # Nothing is written to it. It closes when this process ends, and then the server ends.
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,  # the next worker reports an import that fails
            start_new_session=True,  # Ctrl-C does not reach it
            # A fork has no thread but the one that forked, and cannot use a GPU that its parent has
            # initialised.
            env={"OPENBLAS_NUM_THREADS": "1", "PYTORCH_NVML_BASED_CUDA_CHECK": "1"} | os.environ,
        )
    resources.callback(server.communicate)
    resources.callback(server.kill)
    return shlex.join([sys.executable, "-I", "-S", __file__, path])


def serve(listener: socket.socket) -> None:
    """Import everything, then fork for each request, until standard input closes."""
    import gc
    import importlib
    import select
    import shutil
    import signal

    for name in IMPORTS:
        with suppress(ImportError):
            importlib.import_module(name)
    gc.collect()
    # Without this the first garbage collection of a fork would write to all pages, and the
    # processes would share none of them any more.
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel removes forks that have ended
    while sys.stdin not in select.select([listener, sys.stdin], [], [])[0]:
        connection, _ = listener.accept()
        if not os.fork():
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            listener.close()
            run_as(connection)
        connection.close()
    # The process that made the folder has ended and cannot remove it.
    shutil.rmtree(os.path.dirname(listener.getsockname()), ignore_errors=True)


def run_as(connection: socket.socket) -> None:
    """Turn this process into the one that a request describes, and run its script.

    The process takes over files, environment, folder, limits and arguments (see `spawn_request`).
    Does not return.
    """
    import runpy

    import numpy as np

    _, files, *_ = socket.recv_fds(connection, 1, 3)
    with connection.makefile() as stream:
        request = json.load(stream)
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.setpgid(0, 0)  # Ray kills a worker together with its whole process group
    with suppress(OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, request["files"])  # Ray raises it
        with open("/proc/self/oom_score_adj", "w") as score:
            # Ray sets it so that the kernel kills a worker before Ray itself.
            score.write(request["oom_score"])
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    # Python's `random` seeds itself after a fork, NumPy does not: all forks would draw the same.
    np.random.seed()
    sys.argv = request["script"]
    if not sys.flags.safe_path:
        sys.path[0] = os.path.dirname(sys.argv[0])
    connection.send(b"1")
    connection.detach()  # it closes when this process ends, for whatever reason
    runpy.run_path(sys.argv[0], run_name="__main__")
    raise SystemExit


def spawn_request(script: Sequence[str]) -> dict[str, Any]:
    """Return what a fork has to take over from this process in order to run the script for it."""
    with open("/proc/self/oom_score_adj") as score:
        return {
            "script": script,
            "environment": dict(os.environ),
            "folder": os.getcwd(),
            "files": resource.getrlimit(resource.RLIMIT_NOFILE),
            "oom_score": score.read(),
        }


def request_fork(path: str, script: Sequence[str]) -> None:
    """Let a fork of the server at the socket `path` run a script; return when the fork ends.

    If the server does not answer, this process replaces itself by a Python that runs the script.
    """
    with socket.socket(socket.AF_UNIX) as server:
        server.settimeout(FORK_TIMEOUT_S)
        answer = b""
        with suppress(OSError):
            server.connect(path)
            socket.send_fds(server, [b"1"], [0, 1, 2])
            server.sendall(json.dumps(spawn_request(script)).encode())
            server.shutdown(socket.SHUT_WR)
            answer = server.recv(1)
        if not answer:
            os.execv(sys.executable, [sys.executable, *script])
        server.settimeout(None)
        server.recv(1)  # returns when the fork closes its end


if __name__ == "__main__":
    if len(sys.argv) == 2:
        serve(socket.socket(fileno=int(sys.argv[1])))
    else:
        request_fork(sys.argv[1], sys.argv[2:])
