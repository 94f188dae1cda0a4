"""`segtune retrain`: a real search on a proxy, its winner at full length, and the comparison."""

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest

import segtune.training.trainer
from segtune import retrain, status
from segtune.__main__ import main as program
from segtune.api import run_study, run_training
from segtune.config.schema import ExperimentConfig, load_config
from segtune.config.yaml_io import write_yaml
from segtune.reporting.html import page
from segtune.runs.atomic import write_atomic
from segtune.runs.records import EpochRecord, ValidationScores
from segtune.runs.results import best_trial, read_trials
from segtune.runs.rundir import SearchDir, TrialDir
from segtune.runs.verdict import Verdict
from segtune.tuning.preparation import prepare_study
from segtune.tuning.retraining import plan_retraining
from segtune.tuning.study import Study
from segtune.tuning.study_reader import load_study


def write_study(folder: Path, config: ExperimentConfig, **search: Any) -> Study:
    tree = {
        "config": config.dump(),
        "space": {"optim.lr": {"loguniform": [1e-4, 1e-2]}},
        "search": {"trials": 2, "scheduler": "none", "sampler": "random", "pictures": 0, **search},
    }
    (folder / "s.yaml").write_text(write_yaml(tree))
    return load_study(folder / "s.yaml")


@pytest.fixture
def study(tiny_config: ExperimentConfig, tmp_path: Path) -> Study:
    return write_study(tmp_path, tiny_config)


@pytest.fixture
def run(study: Study, tmp_path: Path) -> SearchDir:
    """Return a search run of two written trials, of which trial 1 is the best by far."""
    run = SearchDir(tmp_path / "runs" / "a")
    prepare_study(run, study)
    for number, (lr, miou) in enumerate([(1e-3, 0.01), (2e-3, 0.99)]):
        trial = run.trial(number)
        write_atomic(trial.params, json.dumps({"optim.lr": lr}))
        trial.append_epoch(EpochRecord(2, 2, 1.0, validation=ValidationScores(miou, 0.0)))
        trial.write_verdict(Verdict(state="completed", epoch=2))
    return run


def write_noise(run: SearchDir, std: float) -> None:
    scores = {"7": 0.1, "8": 0.1, "9": 0.1}
    write_atomic(run.noise_floor, json.dumps({"std": std, "num_seeds": 3, "scores": scores}))


def record_of(folder: TrialDir) -> dict[str, Any]:
    record = folder.read_retraining()
    assert record is not None
    return record


