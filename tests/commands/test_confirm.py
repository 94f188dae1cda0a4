"""`segtune confirm`: fresh seeds on a real Ray, its record, and what other commands say of it."""

import json
from pathlib import Path
from typing import Any

import pytest

from segtune import confirm, export, status
from segtune.__main__ import main as program
from segtune.api import run_study
from segtune.api_confirm import ConfirmEvents, confirm_run
from segtune.config.schema import ExperimentConfig, load_config
from segtune.config.yaml_io import write_yaml
from segtune.reporting.html import page
from segtune.runs.atomic import write_atomic
from segtune.runs.records import EpochRecord, ValidationScores
from segtune.runs.results import read_trials
from segtune.runs.rundir import SearchDir, TrialDir
from segtune.runs.verdict import State, Verdict
from segtune.tuning.confirm_study import confirm_study, plan_confirmation
from segtune.tuning.preparation import prepare_study
from segtune.tuning.study import Study
from segtune.tuning.study_reader import load_study

NOT_CONFIRMED = "one training run each, so a difference below the noise means nothing"


@pytest.fixture
def study_file(tiny_config: ExperimentConfig, tmp_path: Path) -> Path:
    """Return the file of a study of two trials."""
    tree = {
        "config": tiny_config.dump(),
        "space": {"optim.lr": {"loguniform": [1e-5, 1e-1]}},
        "search": {
            "trials": 2,
            "scheduler": "none",
            "sampler": "random",
            "cpus_per_worker": 1.0,
            "pictures": 0,
        },
    }
    (tmp_path / "s.yaml").write_text(write_yaml(tree))
    return tmp_path / "s.yaml"


def end(trial: TrialDir, params: dict[str, Any], miou: float, state: State = "completed") -> None:
    """Write a trial of one epoch."""
    write_atomic(trial.params, json.dumps(params))
    trial.append_epoch(EpochRecord(1, 1, 1.0, validation=ValidationScores(miou, 0.0)))
    kind = "diverged" if state == "unhealthy" else ""
    trial.write_verdict(Verdict(state=state, kind=kind, epoch=1))


@pytest.fixture
def study(study_file: Path) -> Study:
    return load_study(study_file)


@pytest.fixture
def run(study: Study, tmp_path: Path) -> SearchDir:
    """Return a search run whose trial 1 has 30 mIoU more than the config itself."""
    run = SearchDir(tmp_path / "runs" / "a")
    prepare_study(run, study)
    end(run.trial(0), {"optim.lr": 1e-3}, 0.2)
    end(run.trial(1), {"optim.lr": 1e-2}, 0.5)
    return run


