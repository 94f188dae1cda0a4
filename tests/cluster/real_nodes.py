"""A Ray cluster of several nodes on this machine, each started by `ray start` as on a real one."""

import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
RAY = str(Path(sys.executable).with_name("ray"))
STARTED = "Ray runtime started"
# Nothing waits this long unless it is broken.
TIMEOUT_S = 200.0


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def wait_for_text(path: Path, text: str, process: subprocess.Popen | None = None) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while text not in path.read_text():
        has_ended = process is not None and process.poll() is not None
        assert not has_ended, path.read_text()
        assert time.monotonic() < deadline, path.read_text()
        time.sleep(0.2)


@dataclass
class RealNodes:
    """The nodes of one cluster. Each is a group of processes under one `ray start --block`."""

    folder: Path  # short, because Ray's sockets lie in it
    # For the nodes, and for the processes that connect to them.
    env: dict[str, str] = field(
        default_factory=lambda: {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16)}
    )
    port: int = field(default_factory=free_port)
    dashboard_port: int = field(default_factory=free_port)
    nodes: list[subprocess.Popen] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def environ(self) -> dict[str, str]:
        return os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | self.env

    def start_head(self, *options: str) -> subprocess.Popen:
        """Start the head node. Its dashboard, and so its job API, is on 127.0.0.1 only."""
        return self._start(
            *("--head", f"--port={self.port}", f"--ray-client-server-port={free_port()}"),
            *(f"--dashboard-port={self.dashboard_port}", f"--temp-dir={self.folder}", *options),
        )

    def add(self, *options: str, without: Path | None = None) -> subprocess.Popen:
        """Add a node. On it, the folder `without` is empty (needs root and mount namespaces)."""
        return self._start(f"--address={self.address}", *options, without=without)

    def _start(self, *options: str, without: Path | None = None) -> subprocess.Popen:
        command = [RAY, "start", "--block", "--num-cpus=1", "--object-store-memory=80000000"]
        # Random ports, so that several clusters can run on a machine.
        command += ["--min-worker-port=0", "--max-worker-port=0", "--dashboard-agent-listen-port=0"]
        command += ["--disable-usage-stats", *options]
        if without:
            hide = f"mount -t tmpfs none '{without}' && exec \"$@\""
            command = [*HIDING, "sh", "-c", hide, "sh", *command]
        log = self.folder.with_name(f"{self.folder.name}-{len(self.nodes)}.log")
        with log.open("w") as output:
            process = subprocess.Popen(
                command,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self.environ,
                start_new_session=True,
            )
        self.nodes.append(process)
        wait_for_text(log, STARTED, process)
        return process

    def stop(self, node: subprocess.Popen, number: int = signal.SIGKILL) -> None:
        """Send a signal to all processes of a node: by default it disappears at once."""
        self.nodes.remove(node)
        with suppress(ProcessLookupError):  # it has ended by itself
            os.killpg(node.pid, number)
        node.wait(timeout=60)


# Runs a command in which other mounts are seen than elsewhere.
HIDING = ["unshare", "--mount", "--propagation", "private"]


def can_hide_folders() -> bool:
    """Whether a node can be started on which a folder is empty."""
    with tempfile.TemporaryDirectory() as folder:
        command = [*HIDING, "mount", "-t", "tmpfs", "none", folder]
        try:
            return subprocess.run(command, capture_output=True, check=False).returncode == 0
        except FileNotFoundError:
            return False


@contextmanager
def real_nodes(*head: str) -> Iterator[RealNodes]:
    """Start a head node with these options; stop all nodes at the end of the block."""
    with tempfile.TemporaryDirectory(prefix="segtune-", ignore_cleanup_errors=True) as folder:
        nodes = RealNodes(Path(folder) / "ray")
        try:
            nodes.start_head(*head)
            yield nodes
        finally:
            # The head last: the others would otherwise wait for it.
            for node in reversed(list(nodes.nodes)):
                nodes.stop(node)
