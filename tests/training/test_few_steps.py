"""A few steps at the peak learning rate: how long they take, how they end, what they hold."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from segtune.config.schema import ExperimentConfig
from segtune.runs.rundir import TrialDir
from segtune.training import checkpoint
from segtune.training.distributed import Ranks
from segtune.training.few_steps import checkpoint_bytes, few_steps, seconds_per_val_image
from segtune.training.health import HealthMonitor
from segtune.training.memory import PeakMemory
from segtune.training.trainer import Trainer

Start = Callable[..., Trainer]


@pytest.fixture
def start(tiny_config: ExperimentConfig, tmp_path: Path) -> Start:
    """Start a trainer of the tiny config with changes."""

    def run(**changes: object) -> Trainer:
        config = tiny_config.override(changes)
        return Trainer.start(config, TrialDir(tmp_path / "trial"), Ranks())

    return run


def test_the_steps_are_taken_at_the_peak_in_spite_of_a_warmup(start: Start) -> None:
    trainer = start(**{"schedule.warmup_epochs": 1.0, "schedule.warmup_start": 1e-6})
    before = [parameter.detach().clone() for parameter in trainer.network.parameters()]
    steps = few_steps(trainer, 2)
    assert (len(steps.seconds), steps.verdict) == (2, None)
    moved = zip(before, trainer.network.parameters(), strict=True)
    # A step of AdamW moves a weight by about the learning rate, which is 1e-3.
    assert max(float((a - b.detach()).abs().max()) for a, b in moved) > 1e-3


def test_accumulated_batches_are_one_step(start: Start) -> None:
    trainer = start(**{"schedule.accumulate": 4})
    assert len(few_steps(trainer, 3).seconds) == 3
    assert trainer.step == 3


def test_a_training_run_with_fewer_steps_ends_earlier(start: Start) -> None:
    # Three steps per epoch.
    assert len(few_steps(start(**{"schedule.epochs": 1}), 10).seconds) == 3


def test_a_loss_that_explodes_within_four_steps_has_diverged(
    tiny_config: ExperimentConfig,
) -> None:
    monitor = HealthMonitor(tiny_config)
    assert monitor.first_steps([1.0, 15.0, 18.0, 12.0], lr=0.1) is None
    # The median of the later losses, so a single high one does not count.
    assert monitor.first_steps([1.0, 900.0, 2.0, 3.0], lr=0.1) is None
    verdict = monitor.first_steps([0.5, 20.0, 30.0, 40.0], lr=0.1)
    assert verdict
    assert (verdict.state, verdict.kind, verdict.step) == ("unhealthy", "diverged", 4)
    assert verdict.evidence == (
        "the loss was 0.5 at step 1 and is 30 (60 times that) over steps 2 to 4, learning rate 0.1"
    )
    assert monitor.first_steps([], lr=0.1) is None
    assert monitor.first_steps([0.0, 9.0, 9.0], lr=0.1) is None


@pytest.mark.parametrize("ema", [None, 0.999])
def test_the_size_of_a_checkpoint_is_that_of_its_files(
    start: Start, tmp_path: Path, ema: float | None
) -> None:
    trainer = start(**{"optim.ema": ema, "schedule.epochs": 1})
    estimated = 0
    for _ in trainer.epochs():
        estimated = checkpoint_bytes(trainer)
    last = checkpoint.last_good(trainer.out.checkpoints)
    assert last
    written = sum(path.stat().st_size for path in last[0].iterdir())
    assert written == pytest.approx(estimated, rel=0.05)


def test_validation_is_timed_per_image(start: Start) -> None:
    assert 0 < seconds_per_val_image(start()) < 60


def test_the_peak_of_memory_counts_from_its_own_start() -> None:
    first = PeakMemory(torch.device("cpu"))
    torch.zeros(30_000_000).add_(1)
    second = PeakMemory(torch.device("cpu"))
    torch.zeros(10_000_000).add_(1)
    first_peak, second_peak = first.read(), second.read()
    assert first_peak is not None
    assert second_peak is not None
    assert 35e6 < second_peak < 80e6
