"""The fork server: what a fork takes over, which process outlives which, and life without it."""

import contextlib
import json
import os
import resource
import shlex
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from segtune.cluster.forkserver import IMPORTS, forkserver

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="there is a fork server on Linux only"
)

# A worker that describes itself and then waits until its standard input closes.
DESCRIBE = """
    import json, os, random, resource, sys
    import numpy as np
    print(json.dumps({
        "pid": os.getpid(),
        "parent": os.getppid(),
        "group": os.getpgid(0),
        "argv": sys.argv,
        "path": sys.path[0],
        "folder": os.getcwd(),
        "word": os.environ.get("WORD"),
        "home": os.environ.get("HOME"),
        "main": __name__,
        "modules": [*sys.modules],
        "random": [random.random(), np.random.rand()],
        "files": resource.getrlimit(resource.RLIMIT_NOFILE),
        "oom_score": int(open("/proc/self/oom_score_adj").read()),
    }), flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("a folder") / "describe.py"
    path.write_text(textwrap.dedent(DESCRIBE))
    return path


@pytest.fixture(scope="module")
def python() -> Iterator[list[str]]:
    """Return the command that runs a script in a fork."""
    with forkserver() as command:
        assert command
        yield shlex.split(command)


def start(
    python: Sequence[str], script: Path, *arguments: str, **options: Any
) -> tuple[subprocess.Popen[str], dict[str, Any]]:
    """Run the script; return the process that Ray would watch, and what the worker prints."""
    process = subprocess.Popen(
        [*python, str(script), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        **options,
    )
    assert process.stdout
    return process, json.loads(process.stdout.readline())


def end(process: subprocess.Popen[str]) -> None:
    process.communicate(timeout=30)
    assert process.returncode == 0


def is_alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def wait_for_end(pid: int) -> None:
    deadline = time.monotonic() + 30
    while is_alive(pid):
        assert time.monotonic() < deadline, f"process {pid} is still alive"
        time.sleep(0.05)


def test_fork_takes_over_what_ray_has_set(python: list[str], script: Path, tmp_path: Path) -> None:
    process, worker = start(
        python, script, "--some", "a b", cwd=tmp_path, env=os.environ | {"WORD": "x\ny"}
    )
    assert worker["argv"] == [str(script), "--some", "a b"]
    assert (worker["folder"], worker["word"], worker["main"]) == (str(tmp_path), "x\ny", "__main__")
    assert worker["path"] == str(script.parent)
    assert worker["pid"] != process.pid
    assert worker["group"] == worker["pid"]  # or Ray would kill the server with its first worker
    end(process)
    wait_for_end(worker["pid"])


def test_fork_has_imported_what_a_trial_imports_but_nothing_of_ray(
    python: list[str], script: Path
) -> None:
    process, worker = start(python, script)
    assert set(IMPORTS) <= set(worker["modules"])
    assert "ray" not in worker["modules"]
    end(process)


def test_fork_has_the_environment_of_the_requesting_process(
    python: list[str], script: Path
) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "HOME"}
    process, worker = start(python, script, env=environment)
    assert worker["home"] is None  # the server has it
    end(process)


def limit_files() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (345, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    Path("/proc/self/oom_score_adj").write_text("321")


def test_fork_has_the_limits_that_ray_gives_its_workers(python: list[str], script: Path) -> None:
    process, worker = start(python, script, preexec_fn=limit_files)
    assert worker["files"][0] == 345
    assert worker["oom_score"] == 321  # or the kernel, out of memory, would kill Ray first
    end(process)


def test_server_has_no_thread_that_a_fork_would_lack(python: list[str], script: Path) -> None:
    process, worker = start(python, script)
    threads = Path(f"/proc/{worker['parent']}/task").glob("*/comm")
    names = [path.read_text().strip() for path in threads]
    # Arrow's jemalloc starts its thread again in a fork.
    assert len([name for name in names if name != "jemalloc_bg_thd"]) == 1
    end(process)


def test_two_forks_draw_different_random_numbers(python: list[str], script: Path) -> None:
    first, second = start(python, script), start(python, script)
    assert first[1]["parent"] == second[1]["parent"]
    for ours, theirs in zip(first[1]["random"], second[1]["random"], strict=True):
        assert ours != theirs
    end(first[0])
    end(second[0])


def test_requesting_process_ends_with_its_fork(python: list[str], script: Path) -> None:
    process, worker = start(python, script)
    assert process.poll() is None  # it lives as long as the fork
    os.kill(worker["pid"], signal.SIGKILL)
    assert process.wait(timeout=30) == 0
    assert not is_alive(worker["pid"])


def test_requesting_process_becomes_the_worker_if_the_server_is_dead(script: Path) -> None:
    with forkserver() as command:
        assert command
        python = shlex.split(command)
        process, worker = start(python, script)
        server = worker["parent"]
        os.kill(server, signal.SIGKILL)
        wait_for_end(server)
        plain, of_plain = start(python, script, "--some")
        assert of_plain["pid"] == plain.pid
        assert of_plain["argv"] == [str(script), "--some"]
        end(plain)
        assert is_alive(worker["pid"])  # a fork outlives its server
        end(process)
    # The socket is gone now, too.
    later, of_later = start(python, script)
    assert of_later["pid"] == later.pid
    end(later)


def test_without_a_server_there_is_a_warning_and_no_command(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with forkserver() as command:
        assert command is None
    assert "each worker imports torch by itself" in caplog.text
    assert "/nowhere/python" in caplog.text


# Starts a server, prints its command and waits.
OWN = """
    from segtune.cluster.forkserver import forkserver
    with forkserver() as python:
        print(python, flush=True)
        input()
"""


def test_server_ends_with_the_process_that_has_started_it(tmp_path: Path) -> None:
    program = tmp_path / "own.py"
    program.write_text(textwrap.dedent(OWN))
    owner = subprocess.Popen(
        [sys.executable, str(program)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert owner.stdout
    folder = Path(shlex.split(owner.stdout.readline())[-1]).parent
    assert folder.exists()
    [server] = Path(f"/proc/{owner.pid}/task/{owner.pid}/children").read_text().split()
    owner.kill()
    owner.wait()
    wait_for_end(int(server))
    assert not folder.exists()


# Forks of a process that has initialised CUDA cannot use the GPU.
IMPORT_ALL = """
    import importlib
    import torch
    from segtune.cluster.forkserver import IMPORTS
    def fail(*_): raise SystemExit("an import has used CUDA")
    torch._C._cuda_getDeviceCount = torch._C._cuda_init = torch._C._cuda_getDevice = fail
    for name in IMPORTS:
        importlib.import_module(name)
"""


def test_imports_do_not_initialise_cuda() -> None:
    subprocess.run([sys.executable, "-c", textwrap.dedent(IMPORT_ALL)], check=True)


@pytest.mark.ray
def test_workers_of_a_local_ray_are_forks(cluster: None) -> None:
    import ray

    @ray.remote(num_cpus=0)
    class Worker:
        def describe(self) -> tuple[int, int, bool]:
            return os.getpid(), os.getppid(), "segtune.training.trainer" in sys.modules

    first = Worker.remote()
    pid, server, has_imported = ray.get(first.describe.remote())
    assert has_imported
    ray.kill(first)
    wait_for_end(pid)
    # Ray kills a worker with its process group and its children. The fork server must survive.
    second = Worker.remote()
    assert ray.get(second.describe.remote())[1:] == (server, True)
    ray.kill(second)
