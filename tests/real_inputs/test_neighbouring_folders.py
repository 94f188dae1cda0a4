"""A command on the folder beside the right one does what is meant, or points to the right one."""

import json
import shutil
from pathlib import Path

import pytest
from untrained import save_checkpoint

import segtune
from segtune.__main__ import main as program
from segtune.config.schema import ExperimentConfig
from segtune.config.yaml_io import write_yaml
from segtune.errors import CheckpointError, ConfigError
from segtune.runs.atomic import write_atomic
from segtune.runs.records import EpochRecord, ValidationScores
from segtune.runs.rundir import SearchDir
from segtune.runs.verdict import State, Verdict
from segtune.training.locate import find_checkpoint
from segtune.tuning.preparation import prepare_study
from segtune.tuning.study_reader import load_study

SPACE = {"optim.lr": {"loguniform": [1e-5, 1e-1]}}
OLD_RUN = Path(__file__).parent.parent / "data" / "search_run_0_1_0"


@pytest.fixture
def files(tmp_path: Path, tiny_config: ExperimentConfig) -> Path:
    """Return a folder with a config, a space and a study."""
    (tmp_path / "c.yaml").write_text(write_yaml(tiny_config.dump()))
    (tmp_path / "space.yaml").write_text(write_yaml(SPACE))
    study = {"config": "c.yaml", "space": SPACE, "search": {"trials": 3}}
    (tmp_path / "s.yaml").write_text(write_yaml(study))
    return tmp_path


def search_run(files: Path, name: str, *ends: tuple[float | None, State | None]) -> SearchDir:
    """Write a search run whose trials have these mIoUs and states; None: not yet."""
    study, run = load_study(files / "s.yaml"), SearchDir(files / "runs" / name)
    prepare_study(run, study)
    for number, (miou, state) in enumerate(ends):
        trial = run.trial(number)
        write_atomic(trial.params, json.dumps({"optim.lr": 10.0**-number}))
        write_atomic(trial.config, write_yaml(study.config.dump()))
        if miou is not None:
            scores = ValidationScores(miou=miou, constant_miou=0.1)
            trial.append_epoch(EpochRecord(epoch=1, seconds=1.0, validation=scores))
        if state:
            kind = "non-finite" if state == "unhealthy" else ""
            trial.write_verdict(
                Verdict(state=state, kind=kind, epoch=1, evidence=kind and "the loss is nan")
            )
    return run


@pytest.fixture
def run(files: Path) -> SearchDir:
    """A search run whose best trial is trial 1; trial 2 is unhealthy."""
    return search_run(files, "s-1", (0.2, "completed"), (0.4, "pruned"), (0.9, "unhealthy"))


