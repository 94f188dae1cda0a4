"""A run records where each session ran, without secrets, and says what has changed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from segtune.runs import environment
from segtune.runs.environment import Environment, read_environments, record_environment


def program(folder: Path, name: str, script: str) -> None:
    """Make a program that stands before all others of its name."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return folder


def test_each_session_is_recorded_and_a_difference_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "environment.json"
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert record_environment(path, {"config": 7}) == []
    assert record_environment(path, {"config": 7}) == []
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert record_environment(path, {"config": 7}) == ["OMP_NUM_THREADS: 3 now, not known before"]
    sessions = read_environments(path)
    assert [session.seeds for session in sessions] == [{"config": 7}] * 3
    assert sessions[-1].variables["OMP_NUM_THREADS"] == "3"
    assert sessions[0].packages["torch"]
    assert sessions[0].python == sys.version.split()[0]


def test_versions_revision_and_gpus_are_compared_and_the_host_is_not() -> None:
    first = Environment.of_this_process({})
    assert list(first.differences(first)) == []
    entry = vars(first) | {"host": "other", "began": 0.0, "command": ["segtune"]}
    assert list(first.differences(Environment(**entry))) == []
    entry |= {"packages": first.packages | {"torch": "1.0"}, "revision": "abc", "gpus": ["H100"]}
    now = {"torch": first.packages["torch"], "revision": first.revision or "not known"}
    assert list(first.differences(Environment(**entry))) == [
        f"torch: {now['torch']} now, 1.0 before",
        f"revision: {now['revision']} now, abc before",
        f"gpus: {', '.join(first.gpus) or 'none'} now, H100 before",
    ]


def test_no_password_and_no_other_variable_is_in_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "s3cret")
    storage = "search.storage=postgresql://me:s3cret@db:5432/optuna"
    monkeypatch.setattr(sys, "argv", ["/usr/bin/segtune", "search", "--set", storage])
    record_environment(tmp_path / "environment.json", {})
    text = (tmp_path / "environment.json").read_text()
    assert "s3cret" not in text
    assert json.loads(text)[0]["command"][-1] == "search.storage=postgresql://***@db:5432/optuna"


def test_only_a_command_of_segtune_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/home/me/my_script.py", "--token", "s3cret"])
    assert Environment.of_this_process({}).command is None
    module = str(environment.SOURCE / "search.py")  # python -m segtune.search
    monkeypatch.setattr(sys, "argv", [module, "--space", "a.yaml"])
    assert Environment.of_this_process({}).command == [module, "--space", "a.yaml"]


def test_gpus_are_those_of_nvidia_smi_and_a_program_that_hangs_is_left(
    programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = "NVIDIA H100 80GB HBM3, 81559 MiB, 550.54"
    program(programs, "nvidia-smi", f"echo '{line}'; echo '{line}'")
    assert Environment.of_this_process({}).gpus == [line, line]
    program(programs, "nvidia-smi", "exec sleep 60")
    monkeypatch.setattr(environment, "PATIENCE", 0.2)
    assert Environment.of_this_process({}).gpus == []


def test_the_revision_is_that_of_segtunes_own_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*words: str) -> str:
        identity = ("-c", "user.name=a", "-c", "user.email=a@b")
        command = ["git", "-C", str(tmp_path), *identity, *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    source = tmp_path / "segtune"
    source.mkdir()
    (source / "a.py").write_text("")
    monkeypatch.setattr(environment, "SOURCE", source)
    assert Environment.of_this_process({}).revision is None
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "first")
    clean = Environment.of_this_process({})
    assert (clean.revision, clean.is_changed) == (git("rev-parse", "HEAD"), False)
    (source / "a.py").write_text("1")
    assert Environment.of_this_process({}).is_changed is True
    # In site-packages of another project's checkout, the revision would be that project's.
    inner = tmp_path / "venv" / "segtune"
    inner.mkdir(parents=True)
    monkeypatch.setattr(environment, "SOURCE", inner)
    assert Environment.of_this_process({}).revision is None
