"""Laws of `segtune compare`: what it prints and draws of several searches."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from segtune.__main__ import main as program
from segtune.config.schema import ExperimentConfig
from segtune.config.yaml_io import write_yaml
from segtune.reporting.compared_searches import (
    differing_settings,
    open_searches,
    warnings_of,
    winner_rows,
)
from segtune.runs.atomic import write_atomic
from segtune.runs.records import EpochRecord, ValidationScores
from segtune.runs.rundir import SearchDir
from segtune.runs.verdict import Verdict
from segtune.tuning.preparation import prepare_study
from segtune.tuning.study_reader import load_study


def write_search(
    config: ExperimentConfig,
    path: Path,
    space: dict,
    mious: list[list[float]],
    **search: Any,
) -> SearchDir:
    """Write a search whose trials, one after the other, have an hour for each epoch."""
    tree = {"config": config.dump(), "space": space, "search": {"trials": len(mious)} | search}
    study_file = path.parent / f"{path.name}.yaml"
    study_file.write_text(write_yaml(tree))
    run = SearchDir(path)
    prepare_study(run, load_study(study_file))
    ended = 0.0
    for number, curve in enumerate(mious):
        trial = run.trial(number)
        write_atomic(trial.params, json.dumps({"optim.lr": 1e-3 * (1 + number)}))
        for epoch, miou in enumerate(curve, 1):
            ended += 3600.0
            scores = ValidationScores(miou, 0.1)
            record = EpochRecord(epoch, seconds=3600.0 * epoch, ended=ended, validation=scores)
            trial.append_epoch(record)
        trial.write_verdict(Verdict(state="completed", epoch=len(curve)))
    return run


@pytest.fixture
def runs(tiny_config: ExperimentConfig, tmp_path: Path) -> list[SearchDir]:
    lr = {"optim.lr": {"loguniform": [1e-5, 1e-1]}}
    first = write_search(tiny_config, tmp_path / "first", lr, [[0.1, 0.2], [0.4, 0.3]])
    other = tiny_config.override({"loss.dice.weight": 0.25})
    space = {**lr, "loss.ce.weight": {"uniform": [0.0, 1.0]}}
    second = write_search(other, tmp_path / "<b>second", space, [[0.1, 0.2], [0.1, 0.1]])
    return [first, second]


def test_progress_is_the_best_so_far_over_trials_and_worker_hours(runs: list[SearchDir]) -> None:
    first, second = open_searches([run.path for run in runs])
    assert first.best_by_trial == [(1, 0.2), (2, 0.4)]
    assert first.progress == [(1.0, 0.1), (2.0, 0.2), (3.0, 0.4), (4.0, 0.4)]
    assert second.best_by_trial == [(1, 0.2), (2, 0.2)]
    assert first.cells["difference"] == "+20.00"


def test_only_what_differs_is_listed(runs: list[SearchDir]) -> None:
    searches = open_searches([run.path for run in runs])
    differing = dict(differing_settings(searches))
    assert list(differing) == ["loss.dice.weight", "space.loss.ce.weight"]
    assert differing["loss.dice.weight"][1] == "0.25"
    rows = dict(winner_rows(searches))
    assert rows["optim.lr"] == ["0.002", "0.001"]
    assert rows["loss.ce.weight"] == ["0 (fixed)", "not set"]
    assert not any("Not comparable" in sentence for sentence in warnings_of(searches))


def test_notices_do_not_make_searches_differ(tiny_config: ExperimentConfig, tmp_path: Path) -> None:
    lr = {"optim.lr": {"loguniform": [1e-5, 1e-1]}}
    hooks = ("https://a.example.com/token", "https://b.example.com/token")
    runs = [
        write_search(tiny_config, tmp_path / str(n), lr, [], trials=1, notify={"webhook": hook})
        for n, hook in enumerate(hooks)
    ]
    searches = open_searches([run.path for run in runs])
    assert differing_settings(searches) == []
    assert warnings_of(searches) == []  # without a winner, there is nothing to confirm


def test_searches_on_other_data_are_not_called_comparable(
    runs: list[SearchDir], tiny_config: ExperimentConfig, tmp_path: Path
) -> None:
    resized = tiny_config.override({"data.resize": [96, 96], "schedule.epochs": 3})
    lr = {"optim.lr": {"loguniform": [1e-5, 1e-1]}}
    third = write_search(resized, tmp_path / "third", lr, [[0.1]])
    sentences = warnings_of(open_searches([runs[0].path, third.path]))
    assert any("Not comparable" in text and "data.resize" in text for text in sentences)
    assert any("length" in text for text in sentences)


def test_command_prints_a_table_and_writes_a_page(
    runs: list[SearchDir], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "c.html"
    paths = [str(run.path) for run in runs]
    assert program(["compare", *paths, "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "+20.00" in printed
    assert "loss.dice.weight: " in printed
    assert f"page: {out}" in printed
    html = out.read_text()
    assert "&lt;b&gt;second" in html
    assert "<b>second" not in html
    assert html.count("<svg role=") == 2
    by_trials = html.split('aria-label="Best so far, by trials"')[1].split("</svg>")[0]
    assert not re.findall(r">[0-9]+\.[0-9]+</text>", by_trials)
    assert len(html) < 200_000


def test_one_search_or_none_is_a_user_error(
    runs: list[SearchDir], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert program(["compare", str(runs[0].path), str(runs[0].path)]) == 2
    assert "at least two different search runs" in capsys.readouterr().err
    assert program(["compare", str(runs[0].path), str(tmp_path)]) == 2
    assert "no search has been run here" in capsys.readouterr().err
