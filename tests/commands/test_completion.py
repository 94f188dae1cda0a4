"""`segtune completion bash` in a real bash: commands, options, files and settings are completed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from segtune import completion
from segtune.__main__ import COMMANDS

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("completion") / "segtune.bash"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-m", "segtune", "completion", "bash"]
    done = subprocess.run(words, capture_output=True, text=True, env=environment, check=True)
    file.write_text(done.stdout)
    return file


def completed(script: Path, folder: Path, *words: str) -> list[str]:
    """Return what bash offers for the last of the words."""
    listed = " ".join(f"'{word}'" for word in ("segtune", *words))
    code = (
        f"source {script}; COMP_WORDS=({listed}); COMP_CWORD={len(words)}; "
        '_segtune_complete segtune "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"; '
        'printf "%s\\n" "${COMPREPLY[@]}"; complete -p segtune >&2'
    )
    command = ["bash", "--norc", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=True)
    assert "_segtune_complete segtune" in done.stderr
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (("stat",), {"status"}),
        (("data", "sh"), {"show", "shapes"}),
        (("search", "--tri"), {"--trials"}),
        (("status", "--w"), {"--watch"}),
        (("data", "check", "--js"), {"--json"}),
        (("train", "--set", "optim.lr"), {"optim.lr="}),
        (("train", "--set", "data.pal"), {"data.palette="}),
        (("train", "--config", "cel"), {"cells.yaml"}),
        (("check", "cel"), {"cells.yaml"}),
        (("status", "ru"), {"runs"}),
        (("init", "--device", ""), {"cpu", "gpu"}),
        (("completion", ""), {"bash", "zsh", "fish"}),
    ],
)
def test_bash_offers(
    words: tuple[str, ...], offered: set[str], script: Path, tmp_path: Path
) -> None:
    (tmp_path / "cells.yaml").touch()
    (tmp_path / "runs").mkdir()
    (tmp_path / "runes.txt").touch()
    assert set(completed(script, tmp_path, *words)) == offered


def test_bash_offers_every_command(script: Path, tmp_path: Path) -> None:
    assert set(completed(script, tmp_path, "")) >= set(COMMANDS)


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_get_commands_options_and_settings(
    shell: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert completion.main([shell]) == 0
    script = capsys.readouterr().out
    assert all(word in script for word in (*COMMANDS, "budget-hours", "optim.lr="))


def test_without_the_package_the_way_out_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert completion.main(["bash"]) == 2
    assert 'pip install "segtune[completion]"' in capsys.readouterr().err
