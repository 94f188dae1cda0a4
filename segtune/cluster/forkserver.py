"""Workers of a local Ray as forks of one process that has imported what they need. On a cluster, Ray starts them its own way.

Ray starts a Python for each worker. Two trials that begin together import torch and transformers twice, six seconds each, on the
cores that start Ray itself. Here one process imports them while Ray starts. What Ray runs in place of Python is this file, as a
script that needs no library: it asks for a fork and stays only because Ray watches it. The fork is the worker.

Ray itself is left to the forks: it reads its cluster's address and secrets when it is imported, and two forks of a process that
had it would make up the same ids.
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

# All that a trial imports up to its first step, and, last, the heavy ones of what Ray does.
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
# For how long a worker waits for them; Ray gives up after 60 s on one that does not answer.
PATIENCE_S = 40.0


@contextmanager
def forkserver() -> Iterator[str | None]:
    """Serves forks as long as the block lasts; yields the command for Ray's `py_executable`, None where there can be none."""
    with ExitStack() as held:
        command = None
        if sys.platform == "linux":  # elsewhere libraries do not survive a fork
            try:
                command = _start(held)
            except OSError as error:
                log.warning("each worker imports torch by itself: %s", error)
        yield command


def _start(held: ExitStack) -> str:
    """Starts a server that ends with `held`; returns the command that asks it for a fork."""
    import shlex
    import subprocess
    import tempfile

    # Open to this user alone. Not in TMPDIR: the path of a socket has 107 characters at most.
    path = os.path.join(
        held.enter_context(
            tempfile.TemporaryDirectory(prefix="segtune-", dir="/tmp", ignore_cleanup_errors=True)
        ),
        "fork",
    )
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(socket.SOMAXCONN)
        server = subprocess.Popen(
            [sys.executable, "-m", "segtune.cluster.forkserver", str(listener.fileno())],
            pass_fds=[listener.fileno()],
            stdin=subprocess.PIPE,  # nothing is written: it ends with this process, however that ends
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,  # what is wrong with an import, the worker says that comes to it next
            start_new_session=True,  # Ctrl-C is not for it
            # A fork has only the thread that it came from, and no use of a GPU that its parent has looked at.
            env={"OPENBLAS_NUM_THREADS": "1", "PYTORCH_NVML_BASED_CUDA_CHECK": "1"} | os.environ,
        )
    held.callback(server.communicate)
    held.callback(server.kill)
    return shlex.join([sys.executable, "-I", "-S", __file__, path])


def serve(listener: socket.socket) -> None:
    """Imports everything, then forks for each that asks, until standard input ends."""
    import gc
    import importlib
    import select
    import shutil
    import signal

    for name in IMPORTS:
        with suppress(ImportError):
            importlib.import_module(name)
    gc.collect()
    gc.freeze()  # or the first collection of a fork writes to all pages, and none is shared any more
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them
    while sys.stdin not in select.select([listener, sys.stdin], [], [])[0]:
        asking, _ = listener.accept()
        if not os.fork():
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            listener.close()
            run_as(asking)
        asking.close()
    shutil.rmtree(
        os.path.dirname(listener.getsockname()), ignore_errors=True
    )  # nobody else is left to do it


def run_as(asking: socket.socket) -> None:
    """Turns this process into the one that is asked for: its files, environment, folder and script. Does not return."""
    import runpy

    import numpy as np

    _, files, *_ = socket.recv_fds(asking, 1, 3)
    with asking.makefile() as stream:
        wanted = json.load(stream)
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.setpgid(0, 0)  # Ray ends a worker with its whole process group
    with suppress(OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, wanted["files"])  # Ray raises it
        with open("/proc/self/oom_score_adj", "w") as score:
            score.write(wanted["oom_score"])  # Ray has the system end a worker before itself
    os.environ.clear()
    os.environ.update(wanted["environment"])
    os.chdir(wanted["folder"])
    np.random.seed()  # as `random` does of itself: or all forks draw the same
    sys.argv = wanted["script"]
    if not sys.flags.safe_path:
        sys.path[0] = os.path.dirname(sys.argv[0])
    asking.send(b"1")
    asking.detach()  # it is closed at the end of this process, whatever that is
    runpy.run_path(sys.argv[0], run_name="__main__")
    raise SystemExit


def spawn_request(script: Sequence[str]) -> dict[str, Any]:
    """Returns what a process that runs the script in place of this one has to take over."""
    with open("/proc/self/oom_score_adj") as score:
        return {
            "script": script,
            "environment": dict(os.environ),
            "folder": os.getcwd(),
            "files": resource.getrlimit(resource.RLIMIT_NOFILE),
            "oom_score": score.read(),
        }


def ask(path: str, script: Sequence[str]) -> None:
    """Has a script run by a fork and returns at its end; where nobody forks, this process becomes a Python that runs it."""
    with socket.socket(socket.AF_UNIX) as server:
        server.settimeout(PATIENCE_S)
        forked = b""
        with suppress(OSError):
            server.connect(path)
            socket.send_fds(server, [b"1"], [0, 1, 2])
            server.sendall(json.dumps(spawn_request(script)).encode())
            server.shutdown(socket.SHUT_WR)
            forked = server.recv(1)
        if not forked:
            os.execv(sys.executable, [sys.executable, *script])
        server.settimeout(None)
        server.recv(1)


if __name__ == "__main__":
    if len(sys.argv) == 2:
        serve(socket.socket(fileno=int(sys.argv[1])))
    else:
        ask(sys.argv[1], sys.argv[2:])
