"""Laws of health: what is hopeless ends with its numbers and an advice, what is only noisy or slow goes on."""

import math

import pytest

from segtune.distributed import Ranks
from segtune.health import HealthMonitor
from segtune.rundir import TrialDir
from segtune.trainer import Trainer


def test_scaler_may_skip_some_steps_but_not_for_ever(tiny_config):
    monitor = HealthMonitor(tiny_config.override({"health.max_skipped_steps": 3, "optim.precision": "fp16"}))
    numbers = {"epoch": 0, "loss": 1.0, "lr": 0.1, "scaled": True}
    ends = [monitor.step(step=i, grad_norm=norm, **numbers) for i, norm in enumerate([float("inf")] * 2 + [1.0] + [float("inf")] * 3)]
    assert [e is not None for e in ends] == [False] * 5 + [True]
    assert monitor.step(step=9, grad_norm=1.0, **{**numbers, "loss": float("nan")}) is not None


def steps(monitor, losses, lr=0.1):
    for number, loss in enumerate(losses, 1):
        verdict = monitor.step(epoch=0, step=number, loss=loss, grad_norm=1.0, lr=lr, scaled=False)
        if verdict:
            return verdict
    return None


def test_loss_far_above_its_start_is_divergence_with_its_numbers(tiny_config):
    verdict = steps(HealthMonitor(tiny_config), [1.0] * 5 + [50.0] * 20)
    assert verdict is not None
    assert (verdict.kind, verdict.step) == ("diverged", 11)
    assert "1 at the start" in verdict.evidence
    assert "50 times" in verdict.evidence
    assert verdict.advice == "try optim.lr 0.0001 or optim.clip_norm 1.0"


@pytest.mark.parametrize("losses", [[1.0] + [19.0] * 50, ([1.0] * 6 + [1e6] * 4) * 5, [0.5, 0.01, 0.001] * 20])
def test_spikes_and_small_losses_are_no_divergence(tiny_config, losses):
    assert steps(HealthMonitor(tiny_config), losses) is None


def rows(mious, constant=0.1):
    return [{"epoch": e, "step": e, "loss": 1.0, "miou": m, "constant_miou": constant} for e, m in enumerate(mious, 1)]


def first_verdict(config, mious):
    monitor = HealthMonitor(config)
    return next((v for v in map(monitor.validation, rows(mious)) if v), None)


def test_mean_iou_that_falls_by_half_and_stays_is_forgetting(tiny_config):
    verdict = first_verdict(tiny_config, [0.3, 0.6, 0.2, 0.1, 0.1])
    assert verdict is not None
    assert (verdict.kind, verdict.epoch) == ("forgetting", 4)
    assert "mIoU was 60.0" in verdict.evidence


@pytest.mark.parametrize("mious", [[0.6, 0.2, 0.6, 0.2], [0.6, 0.31, 0.31, 0.31], [0.1, 0.19, 0.05, 0.05, 0.05]])
def test_one_bad_validation_a_smaller_fall_and_a_slow_start_are_not(tiny_config, mious):
    assert first_verdict(tiny_config, mious) is None


def test_resumed_monitor_remembers(tiny_config):
    monitor = HealthMonitor(tiny_config)
    monitor.replay(rows([0.6, 0.1]))
    assert monitor.validation(rows([0.6, 0.1, 0.1])[-1]) is not None
    assert math.isclose(monitor.first_loss or 0, 1.0)


def test_real_run_at_a_rate_of_ten_is_told_diverged_before_its_end(tiny_config, tmp_path):
    changes = {"optim.lr": 10.0, "schedule.epochs": 20, "loss.focal.form": "softmax", "schedule.warmup_epochs": 0.0}
    trainer = Trainer(tiny_config.override(changes), TrialDir(tmp_path / "a"), Ranks())
    epochs = list(trainer.epochs())
    verdict = TrialDir(tmp_path / "a").read_verdict()
    assert verdict is not None
    assert verdict.kind in ("diverged", "non-finite")
    assert len(epochs) < 10
