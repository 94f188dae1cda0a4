"""A proxy shrinks a config in proportion; its best trials are checked at full length."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from segtune import export, status
from segtune.api import run_study
from segtune.config.schema import ExperimentConfig, load_config
from segtune.config.yaml_io import write_yaml
from segtune.errors import ConfigError
from segtune.reporting.html import write_report
from segtune.runs.atomic import write_atomic
from segtune.runs.records import EpochRecord, ValidationScores
from segtune.runs.results import TrialResult, read_trials
from segtune.runs.rundir import SearchDir
from segtune.runs.verdict import Verdict
from segtune.tuning.proxy import ProxyConfig, shorten
from segtune.tuning.proxy_check import check, full_length_study, select_for_full_length
from segtune.tuning.study import Study
from segtune.tuning.study_reader import load_study


def test_warmup_and_validations_shrink_with_the_epochs(tiny_config: ExperimentConfig) -> None:
    long = tiny_config.override(
        {
            "schedule.epochs": 200,
            "schedule.warmup_epochs": 15.0,
            "schedule.val_every": 10,
            "data.crop": [512, 256],
        }
    )
    short = shorten(long, ProxyConfig(epochs=40, resolution=0.5, num_images=9))
    schedule = short.schedule
    assert (schedule.epochs, schedule.warmup_epochs, schedule.val_every) == (40, 3.0, 2)
    assert (short.data.crop, short.data.resize, short.data.num_images) == ((256, 128), (32, 32), 9)
    assert shorten(long, ProxyConfig()) == long


def write_study(folder: Path, config: ExperimentConfig, lr: Sequence[float]) -> Study:
    tree = {
        "config": config.override({"schedule.epochs": 4}).dump(),
        "space": {"optim.lr": {"loguniform": list(lr)}},
        "search": {
            "trials": 4,
            "proxy": {"epochs": 2, "carry": 3},
            "scheduler": {"asha": {"grace_epochs": 1, "reduction": 2}},
            "corner_steps": 0,
            "pictures": 0,  # test_corner_tasks.py has them
        },
    }
    (folder / "s.yaml").write_text(write_yaml(tree))
    return load_study(folder / "s.yaml")


@pytest.fixture
def study(tiny_config: ExperimentConfig, tmp_path: Path) -> Study:
    return write_study(tmp_path, tiny_config, [1e-5, 1e-1])


def test_rungs_and_trial_configs_are_those_of_the_proxy(study: Study) -> None:
    assert (study.epochs, study.rungs()) == (2, [1])
    assert study.trial_config({"optim.lr": 1e-4}).schedule.epochs == 2
    assert study.config.schedule.epochs == 4


def test_proxy_longer_than_the_config_is_refused(study: Study, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"search\.proxy\.epochs: 9 is more than the config's own 4"
    ):
        load_study(tmp_path / "s.yaml", search={"proxy.epochs": 9})


def result(number: int, miou: float | None, state: str = "completed") -> TrialResult:
    return TrialResult(number=number, state=state, miou=miou)


def test_best_trials_and_some_of_the_others_train_at_full_length() -> None:
    trials = [result(number, number / 10) for number in range(9)]
    trials += [result(9, 0.95, "unhealthy"), result(10, None, "failed")]
    assert [t.number for t in select_for_full_length(trials, 4)] == [8, 7, 4, 1]
    assert [t.number for t in select_for_full_length(trials[:3], 4)] == [2, 1]


def write_trials(run: SearchDir, mious: Sequence[float]) -> SearchDir:
    """Write a completed trial for each score; the learning rate of trial n is n / 100."""
    for number, miou in enumerate(mious):
        trial = run.trial(number)
        write_atomic(trial.params, json.dumps({"optim.lr": number / 100}))
        trial.append_epoch(EpochRecord(1, 1, 1.0, validation=ValidationScores(miou, 0.0)))
        trial.write_verdict(Verdict(state="completed", epoch=1))
    return run


@pytest.mark.parametrize(
    ("full", "correlation", "words"),
    [
        ([0.5, 0.6, 0.7, 0.8], 1.0, "rank correlation of proxy and full mIoU 1.00 over 4 trials"),
        ([0.8, 0.7, 0.6, 0.5], -1.0, "too low, the proxy's ranking is close to chance"),
        ([0.5, 0.6], None, "too few"),
    ],
)
def test_low_rank_correlation_is_a_warning(
    study: Study, tmp_path: Path, full: list[float], correlation: float | None, words: str
) -> None:
    proxy_run = write_trials(SearchDir(tmp_path / "p"), [0.1, 0.2, 0.3, 0.4])
    comparison = check(study, proxy_run, write_trials(SearchDir(tmp_path / "f"), full))
    expected = None if correlation is None else pytest.approx(correlation)
    assert comparison.correlation == expected
    assert words in comparison.words


@pytest.mark.slow
@pytest.mark.ray
def test_search_on_a_proxy_exports_the_full_config(
    study: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = run_study(study, tmp_path / "runs", "p")
    run = SearchDir(result.run)
    assert {t.epoch for t in read_trials(run) if t.state == "completed"} == {2}
    full = read_trials(run.full)
    assert len(full) == 4
    assert {t.epoch for t in full} == {4}
    assert result.best is not None
    assert result.best.config.schedule.epochs == 4
    assert result.best.miou == max(t.miou for t in full if t.miou is not None)
    assert load_config(run.best) == result.best.config
    assert load_config(run.trial(0).config).schedule.epochs == 2
    assert export.main([str(run.path), "--out", str(tmp_path / "e.yaml"), "--set", "seed=5"]) == 0
    assert load_config(tmp_path / "e.yaml") == result.best.config.override({"seed": 5})
    assert export.main([str(run.path), "--out", str(tmp_path / "e.yaml"), "--trial", "1"]) == 0
    assert load_config(tmp_path / "e.yaml").schedule.epochs == 4
    assert status.main([str(run.path)]) == 0
    summary = capsys.readouterr().out
    assert "proxy check: rank correlation" in summary
    assert "forecast:    at full length: total time" in summary
    page = write_report(load_study(run.study), run).read_text()
    above, below = page.split("<h2>On the proxy</h2>")
    assert "<h2>At full length</h2>" in above
    assert "proxy check: rank correlation" in above
    # The best.yaml of the search run is no longer that of the best trial on the proxy.
    assert f"segtune retrain {run.path}<" in above
    assert "segtune retrain" not in below
    # A resume trains nothing again.
    before = {t.number: t.seconds for t in full}
    assert run_study(study, tmp_path / "runs", "p", resume=True).best == result.best
    assert {t.number: t.seconds for t in read_trials(run.full)} == before


def test_more_trials_add_to_those_trained_at_full_length(study: Study, tmp_path: Path) -> None:
    run = write_trials(SearchDir(tmp_path / "p"), [0.1, 0.2, 0.3, 0.4])
    first = full_length_study(study, run).points()
    for number, point in enumerate(first):
        write_atomic(run.full.trial(number).params, json.dumps(point))
    write_trials(run, [0.0] * 4 + [0.9])
    again = full_length_study(study, run).points()
    assert again[: len(first)] == first
    assert {"optim.lr": 0.04} in again[len(first) :]


def test_full_length_study_reads_back_if_trial_0_lies_outside_the_space(
    tiny_config: ExperimentConfig, tmp_path: Path
) -> None:
    study = write_study(tmp_path, tiny_config, [1e-2, 1e-1])  # the config's own rate is 1e-3
    run = write_trials(SearchDir(tmp_path / "p"), [0.1, 0.2, 0.3, 0.4])
    write_atomic(run.trial(0).params, json.dumps({"optim.lr": 1e-3}))
    first = full_length_study(study, run)
    assert first.points()[0] == {"optim.lr": 1e-3}
    for number, point in enumerate(first.points()):
        write_atomic(run.full.trial(number).params, json.dumps(point))
    again = full_length_study(study, run)
    assert again.points() == first.points()
    (tmp_path / "full.yaml").write_text(write_yaml(again.dump()))
    assert load_study(tmp_path / "full.yaml") == again


def test_sliding_windows_shrink_with_the_images(tiny_config: ExperimentConfig) -> None:
    windows = {"val.mode": "slide", "val.window": [480, 60], "val.stride": [320, 1]}
    short = shorten(tiny_config.override(windows), ProxyConfig(resolution=0.5))
    assert (short.val.window, short.val.stride) == ((240, 32), (160, 1))
    assert shorten(tiny_config, ProxyConfig(resolution=0.5)).val == tiny_config.val