def test_search_run_stands_for_the_best_checkpoint_of_its_best_trial(
    run: SearchDir, tiny_config: ExperimentConfig, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    saved = [save_checkpoint(run.trial(number).path, tiny_config) for number in range(3)]
    assert find_checkpoint(run.path) == saved[1]
    assert "best trial 0001, mIoU 40.00" in caplog.text
    assert find_checkpoint(run.trial(2).path) == saved[2]
    for name in ("weights.safetensors", "manifest.json"):
        assert find_checkpoint(saved[0] / name) == saved[0]
    assert find_checkpoint(run.trial(0).checkpoints) == saved[0]


def test_path_without_a_checkpoint_says_what_is_there(files: Path, run: SearchDir) -> None:
    (files / "weights.pth").write_bytes(b"x")
    bad = search_run(files, "bad", (0.1, "unhealthy")).path
    cases = {
        run.path.parent: r"holds 2 search runs \(bad, s-1\), not a checkpoint; use one of them",
        run.path: "its best trial 0001 has no checkpoint any more",
        run.study: "a file of a search run, not a checkpoint; use its folder",
        files / "weights.pth": "a file of weights.*model.weights",
        files / "run": "no checkpoint; .*did you mean 'runs'",
        OLD_RUN: "its best trial 0003 has no checkpoint any more",
        bad: r"trials: 0000 unhealthy",
    }
    for path, message in cases.items():
        with pytest.raises(CheckpointError, match=message):
            find_checkpoint(path)


def test_status_lists_the_runs_in_a_folder(
    run: SearchDir, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    search_run(files, "first", (None, None))
    assert program(["status", str(run.path.parent)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any("s-1" in line and "40.00" in line and " 3 " in line for line in lines)
    assert any("first" in line and " 0 " in line for line in lines)


def test_status_of_a_first_trial_that_has_no_validation_is_no_failure(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = search_run(files, "first", (None, None)).path
    assert program(["status", str(path)]) == 0
    out = capsys.readouterr().out
    assert "no trial has been validated yet" in out
    assert "no healthy trial" not in out


def test_status_shows_a_trial_and_its_search(
    run: SearchDir, capsys: pytest.CaptureFixture[str]
) -> None:
    assert program(["status", str(run.trial(2).path)]) == 0
    out = capsys.readouterr().out
    assert "unhealthy at epoch 1" in out
    assert "non-finite: the loss is nan" in out
    assert "mIoU 90.00 at epoch 1" in out
    assert f"segtune status {run.path}" in out


@pytest.mark.parametrize("command", ["report", "stop", "export"])
def test_other_commands_point_to_the_search_run(
    run: SearchDir, files: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    single = files / "single"
    shutil.copytree(run.trial(0).path, single)
    cases = {
        run.path.parent: f"holds 1 search runs: s-1; use one of them, for example {run.path}",
        run.trials: f"it belongs to the search run {run.path}",
        run.path.parent / "s-2": "did you mean 's-1'?",
        files / "c.yaml": "it is a file; a search run is a folder with study.yaml",
        single: "a single training run",
    }
    for path, message in cases.items():
        assert program([command, str(path)]) == 2
        assert message in capsys.readouterr().err


def test_export_of_a_trial_folder_is_the_export_of_the_trial(run: SearchDir, files: Path) -> None:
    out = files / "out.yaml"
    assert program(["export", str(run.trial(0).path), "--out", str(out)]) == 0
    assert segtune.load_config(out).optim.lr == 1.0


def test_export_of_an_unhealthy_trial_says_why(
    run: SearchDir, files: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = files / "out.yaml"
    command = ["export", str(run.path), "--out", str(out), "--trial"]
    assert program([*command, "0"]) == 0
    assert "trial 0000" not in caplog.text
    assert program([*command, "2"]) == 0
    assert "trial 0002 is unhealthy: non-finite: the loss is nan" in caplog.text
    assert segtune.load_config(out).optim.lr == 0.01


def test_export_without_a_healthy_trial_or_onto_a_folder_is_refused(
    run: SearchDir, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = search_run(files, "bad", (0.1, "unhealthy"), (None, "failed")).path
    assert program(["export", str(bad), "--out", str(files / "x.yaml")]) == 2
    assert "(0000 unhealthy, 0001 failed); --trial N exports another" in capsys.readouterr().err
    assert program(["export", str(run.path), "--out", str(files)]) == 2
    assert f"--out: {files} is a folder" in capsys.readouterr().err


def test_stop_says_whether_a_search_is_running(
    run: SearchDir, capsys: pytest.CaptureFixture[str]
) -> None:
    assert program(["stop", str(run.path)]) == 0
    assert "no search is running in this folder" in capsys.readouterr().out
    with run.locked():
        assert program(["stop", str(run.path)]) == 0
        assert "stop requested" in capsys.readouterr().out


def test_stop_reaches_the_trials_at_full_length_after_a_proxy(
    run: SearchDir, capsys: pytest.CaptureFixture[str]
) -> None:
    run.full.path.mkdir()
    shutil.copy(run.study, run.full.study)
    with run.locked():
        for path in (run.path, run.full.path):
            run.full.stop_request.unlink(missing_ok=True)
            assert program(["stop", str(path)]) == 0
            assert "stop requested" in capsys.readouterr().out
            assert run.full.stop_request.exists()


def test_config_that_is_a_folder_a_study_or_a_space_is_named(run: SearchDir, files: Path) -> None:
    cases = {
        run.trial(0).path: rf"is a folder; expected a YAML file; use {run.trial(0).config}",
        files / "s.yaml": r"is a study .*segtune search --space",
        run.study: r"is a study .*segtune search --space",
        files / "space.yaml": r"is a space of settings, not a config.*segtune search --space",
        files / "runs": "is a folder; expected a YAML file",
    }
    for path, message in cases.items():
        with pytest.raises(ConfigError, match=message):
            segtune.load_config(path)


def test_space_that_is_a_config_or_a_run_is_named(run: SearchDir, files: Path) -> None:
    with pytest.raises(ConfigError, match=r"is a config, not a space; .*segtune train --config"):
        load_study(files / "c.yaml")
    with pytest.raises(ConfigError, match=rf"is a folder; expected a YAML file; use {run.study}"):
        load_study(run.path)
