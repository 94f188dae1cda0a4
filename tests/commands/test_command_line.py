"""Every command has the same options for its output, and the same form of errors."""

import argparse
import importlib
import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from segtune import check, data_tools, train
from segtune.__main__ import COMMANDS
from segtune.__main__ import main as program
from segtune.config.schema import ExperimentConfig
from segtune.config.yaml_io import write_yaml

ROOT = Path(__file__).parents[2]


def parsers() -> Iterator[tuple[list[str], argparse.ArgumentParser]]:
    """Yield the words of every command and subcommand, and its parser."""
    for name, (module, _) in COMMANDS.items():
        parser = importlib.import_module(module).argument_parser()
        yield [name], parser
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                for sub, of_sub in action.choices.items():
                    yield [name, sub], of_sub


PARSERS = list(parsers())
IDS = [" ".join(words) for words, _ in PARSERS]


@pytest.mark.parametrize(("words", "parser"), PARSERS, ids=IDS)
def test_a_wrong_option_is_one_line_on_stderr(
    words: list[str], parser: argparse.ArgumentParser, capsys: pytest.CaptureFixture[str]
) -> None:
    needed = [] if words == ["data"] else ["x"]
    with pytest.raises(SystemExit) as ended:
        program([*words, *needed, "--no-such-option"])
    captured = capsys.readouterr()
    assert ended.value.code == 2
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("error: ")
    assert line.endswith(f"see segtune {' '.join(words)} --help")


@pytest.mark.parametrize(("words", "parser"), PARSERS, ids=IDS)
def test_every_command_may_be_quiet_or_verbose(
    words: list[str], parser: argparse.ArgumentParser
) -> None:
    assert parser.prog == f"segtune {' '.join(words)}"
    assert {"--quiet", "--verbose"} <= set(parser.format_help().split())


@pytest.mark.parametrize(
    ("words", "near"),
    [
        (["serch"], "'search'"),
        (["search", "--space", "x", "--trails", "3"], "'--trials'"),
        (["data", "shwo", "x"], "'show'"),
    ],
)
def test_the_nearest_name_is_offered(
    words: list[str], near: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = program(words)
    except SystemExit as ended:
        code = ended.code
    assert code == 2
    assert f"did you mean {near}?" in capsys.readouterr().err


@pytest.fixture
def config_file(tiny_config: ExperimentConfig, tmp_path: Path) -> Path:
    file = tmp_path / "c.yaml"
    file.write_text(write_yaml(tiny_config.dump()))
    return file


def run_module(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    command = [sys.executable, "-m", "segtune", *words]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=True)


def test_quiet_has_results_only_and_verbose_the_details(config_file: Path, tmp_path: Path) -> None:
    messages = {}
    for option in ("--quiet", "", "--verbose"):
        out = tmp_path / f"run{option}"
        words = ["train", "--config", str(config_file), "--out", str(out), *option.split()]
        done = run_module(*words)
        assert "mIoU" in done.stdout
        messages[option] = done.stderr
    assert messages["--quiet"] == ""
    assert messages[""].count("epoch") >= 2
    assert "segtune.api: " in messages["--verbose"]
    assert "segtune.api: " not in messages[""]


@pytest.mark.parametrize("command", [["check", "--no-steps", "--no-labels"], ["data", "check"]])
def test_json_on_stdout_is_nothing_but_json(
    command: list[str], config_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = config_file.with_name("s.yaml")
    space = {"optim.lr": {"loguniform": [1e-5, 1e-1]}}
    study.write_text(write_yaml({"config": "c.yaml", "space": space}))
    file = str(study if command[0] == "check" else config_file)
    assert program([*command, file, "--json", "-"]) == 0
    tree = json.loads(capsys.readouterr().out)
    assert "findings" in tree


@pytest.mark.parametrize("words", [["config", "{}"], ["data", "check", "{}", "--json"]])
def test_a_reader_that_ends_early_is_no_error(words: list[str], config_file: Path) -> None:
    command = " ".join([sys.executable, "-m", "segtune", *words]).format(config_file)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    words = ["bash", "-c", f"{command} | true; exit ${{PIPESTATUS[0]}}"]
    done = subprocess.run(words, capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize("no_color", ["", "1"])
def test_no_color_turns_off_colours(no_color: str, tmp_path: Path) -> None:
    controller, terminal = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm", "NO_COLOR": no_color}
    words = [sys.executable, "-m", "segtune.doctor", "--out", str(tmp_path)]
    process = subprocess.Popen(words, stdout=terminal, stderr=terminal, env=environment)
    os.close(terminal)
    text = b""
    while chunk := _read(controller):
        text += chunk
    process.wait()
    assert b"OK" in text
    assert (b"\x1b[32m" in text) == (not no_color)


def _read(controller: int) -> bytes:
    try:
        return os.read(controller, 65536)
    except OSError:  # Linux reports the end of a terminal so
        return b""


@pytest.mark.parametrize("module", [check, data_tools, train])
def test_a_user_error_has_the_form_of_a_wrong_option(
    module: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    absent = str(tmp_path / "absent.yaml")
    words = {
        check: [absent],
        data_tools: ["check", absent],
        train: ["--config", absent, "--out", str(tmp_path / "x")],
    }[module]
    assert module.main(words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"error: {absent}: no such file")
