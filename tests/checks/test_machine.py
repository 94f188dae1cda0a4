"""`segtune doctor`: each check sees the limit that it is for, and says what to do."""

import json
import os
import resource
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from segtune import doctor
from segtune.checks.machine import limits, packages
from segtune.checks.machine.disks import (
    check_disks,
    check_home,
    check_shared_memory,
    check_space,
)
from segtune.checks.machine.gpus import check_gpus, match_of
from segtune.checks.machine.network import check_collectives, check_ports, check_proxy
from segtune.checks.machine.packages import check_packages, check_python, declared
from segtune.checks.machine.ray_folder import check_leftovers

ROOT = Path(__file__).parents[2]


def doctor_in_shell(limit: str = "true", *options: str, **variables: str) -> tuple[int, dict]:
    """Run the command after a shell command such as `ulimit -n 300`; return code and JSON."""
    words = " ".join([sys.executable, "-m", "segtune.doctor", "--json", *options])
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    command = ["bash", "-c", f"{limit} && {words}"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    return done.returncode, json.loads(done.stdout)


def states(report: dict, check: str) -> list[str]:
    return [row["state"] for row in report["checks"] if row["check"] == check]


@pytest.mark.parametrize(("files", "state", "code"), [(300, "problem", 2), (1500, "warning", 0)])
def test_a_low_limit_on_open_files_is_seen_in_the_shell_that_has_it(
    files: int, state: str, code: int, tmp_path: Path
) -> None:
    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] < files:
        pytest.skip("the hard limit is lower")
    variables = {"NCCL_SOCKET_IFNAME": "absent0", "HTTP_PROXY": "http://proxy:3128", "no_proxy": ""}
    found, report = doctor_in_shell(f"ulimit -Sn {files}", "--out", str(tmp_path), **variables)
    assert states(report, "open files") == [state]
    assert [found, report["state"]] == [code, state]
    assert states(report, "collectives") == ["warning"]
    assert states(report, "proxy") == ["warning"]
    remedies = {row["check"]: row["remedy"] for row in report["checks"]}
    assert "ulimit -n" in remedies["open files"]
    assert all(bool(row["remedy"]) == (row["state"] != "ok") for row in report["checks"])


