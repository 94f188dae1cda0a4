"""The process that workers of a local Ray are forked from: what a fork is, who outlives whom, and what happens without it."""

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
from pathlib import Path

import pytest

from segtune.cluster.forkserver import IMPORTS, forkserver

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="forks are for Linux; elsewhere Ray starts each worker"
)

# Says what a worker finds, and stays until its standard input ends.
TELL = """
    import json, os, random, resource, sys
    import numpy as np
    print(json.dumps({
        "pid": os.getpid(), "parent": os.getppid(), "group": os.getpgid(0), "argv": sys.argv, "path": sys.path[0],
        "folder": os.getcwd(), "word": os.environ.get("WORD"), "home": os.environ.get("HOME"), "main": __name__, "modules": [*sys.modules],
        "drawn": [random.random(), np.random.rand()],
        "files": resource.getrlimit(resource.RLIMIT_NOFILE), "oom_score": int(open("/proc/self/oom_score_adj").read()),
    }), flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("a folder") / "tell.py"
    path.write_text(textwrap.dedent(TELL))
    return path


@pytest.fixture(scope="module")
def python():
    with forkserver() as command:
        assert command
        yield shlex.split(command)


def start(python, script, *arguments, **options) -> tuple[subprocess.Popen, dict]:
    process = subprocess.Popen(
        [*python, str(script), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        **options,
    )
    assert process.stdout
    return process, json.loads(process.stdout.readline())


def end(process: subprocess.Popen) -> None:
    process.communicate(timeout=30)
    assert process.returncode == 0


def is_alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def wait_for_end(pid: int) -> None:
    deadline = time.monotonic() + 30
    while is_alive(pid):
        assert time.monotonic() < deadline, f"{pid} is still there"
        time.sleep(0.05)


def test_fork_is_what_ray_has_asked_for(python, script, tmp_path):
    process, told = start(
        python, script, "--some", "a b", cwd=tmp_path, env=os.environ | {"WORD": "x\ny"}
    )
    assert told["argv"] == [str(script), "--some", "a b"]
    assert (told["folder"], told["word"], told["main"]) == (str(tmp_path), "x\ny", "__main__")
    assert told["path"] == str(script.parent)
    assert told["pid"] != process.pid
    assert told["group"] == told["pid"]  # or Ray would end the server with its first worker
    end(process)
    assert not is_alive(told["pid"])


def test_fork_has_imported_all_that_a_trial_does_but_nothing_of_ray(python, script):
    process, told = start(python, script)
    assert set(IMPORTS) <= set(told["modules"])
    assert "ray" not in told["modules"]
    end(process)


def test_environment_of_a_fork_is_that_of_the_one_who_asks(python, script):
    process, told = start(
        python, script, env={name: value for name, value in os.environ.items() if name != "HOME"}
    )
    assert told["home"] is None  # which the server has
    end(process)


def limit_files() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (345, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    Path("/proc/self/oom_score_adj").write_text("321")


def test_fork_has_the_limits_that_ray_gives_its_workers(python, script):
    process, told = start(python, script, preexec_fn=limit_files)
    assert told["files"][0] == 345
    assert told["oom_score"] == 321  # or the system ends Ray first, for want of memory
    end(process)


def test_server_has_no_thread_that_a_fork_would_miss(python, script):
    process, told = start(python, script)
    names = [
        path.read_text().strip() for path in Path(f"/proc/{told['parent']}/task").glob("*/comm")
    ]
    assert (
        len([name for name in names if name != "jemalloc_bg_thd"]) == 1
    )  # Arrow's, which a fork starts again
    end(process)


def test_two_forks_draw_different_numbers(python, script):
    first, second = start(python, script), start(python, script)
    assert first[1]["parent"] == second[1]["parent"]
    for ours, theirs in zip(first[1]["drawn"], second[1]["drawn"], strict=True):
        assert ours != theirs
    end(first[0])
    end(second[0])


def test_the_asking_process_learns_of_a_death(python, script):
    process, told = start(python, script)
    assert process.poll() is None  # it stays for as long as the fork
    os.kill(told["pid"], signal.SIGKILL)
    assert process.wait(timeout=30) == 0
    assert not is_alive(told["pid"])


def test_without_a_server_the_asking_process_is_the_worker(script):
    with forkserver() as command:
        assert command
        python = shlex.split(command)
        process, told = start(python, script)
        server = told["parent"]
        os.kill(server, signal.SIGKILL)
        wait_for_end(server)
        plain, of_plain = start(python, script, "--some")
        assert of_plain["pid"] == plain.pid
        assert of_plain["argv"] == [str(script), "--some"]
        end(plain)
        assert is_alive(told["pid"])  # a fork outlives its server
        end(process)
    gone, of_gone = start(python, script)  # the socket too
    assert of_gone["pid"] == gone.pid
    end(gone)


def test_where_no_server_can_be_started_each_worker_is_on_its_own(monkeypatch, caplog):
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with forkserver() as command:
        assert command is None
    assert "each worker imports torch by itself" in caplog.text
    assert "/nowhere/python" in caplog.text


def test_server_ends_with_the_process_that_has_started_it(tmp_path):
    keeper = tmp_path / "keeper.py"
    keeper.write_text(
        "from segtune.cluster.forkserver import forkserver\nwith forkserver() as python:\n    print(python, flush=True)\n    input()\n"
    )
    owner = subprocess.Popen(
        [sys.executable, str(keeper)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert owner.stdout
    folder = Path(shlex.split(owner.stdout.readline())[-1]).parent
    assert folder.exists()
    [server] = Path(f"/proc/{owner.pid}/task/{owner.pid}/children").read_text().split()
    owner.kill()
    owner.wait()
    wait_for_end(int(server))
    assert not folder.exists()


# A GPU that a process has looked at is lost to its forks.
LOOK = """
    import importlib
    import torch
    from segtune.cluster.forkserver import IMPORTS
    def look(*_): raise SystemExit("an import has looked at the GPU")
    torch._C._cuda_getDeviceCount = torch._C._cuda_init = torch._C._cuda_getDevice = look
    for name in IMPORTS:
        importlib.import_module(name)
"""


def test_imports_do_not_look_at_a_gpu():
    subprocess.run([sys.executable, "-c", textwrap.dedent(LOOK)], check=True)


@pytest.mark.ray
def test_workers_of_a_local_ray_are_forks(cluster):
    import ray

    @ray.remote(num_cpus=0)
    class Worker:
        def tell(self) -> tuple[int, int, bool]:
            return os.getpid(), os.getppid(), "segtune.training.trainer" in sys.modules

    first = Worker.remote()
    pid, server, has_imported = ray.get(first.tell.remote())
    assert has_imported
    ray.kill(first)
    wait_for_end(pid)
    # Ray ends a worker with its process group, and its children; the one that it was forked from has to stay.
    second = Worker.remote()
    assert ray.get(second.tell.remote())[1:] == (server, True)
    ray.kill(second)