@pytest.mark.ray
@pytest.mark.slow
def test_winner_of_a_proxy_is_trained_at_full_length(
    cluster: None, tiny_config: ExperimentConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long = tiny_config.override({"schedule.epochs": 4, "schedule.warmup_epochs": 1.0})
    study = write_study(
        tmp_path, long, proxy={"epochs": 2, "num_images": 8, "carry": 2}, cpus_per_worker=1.0
    )
    run = SearchDir(run_study(study, tmp_path / "runs", "p").run)
    assert retrain.main([str(run.path)]) == 0
    printed = capsys.readouterr().out
    winner = best_trial(read_trials(run.full))
    assert winner is not None
    assert f"retrain:     trial {winner.id} of {run.full.path}\nlength:      4 epochs\n" in printed
    assert "seed:        1000; the search trained with 0" in printed
    assert "result:      cannot be judged: " in printed
    assert f"measure it: segtune confirm {run.full.path}" in printed
    trained = load_config(run.retrained.config)
    schedule = trained.schedule
    assert (schedule.epochs, schedule.warmup_epochs, trained.data.num_images) == (4, 1.0, None)
    assert trained.optim.lr == winner.params["optim.lr"]
    assert [record.epoch for record in run.retrained.read_epochs()] == [1, 2, 3, 4]
    assert record_of(run.retrained)["changed"] == {}
    # A trial of the proxy that was not trained at full length is compared with its proxy's score.
    longer = [trial.params for trial in read_trials(run.full)]
    for trial in (trial for trial in read_trials(run) if trial.params not in longer):
        plan = plan_retraining(run, number=trial.number)
        assert (plan.part.path, plan.searched.schedule.epochs) == (run.path, 2)
    assert status.main([str(run.path)]) == 0
    assert f"retrained:   trial {winner.id} cannot be judged: " in capsys.readouterr().out
    assert f"Retrained: trial {winner.id} cannot be judged: " in page(study, run)


def test_score_below_the_noise_falls_short_and_a_later_confirmation_is_used(
    run: SearchDir, capsys: pytest.CaptureFixture[str]
) -> None:
    write_noise(run, 0.001)
    assert retrain.main([str(run.path)]) == 0
    assert "the best of 2 single scores" in capsys.readouterr().out
    record = record_of(run.retrained)
    assert record["outcome"] == "fell short"
    trained = run.retrained.read_epochs()
    score = max(epoch.miou for epoch in trained if epoch.miou is not None)
    assert (record["miou"], record["difference"]) == (score, score - 0.99)
    fresh = {"trial": "0001", "mean": score, "std": 0.01, "scores": {"5": score, "6": score}}
    confirmation = {"baseline": {**fresh, "trial": "0000"}, "candidates": [fresh]}
    write_atomic(run.confirmation, json.dumps(confirmation))
    assert retrain.main([str(run.path), "--resume"]) == 0
    assert "result:      held: " in capsys.readouterr().out
    assert run.retrained.read_epochs() == trained


def test_more_epochs_rescale_what_counts_epochs(run: SearchDir, tmp_path: Path) -> None:
    own = load_study(run.study).config
    plan = plan_retraining(run, epochs=6, overrides=["schedule.val_every=1"])
    schedule = plan.config.schedule
    # Three times as long: 0.5 epochs of warmup become 1.5; --set has the last word.
    assert (schedule.epochs, schedule.warmup_epochs, schedule.val_every) == (6, 1.5, 1)
    assert plan.config.checkpoint.every == 3
    assert {change.name for change in plan.rescaled} == {
        "schedule.epochs",
        "schedule.warmup_epochs",
        "schedule.val_every",
        "checkpoint.every",
    }
    in_steps = own.override({"schedule.warmup_steps": 2})
    other = SearchDir(tmp_path / "runs" / "steps")
    run.path.rename(other.path)
    write_atomic(other.study, write_yaml(write_study(tmp_path, in_steps).dump()))
    assert plan_retraining(other, epochs=6).config.schedule.warmup_steps == 6


def test_interrupted_retraining_continues_with_its_own_command(
    run: SearchDir,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    write_noise(run, 1.0)
    begun = segtune.training.trainer.Trainer.epochs

    def one_epoch(trainer: Any, should_stop: Any = None) -> Any:
        yield next(begun(trainer, should_stop))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(segtune.training.trainer.Trainer, "epochs", one_epoch)
        assert retrain.main([str(run.path), "--trial", "0", "--seed", "7"]) == 130
    out = run.retrained.path
    command = f"segtune retrain {run.path} --out {out} --resume"
    assert f"continue with: {command}" in caplog.text
    assert record_of(run.retrained)["outcome"] is None
    capsys.readouterr()
    assert status.main([str(run.path)]) == 0
    assert "retrained:   trial 0000 has not ended" in capsys.readouterr().out
    assert program(command.split()[1:]) == 0
    record = record_of(run.retrained)
    assert (record["trial"], record["seed"], record["outcome"]) == ("0000", 7, "held")
    # On a CPU, the same as without the interruption.
    whole = run_training(load_config(run.retrained.config), run.path / "whole")
    assert whole.best_miou == record["miou"]


def test_refusals_say_the_way_out(run: SearchDir, capsys: pytest.CaptureFixture[str]) -> None:
    def refusal(*words: str) -> str:
        with contextlib.suppress(SystemExit):  # of argparse
            assert retrain.main(list(words)) == 2
        return capsys.readouterr().err

    assert "no trial 9; trials: 0000, 0001" in refusal(str(run.path), "--trial", "9")
    assert "no retraining has begun here" in refusal(str(run.path), "--resume")
    assert "not allowed with argument --resume" in refusal(str(run.path), "--resume", "--seed", "1")
    assert "argument --epochs: allowed is whole number >= 1" in refusal(str(run.path), "--epochs=0")
    assert "no such folder" in refusal(str(run.path.parent / "b"))
    write_atomic(run.path.parent / "c" / "config.yaml", "")
    write_atomic(run.path.parent / "c" / "verdict.json", "")
    assert "a single training run" in refusal(str(run.path.parent / "c"))
    run.retrained.append_epoch(EpochRecord(1))
    assert "replace it with --overwrite" in refusal(str(run.path))
    verdict = Verdict(state="unhealthy", kind="diverged")
    write_atomic(run.trial(1).verdict, json.dumps(verdict.dump()))
    assert "trial 0001 is unhealthy (diverged: )" in refusal(
        str(run.path), "--trial", "1", "--overwrite"
    )
    write_atomic(run.trial(0).verdict, json.dumps(verdict.dump()))
    assert "no healthy trial with a validation" in refusal(str(run.path), "--overwrite")


def test_overwrite_that_is_interrupted_leaves_nothing_of_the_earlier_retraining(
    run: SearchDir, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert retrain.main([str(run.path)]) == 0

    def interrupt(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("segtune.api_retrain.run_training_on_workers", interrupt)
        assert retrain.main([str(run.path), "--trial", "0", "--overwrite"]) == 130
    assert run.retrained.read_verdict() is None
    assert retrain.main([str(run.path), "--resume"]) == 0
    record = record_of(run.retrained)
    assert record["trial"] == "0000"
    config = load_config(run.retrained.config)
    assert config.optim.lr == 1e-3  # of trial 0; the earlier retraining had 2e-3


def test_retraining_of_another_search_run_is_not_resumed(
    run: SearchDir, study: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert retrain.main([str(run.path)]) == 0
    other = SearchDir(tmp_path / "runs" / "b")
    prepare_study(other, study)
    trial = other.trial(1)
    write_atomic(trial.params, json.dumps({"optim.lr": 5e-3}))
    trial.append_epoch(EpochRecord(2, 2, 1.0, validation=ValidationScores(0.3, 0.0)))
    trial.write_verdict(Verdict(state="completed", epoch=2))
    out = str(run.retrained.path)
    assert retrain.main([str(other.path), "--out", out, "--resume"]) == 2
    assert "belongs to another search run" in capsys.readouterr().err