def test_the_report_is_a_line_for_each_check_and_starts_no_ray(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # In a process of its own: other tests may have imported Ray.
    code = (
        "import sys; from segtune import doctor; doctor.main(sys.argv[1:]); "
        "print('ray' in sys.modules)"
    )
    command = [sys.executable, "-c", code, "--out", str(tmp_path)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert lines[-1] == "False"
    assert [line for line in lines if line.startswith("OK       python")]
    assert " checks: " in lines[-2]


@pytest.mark.ray
def test_with_ray_a_local_one_is_started_for_real(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert doctor.main(["--ray", "--json", "--out", str(tmp_path)]) in (0, 2)
    row = json.loads(capsys.readouterr().out)["checks"][-1]
    assert (row["check"], row["state"]) == ("ray", "ok")
    assert "its dashboard was at http://127.0.0.1:" in row["text"]


def test_packages_out_of_bounds_are_named_with_the_command_that_repairs_them() -> None:
    bounds, needed = declared()
    assert check_python(bounds).state == "ok"
    assert check_python(">=3.11", "3.10.2").state == "problem"
    assert {need.name for need in needed} > {"ray", "torch", "optuna"}
    (right,) = check_packages(needed)
    assert right.state == "ok"
    wrong = list(check_packages([Requirement("numpy<1.0"), Requirement("absent-package>=2")]))
    assert [outcome.state for outcome in wrong] == ["problem", "problem"]
    assert wrong[0].remedy == "pip install 'numpy<1.0'"
    assert wrong[1].text == "absent-package is not installed"


@pytest.mark.parametrize(
    ("shown", "usable", "cuda", "state", "remedy"),
    [
        ([], 0, None, "ok", ""),
        (["535.1, H100"], 1, "12.4", "ok", ""),
        (["535.1, H100"], 0, None, "warning", "install torch for CUDA"),
        (["470.1, V100"], 0, "13.0", "warning", "the driver may be older than CUDA 13.0"),
    ],
)
def test_gpus_that_torch_cannot_use_are_a_warning(
    shown: list[str],
    usable: int,
    cuda: str | None,
    state: str,
    remedy: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    outcome = match_of(shown, usable, "2.10", cuda)
    assert (outcome.state, remedy in outcome.remedy) == (state, True)


def test_hidden_gpus_are_said_to_be_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert "hides them" in match_of(["535.1, H100"], 0, "2.10", "12.4").remedy


def test_limits_of_a_container_come_from_either_version_of_cgroups(tmp_path: Path) -> None:
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    (tmp_path / "memory.max").write_text(f"{1_500_000_000}\n")
    cpus = limits.check_cpus(tmp_path, num_cpus=8)
    assert (cpus.state, "1.5" in cpus.text) == ("warning", True)
    assert "--max-concurrent 1" in cpus.remedy
    assert limits.check_cpus(tmp_path, num_cpus=1).state == "ok"
    assert limits.check_memory(tmp_path).state == "problem"
    old = tmp_path / "v1"
    for name, text in (
        ("cpu/cpu.cfs_quota_us", "200000"),
        ("cpu/cpu.cfs_period_us", "100000"),
        ("memory/memory.limit_in_bytes", "9223372036854771712"),  # no limit
    ):
        (old / name).parent.mkdir(parents=True, exist_ok=True)
        (old / name).write_text(text)
    assert limits.cpu_limit(old) == 2.0
    assert limits.memory_limit(old) is None
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert limits.cpu_limit(tmp_path) is None


def test_little_memory_is_seen(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:  32000000 kB\nMemAvailable:  3000000 kB\n")
    assert limits.check_memory(tmp_path, meminfo).state == "warning"


@pytest.mark.parametrize(
    ("check", "expected"),
    [
        (lambda: check_shared_memory(1), "ok"),
        (lambda: check_shared_memory(10**7), "warning"),
        (lambda: check_shared_memory(1, Path("/absent")), "ok"),
        (lambda: check_space("runs", Path("/"), 100e6), "problem"),
        (lambda: check_space("runs", Path("/absent/folder"), 2e9), "warning"),
        (lambda: next(limits.check_clock(Path("/tmp"), now=1e9)), "warning"),
    ],
)
def test_too_little_is_graded(check: Callable, expected: str) -> None:
    assert check().state == expected


def test_folders_that_cannot_be_written_are_named(tmp_path: Path) -> None:
    file = tmp_path / "runs"
    file.write_text("no folder")
    first = next(iter(check_disks(file, tmp_path)))
    assert (first.state, str(file) in first.text) == ("problem", True)
    assert check_home(file).state == "problem"
    assert check_home(tmp_path).state == "ok"


def test_leftovers_of_sessions_that_have_ended_are_counted(tmp_path: Path) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    for number, pid in ((1, ended.pid), (2, ended.pid), (3, os.getpid())):
        folder = tmp_path / f"session_2026-01-0{number}_00-00-00_000000_{pid}"
        folder.mkdir()
        (folder / "log").write_bytes(b"x" * 1000)
    outcome = check_leftovers(tmp_path)
    assert outcome.text.startswith("2 sessions that have ended left 2 kB")
    assert "1 may be running" in outcome.text
    for number in range(30):
        (tmp_path / f"session_2026-02-01_00-00-{number:02}_000000_{ended.pid}").mkdir()
    assert check_leftovers(tmp_path).state == "warning"


def test_a_taken_port_of_the_dashboard_is_no_problem() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        (outcome,) = check_ports(port)
        assert (outcome.state, "is taken" in outcome.text) == ("ok", True)
    (outcome,) = check_ports(port)
    assert f"http://127.0.0.1:{port}" in outcome.text


@pytest.mark.parametrize(
    ("variables", "state"),
    [
        ({}, "ok"),
        ({"NCCL_SOCKET_IFNAME": "lo"}, "ok"),
        ({"NCCL_SOCKET_IFNAME": "=l"}, "warning"),
        ({"GLOO_SOCKET_IFNAME": "^lo,absent"}, "warning"),
        ({"NCCL_P2P_DISABLE": "1"}, "warning"),
        ({"NCCL_P2P_DISABLE": "0", "NCCL_DEBUG": "INFO"}, "ok"),
    ],
)
def test_variables_of_nccl_are_judged(variables: dict[str, str], state: str) -> None:
    if "^lo,absent" in variables.values() and len(socket.if_nameindex()) > 1:
        state = "ok"  # another interface is there
    assert next(check_collectives(variables)).state == state


def test_a_proxy_needs_an_exception_for_this_machine() -> None:
    proxy = {"http_proxy": "http://proxy:3128"}
    assert check_proxy({}).state == "ok"
    assert check_proxy(proxy).state == "warning"
    assert check_proxy({**proxy, "no_proxy": "localhost,127.0.0.1"}).state == "ok"


def test_a_gpu_that_cannot_be_used_is_a_line_of_the_report(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(number: int) -> tuple[int, int]:
        raise RuntimeError("CUDA error: out of memory\nmore")

    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.setattr("torch.cuda.mem_get_info", refuse)
    *_, outcome = check_gpus()
    assert (outcome.check, outcome.state) == ("gpu memory", "warning")
    assert outcome.text == "GPU 0 cannot be used: CUDA error: out of memory"


def test_another_project_file_beside_the_package_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "pyproject.toml"
    file.write_text('[project]\nname = "other"\nrequires-python = ">=99"\ndependencies = []\n')
    monkeypatch.setattr(packages, "CHECKOUT", file)
    monkeypatch.setattr(packages, "requires", lambda name: ["numpy>=1"])
    monkeypatch.setattr(packages, "metadata", lambda name: {"Requires-Python": ">=3.11"})
    python, (needed,) = declared()
    assert (python, needed.name) == (">=3.11", "numpy")
