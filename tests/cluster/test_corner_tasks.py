"""Corner steps on the workers of a search: before its first trial, once, and refused in time."""

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from segtune import search
from segtune.api import run_study
from segtune.checks.corner_steps import costs_of
from segtune.cluster import corner_tasks
from segtune.cluster.corner_tasks import corner_report
from segtune.cluster.placement import live_nodes, place_trials
from segtune.config.schema import ExperimentConfig
from segtune.config.yaml_io import write_yaml
from segtune.errors import ConfigError
from segtune.runs.rundir import SearchDir
from segtune.tuning.study_reader import load_study

pytestmark = pytest.mark.ray
MakeFile = Callable[..., Path]
# The loss overflows at the first step.
OVERFLOW = {"loss.focal.weight": 1e38, "loss.dice.weight": 1e38, "loss.ce.weight": 1e38}


@pytest.fixture
def make_file(tiny_config: ExperimentConfig, tmp_path: Path) -> MakeFile:
    """Write a study of one short trial over the learning rate, with changes to the tiny config."""

    def make(high: float = 1e-2, **config: Any) -> Path:
        tree = {
            "config": tiny_config.override({"schedule.epochs": 1, **config}).dump(),
            "space": {"optim.lr": {"loguniform": [1e-4, high]}},
            "search": {"trials": 1, "scheduler": "none", "cpus_per_worker": 1.0, "pictures": 0},
        }
        (tmp_path / "study.yaml").write_text(write_yaml(tree))
        return tmp_path / "study.yaml"

    return make


def test_a_search_takes_the_corner_steps_once(
    cluster: None,
    make_file: MakeFile,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    changes = {"schedule.warmup_epochs": 0.0}
    with caplog.at_level(logging.WARNING, "segtune"):
        run = SearchDir(run_study(load_study(make_file(1e6, **changes)), tmp_path, "run").run)
    record = run.read_corners()
    assert record
    itself, largest = costs_of(record)
    assert itself.verdict is None
    assert (largest.params, largest.verdict and largest.verdict.kind) == (
        {"optim.lr": 1e6},
        "non-finite",
    )
    assert any("note: optim.lr: largest learning rate" in r.getMessage() for r in caplog.records)
    assert len(run.trial_dirs()) == 1

    def refuse(*_: object) -> None:
        raise AssertionError("taken again")

    monkeypatch.setattr(corner_tasks, "corner_report", refuse)
    study = load_study(run.study, search={"trials": 2, "corner_steps": 2})
    assert len(run_study(study, tmp_path, "run", resume=True).trials) == 2


def test_a_search_whose_config_fails_is_refused_before_its_first_trial(
    cluster: None, make_file: MakeFile, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, runs = make_file(**OVERFLOW), tmp_path / "runs"
    arguments = ["--space", str(path), "--out", str(runs), "--name", "run"]
    assert search.main(arguments) == 2
    message = capsys.readouterr().err
    assert "loss: the config itself: non-finite: the gradient norm is inf at step 1" in message
    assert "no trial was started; --no-check starts the search in spite of this" in message
    assert not (runs / "run").exists()
    # Its one trial is not healthy.
    assert search.main([*arguments, "--no-check"]) == 3
    assert not SearchDir(runs / "run").corners.exists()


def test_a_folder_that_the_user_made_is_kept(
    cluster: None, make_file: MakeFile, tmp_path: Path
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="the config itself"):
        run_study(load_study(make_file(**OVERFLOW)), tmp_path, "run")
    assert (tmp_path / "run" / "notes.txt").read_text() == "mine"
    assert not SearchDir(tmp_path / "run").trial_dirs()


def test_a_process_that_dies_is_a_verdict(
    cluster: None, make_file: MakeFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object) -> None:
        os._exit(1)

    study = load_study(make_file())
    monkeypatch.setattr(corner_tasks, "_measure_on_worker", die)
    report = corner_report(study, place_trials(study.search, live_nodes()))
    (costs,) = report.costs
    assert costs.verdict
    assert costs.verdict.kind == "lost"
    assert [finding.severity for finding in report.findings] == ["error"]
    assert json.dumps(report.dump())
