"""Laws of the moving average of the weights: its formula, and what is validated and saved."""

from pathlib import Path

import pytest
import torch
from torch import nn

from segtune.api import run_training
from segtune.config.schema import ExperimentConfig
from segtune.runs.rundir import TrialDir
from segtune.training import checkpoint
from segtune.training.distributed import Ranks
from segtune.training.trainer import Trainer
from segtune.training.weight_average import WeightAverage


def constant_layer(value: float) -> nn.Linear:
    layer = nn.Linear(1, 1, bias=False)
    nn.init.constant_(layer.weight, value)
    return layer


def test_average_moves_by_one_minus_the_decay_and_faster_at_the_start() -> None:
    layer = constant_layer(0.0)
    average = WeightAverage(layer, 0.5)
    nn.init.constant_(layer.weight, 1.0)
    average.update(1)  # decay min(0.5, 2 / 11)
    with average.applied():
        assert layer.weight.item() == pytest.approx(9 / 11)
    assert layer.weight.item() == 1.0
    average.update(100)
    with average.applied():
        assert layer.weight.item() == pytest.approx(10 / 11)


def test_weights_return_if_the_block_fails() -> None:
    layer = constant_layer(1.0)
    average = WeightAverage(layer, 0.5)
    nn.init.constant_(layer.weight, 2.0)
    with pytest.raises(RuntimeError), average.applied():
        raise RuntimeError
    assert layer.weight.item() == 2.0


@pytest.fixture
def averaged(tiny_config: ExperimentConfig) -> ExperimentConfig:
    return tiny_config.override({"optim.ema": 0.9, "schedule.epochs": 3})


def test_what_is_validated_is_what_the_best_checkpoint_holds(
    averaged: ExperimentConfig, tmp_path: Path
) -> None:
    trainer = Trainer.start(averaged, TrialDir(tmp_path), Ranks())
    records = list(trainer.epochs())
    path = checkpoint.best_checkpoint(tmp_path / "checkpoints")
    assert path
    saved = checkpoint.load_weights(path)
    trained = trainer.network.state_dict()
    assert any(not torch.equal(saved[name], value) for name, value in trained.items())
    trainer.average = None
    trainer.network.load_state_dict(saved)
    assert trainer._validate().miou == max(record.miou or 0 for record in records)


def test_average_goes_on_after_a_resume_as_if_unbroken(
    averaged: ExperimentConfig, tmp_path: Path
) -> None:
    run_training(averaged, tmp_path / "unbroken")
    broken = Trainer.start(averaged, TrialDir(tmp_path / "broken"), Ranks())
    next(broken.epochs())
    run_training(averaged, tmp_path / "broken", resume=True)
    first, second = (
        checkpoint.load_weights(next((tmp_path / name / "checkpoints").glob("last-00003")))
        for name in ("unbroken", "broken")
    )
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_a_step_that_is_not_finite_leaves_the_average_finite(
    averaged: ExperimentConfig, tmp_path: Path
) -> None:
    changes = {"optim.name": "sgd", "optim.lr": 1e30, "schedule.warmup_epochs": 0.0}
    trainer = Trainer.start(averaged.override(changes), TrialDir(tmp_path), Ranks())
    list(trainer.epochs())
    assert trainer.verdict
    assert trainer.verdict.kind == "non-finite"
    assert trainer.average
    with trainer.average.applied():
        assert all(p.isfinite().all() for p in trainer.network.parameters())