def write_fresh(run: SearchDir, study: Study, scores: list[float | None]) -> None:
    """Write the fresh training runs of trials 0 and 1 in their order; None is an unhealthy one."""
    fresh = confirm_study(study, run, plan_confirmation(study, run, 1, len(scores) // 2))
    prepare_study(run.confirm, fresh)
    for number, (point, miou) in enumerate(zip(fresh.points(), scores, strict=True)):
        state = "unhealthy" if miou is None else "completed"
        end(run.confirm.trial(number), point, miou or 0.0, state)


def test_gain_is_that_of_the_fresh_seeds(
    run: SearchDir, study: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_fresh(run, study, [0.20, 0.30, 0.22, 0.33, 0.21, 0.30])
    out = tmp_path / "c.json"
    assert confirm.main([str(run.path), "--json", str(out)]) == 0
    printed = capsys.readouterr().out
    # Differences 10, 11 and 9: mean 10, standard deviation 1, t of 2 degrees of freedom 4.303.
    sentence = "trial 0001 is better than the config itself by 10.0 ± 2.5 mIoU (3 fresh seeds, p "
    assert f"result:      {sentence}0.0033)" in printed
    assert f"report:      {run.report}" in printed
    assert "better than the config itself by 10.0 ± 2.5 mIoU" in run.report.read_text()
    record = json.loads(out.read_text())
    assert record == json.loads(run.confirmation.read_text())
    assert record["seeds"] == [1000, 1001, 1002]
    (row,) = record["candidates"]
    assert (row["search_miou"], row["outcome"]) == (0.5, "better")
    assert row["differences"] == pytest.approx([0.10, 0.11, 0.09])
    assert row["runs"] == {
        "1000": "confirm/trials/0001",
        "1001": "confirm/trials/0003",
        "1002": "confirm/trials/0005",
    }


def test_command_for_more_seeds_is_printed_and_a_further_look_is_counted(
    run: SearchDir, study: Study, capsys: pytest.CaptureFixture[str]
) -> None:
    write_fresh(run, study, [0.20, 0.30, 0.21, 0.25])
    assert confirm.main([str(run.path), "--seeds", "2"]) == 0
    printed = capsys.readouterr().out
    assert "trial 0001 is within the noise of the config itself: +7.0 ± 38.1 mIoU" in printed
    assert f"trial 0001 is better: segtune confirm {run.path} --top 1 --seeds " in printed
    assert confirm.main([str(run.path), "--seeds", "2"]) == 0
    assert len(json.loads(run.confirmation.read_text())["looks"]) == 1
    for number, (seed, lr, miou) in enumerate([(1002, 1e-3, 0.2), (1002, 1e-2, 0.3)], 4):
        end(run.confirm.trial(number), {"optim.lr": lr, "seed": seed}, miou)
    capsys.readouterr()
    assert confirm.main([str(run.path)]) == 0
    assert len(json.loads(run.confirmation.read_text())["looks"]) == 2
    assert "look 2 at these trials, so p is multiplied by 2" in capsys.readouterr().out


def test_candidate_with_an_unhealthy_seed_is_not_called_better(
    run: SearchDir, study: Study, capsys: pytest.CaptureFixture[str]
) -> None:
    write_fresh(run, study, [0.20, 0.30, 0.22, None, 0.21, 0.30])
    # No candidate could be tested.
    assert confirm.main([str(run.path)]) == 3
    printed = capsys.readouterr().out
    assert "trial 0001, seed 1001: unhealthy (diverged: )" in printed
    assert "trial 0001 is not called better: 1 of 3 seeds did not complete" in printed


def test_every_command_that_names_a_winner_says_whether_it_is_confirmed(
    run: SearchDir, study: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    commands = (
        lambda: status.main([str(run.path)]),
        lambda: export.main([str(run.path), "--out", str(tmp_path / "b.yaml")]),
        lambda: print(page(study, run)),
    )

    def outputs() -> list[str]:
        printed = []
        for command in commands:
            command()
            printed.append(capsys.readouterr().out.replace("&#39;", "'"))
        return printed

    for text in outputs():
        assert NOT_CONFIRMED in text
        assert f"segtune confirm {run.path}" in text
    write_fresh(run, study, [0.20, 0.30, 0.22, 0.33, 0.21, 0.30])
    assert confirm.main([str(run.path)]) == 0
    capsys.readouterr()
    sentence = "trial 0001 is better than the config itself by 10.0 ± 2.5 mIoU"
    assert all(sentence in text for text in outputs())
    # A trial that became the best afterwards was not confirmed.
    end(run.trial(2), {"optim.lr": 2e-2}, 0.6)
    became = "trial 0002 became the best after the confirmation"
    assert all(became in text for text in outputs())


def test_search_that_has_not_ended_is_confirmed_with_a_warning(
    run: SearchDir, study: Study, caplog: pytest.LogCaptureFixture
) -> None:
    write_fresh(run, study, [0.20, 0.30, 0.22, 0.33, 0.21, 0.30])
    assert confirm.main([str(run.path)]) == 0
    assert not caplog.messages
    run.trial(1).verdict.unlink()
    assert confirm.main([str(run.path)]) == 0
    assert "only 1 of 2 trials have ended, so its best trials may change" in caplog.text


def test_mistake_is_one_message(run: SearchDir, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        confirm.main([str(run.path), "--seeds", "1"])
    assert "argument --seeds: allowed is whole number >= 2; got 1" in capsys.readouterr().err
    with run.locked():
        assert confirm.main([str(run.path)]) == 2
    assert "is running here; wait until it ends, or end it with: segtune stop" in (
        capsys.readouterr().err
    )
    assert program(["confirm", str(run.path / "trials")]) == 2
    assert f"it belongs to the search run {run.path}" in capsys.readouterr().err


def test_confirmation_itself_is_neither_confirmed_nor_exported(
    run: SearchDir, study: Study, capsys: pytest.CaptureFixture[str]
) -> None:
    write_fresh(run, study, [0.20, 0.30, 0.22, 0.33])
    assert confirm.main([str(run.confirm.path)]) == 2
    assert f"confirm the search run {run.path}" in capsys.readouterr().err
    assert export.main([str(run.confirm.path)]) == 2
    assert f"repeats trials of {run.path}; export that folder" in capsys.readouterr().err
    assert status.main([str(run.confirm.path)]) == 0
    printed = capsys.readouterr().out
    assert "0001-1001" in printed
    assert "best:" not in printed


class StopAtOnce(ConfirmEvents):
    """Ends a confirmation before its first training run."""

    def __init__(self, run: SearchDir) -> None:
        self.run = run

    def on_placement(self, study: Study, placement: str, dashboard_url: str) -> None:
        write_atomic(self.run.confirm.stop_request, "stop\n")


@pytest.mark.ray
@pytest.mark.slow
def test_confirmation_on_ray_continues_the_noise_floor_and_can_be_stopped(
    cluster: None, study_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = load_study(study_file, overrides=["schedule.epochs=1"], search={"noise_floor": 2})
    run = SearchDir(run_study(study, tmp_path / "runs", "a").run)
    assert [trial.number for trial in read_trials(run)] == [0, 1]
    fresh = read_trials(run.confirm)
    assert [trial.params["seed"] for trial in fresh] == [1000, 1001]
    record = run.read_noise_floor()
    assert record is not None
    scores = [trial.miou for trial in fresh if trial.miou is not None]
    assert record["scores"] == {"1000": scores[0], "1001": scores[1]}
    # Of two numbers, the standard deviation is their distance over the root of 2.
    assert record["std"] == pytest.approx(abs(scores[0] - scores[1]) / 2**0.5)
    assert status.main([str(run.path)]) == 0
    assert "mIoU (standard deviation of 2 fresh seeds); confirm it: " in capsys.readouterr().out

    best = load_config(run.best)
    assert confirm_run(run.path, seeds=2, events=StopAtOnce(run)).record is None
    assert not run.confirmation.exists()
    result = confirm_run(run.path, seeds=2)
    assert result.record is not None
    trials = read_trials(run.confirm)
    assert [trial.state for trial in trials] == ["completed"] * 4
    assert [trial.params["seed"] for trial in trials] == [1000, 1001, 1000, 1001]
    searched = load_config(run.trial(1).config)
    assert load_config(run.confirm.trial(3).config) == searched.override({"seed": 1001})
    (row,) = result.record["candidates"]
    assert row["scores"] == {"1000": trials[2].miou, "1001": trials[3].miou}
    # The training runs of the noise floor were complete, and are not repeated.
    assert [len(run.confirm.trial(number).read_attempts()) for number in (0, 1)] == [1, 1]
    # The best config stays that of the search, and the best seed is not the best of anything.
    assert load_config(run.best) == best
    assert result.record["sentence"] in run.best.read_text()
    assert not run.confirm.best.exists()
