"""Command lines as users type them: names, numbers and paths that are refused, or repaired."""

import logging
import os
from pathlib import Path

import pytest

from segtune.__main__ import main as program
from segtune.config.schema import ExperimentConfig
from segtune.config.yaml_io import write_yaml
from segtune.runs.rundir import SearchDir
from segtune.search import main as search
from segtune.search import name_stem, newest_name, next_name
from segtune.tuning.preparation import prepare_study
from segtune.tuning.study_reader import load_study

SPACE = "optim.lr: {loguniform: [1e-5, 1e-1]}\n"


@pytest.fixture
def study_file(tiny_config: ExperimentConfig, tmp_path: Path) -> Path:
    """A study of the tiny config, in a file with blanks in its name."""
    path = tmp_path / "my space (1).yaml"
    tree = {"config": tiny_config.dump(), "search": {"scheduler": "none", "trials": 3}}
    path.write_text(f"{write_yaml(tree)}space:\n  {SPACE}")
    return path


def error_of(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Return what a command with a mistake prints; its exit code is 2."""
    try:
        code = program(list(words))
    except SystemExit as stop:  # argparse
        code = stop.code
    assert code == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    return error


@pytest.mark.parametrize(
    ("file", "stem"),
    [
        ("optim.yaml", "optim"),
        ("my space (1).yaml", "my_space__1_"),
        ("größe.yaml", "gr__e"),
        ("-x.yaml", "x"),
        ("_.yaml", "study"),
        ("日本.yaml", "study"),
        (f"{'a' * 300}.yaml", "a" * 59),
    ],
)
def test_the_name_of_a_search_run_is_made_from_any_file_name(
    file: str, stem: str, tmp_path: Path
) -> None:
    assert name_stem(file) == stem
    assert next_name(tmp_path, name_stem(file)) == f"{stem}-1"


def test_a_search_run_of_a_file_with_blanks_is_found_again(study_file: Path) -> None:
    out = study_file.parent / "runs"
    stem = name_stem(str(study_file))
    prepare_study(SearchDir(out / next_name(out, stem)), load_study(study_file))
    assert newest_name(out, stem) == "my_space__1_-1"


@pytest.mark.parametrize("name", ["", "a/b", "../x", "größe", ".x", "-x", "a b", "a" * 65])
def test_a_name_that_is_no_folder_name_is_refused_before_anything_starts(
    study_file: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    error = error_of(capsys, "search", "--space", str(study_file), f"--name={name}", "--dry-run")
    assert f"--name {name!r}: use at most 64 letters, digits, '.', '_' and '-'" in error


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--trials", "0"], "trials: allowed is whole number >= 1; got 0"),
        (["--trials", "-1"], "trials: allowed is whole number >= 1; got -1"),
        (["--trials", "1.5"], "argument --trials: invalid int value: '1.5'"),
        (["--trials", "abc"], "argument --trials: invalid int value: 'abc'"),
        (["--workers-per-trial", "0"], "workers_per_trial: allowed is whole number >= 1; got 0"),
        (["--seed", "-1"], "seed: allowed is whole number >= 0"),
        (["--out", ""], "argument --out: is empty; write . for the current folder"),
        (["--out", "$HOME/runs"], "argument --out: $HOME in '$HOME/runs' is not replaced"),
        (["--set", "data.root="], "--set: data.root=: expected name=value without blanks"),
        (["--set", "optim.lr=", "1e-3"], "for no value, write --set optim.lr=null"),
        (["--set", "optim.lr", "=1e-3"], "optim.lr: expected name=value without blanks"),
        (["--set", "data.train=[a,", "b]"], "[ is not closed; put quotes around the whole"),
        (["--set", "optim={lr:", "1e-3}"], "because of its blanks: --set 'optim={a, b}'"),
    ],
)
def test_an_option_of_search_that_is_out_of_range_is_refused(
    study_file: Path, capsys: pytest.CaptureFixture[str], option: list[str], message: str
) -> None:
    assert message in error_of(capsys, "search", "--space", str(study_file), *option, "--dry-run")


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--workers", "0"], "argument --workers: allowed is whole number >= 1; got 0"),
        (["--workers", "-2"], "argument --workers: allowed is whole number >= 1; got -2"),
        (["--out", ""], "argument --out: is empty"),
        (["--init-from", "None"], "write null or leave the setting out for no value"),
    ],
)
def test_an_option_of_train_that_is_out_of_range_is_refused(
    capsys: pytest.CaptureFixture[str], option: list[str], message: str
) -> None:
    assert message in error_of(capsys, "train", "--config", "c.yaml", "--out", "x", *option)


def test_a_tilde_after_an_equals_sign_is_the_home_folder(
    study_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # The shell leaves `--space=~/x` as it is.
    monkeypatch.setenv("HOME", str(study_file.parent))
    words = ["search", f"--space=~/{study_file.name}", "--dry-run", "--no-check"]
    assert program(words) == 0
    assert "24 training and 7 validation images" in capsys.readouterr().out
    config = study_file.parent / "c.yaml"
    config.write_text(write_yaml(load_study(study_file).config.dump()))
    command = ["train", "--config=~/c.yaml", "--out=~/run", "--set", "schedule.epochs=1"]
    monkeypatch.chdir(study_file.parent)
    assert program(command) == 0
    assert (study_file.parent / "run" / "verdict.json").exists()
    assert not os.path.lexists("~")


def test_a_warm_start_at_a_resume_is_said_to_have_no_effect(
    study_file: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(study_file.parent / "runs")
    command = ["--space", str(study_file), "--out", out, "--name", "x", "--warm-start", out]
    with caplog.at_level(logging.WARNING, "segtune"):
        assert search([*command, "--resume"]) == 2  # there is no such search run
    assert "--warm-start has no effect with --resume or --extend" in caplog.text
    assert "no search has been run here" in capsys.readouterr().err


def test_a_word_in_place_of_the_scheduler_s_section_shows_the_section(
    study_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = study_file.read_text().replace("scheduler: none", "scheduler: asha")
    study_file.write_text(text)
    error = error_of(capsys, "search", "--space", str(study_file), "--dry-run")
    assert "got 'asha'; write asha as a section: {asha: {}}" in error


def test_a_config_is_shown_with_the_paths_that_are_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    (tmp_path / "c.yaml").write_text("data.root: ~/my data\n")
    assert program(["config", str(tmp_path / "c.yaml"), "--set", "data.cache=~/cache #2"]) == 0
    shown = capsys.readouterr().out
    assert "root: /home/me/my data\n" in shown
    assert "cache: '/home/me/cache #2'\n" in shown
