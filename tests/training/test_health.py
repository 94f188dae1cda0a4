"""Laws of health: hopeless training ends with evidence and advice; slow training goes on."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from segtune.config.schema import ExperimentConfig, load_config
from segtune.runs.records import EpochRecord, ValidationScores
from segtune.runs.verdict import Verdict
from segtune.training.health import HealthMonitor, out_of_memory

# One epoch of a model that predicts no better than a constant.
STUCK = {
    "loss": 1.0,
    "lr": 0.1,
    "miou": 0.1,
    "constant_miou": 0.1,
    "top_class": "sky",
    "top_share": 0.5,
    "gradient_left": 1.0,
    "weight_growth": 1.1,
}


def judge_steps(
    config: ExperimentConfig,
    *,
    losses: Sequence[float],
    grad_norms: Sequence[float] | None = None,
    scaled: bool = False,
) -> list[Verdict | None]:
    """Return a verdict or None for each step, from step 1."""
    monitor = HealthMonitor(config)
    steps = enumerate(zip(losses, grad_norms or [1.0] * len(losses), strict=True), 1)
    return [
        monitor.step(epoch=0, step=step, loss=loss, grad_norm=norm, lr=0.1, scaled=scaled)
        for step, (loss, norm) in steps
    ]


def first_verdict(verdicts: Iterable[Verdict | None]) -> Verdict | None:
    return next((verdict for verdict in verdicts if verdict), None)


def records_of(mious: Sequence[float]) -> list[EpochRecord]:
    """Return one record per epoch; a constant prediction has an mIoU of 0.1."""
    return [
        EpochRecord(epoch, step=epoch, losses={"loss": 1.0}, validation=ValidationScores(miou, 0.1))
        for epoch, miou in enumerate(mious, 1)
    ]


def stuck_records(num_epochs: int, changes: dict[str, Any] | None = None) -> list[EpochRecord]:
    """Return the records of a model that learns nothing, with 50 steps per epoch."""
    row = STUCK | (changes or {})
    return [
        EpochRecord.from_row({**row, "epoch": epoch, "step": 50 * epoch})
        for epoch in range(1, num_epochs + 1)
    ]


def judge(config: ExperimentConfig, records: Iterable[EpochRecord]) -> list[Verdict | None]:
    """Return a verdict or None for each epoch."""
    monitor = HealthMonitor(config)
    return [monitor.validation(record) for record in records]


def kinds(verdicts: Iterable[Verdict | None]) -> list[str]:
    return [verdict.kind if verdict else "" for verdict in verdicts]


def test_scaler_may_skip_some_steps_in_a_row_but_not_many(tiny_config: ExperimentConfig) -> None:
    config = tiny_config.override({"health.max_skipped_steps": 3, "optim.precision": "fp16"})
    grad_norms = [math.inf] * 2 + [1.0] + [math.inf] * 3
    verdicts = judge_steps(config, losses=[1.0] * 6, grad_norms=grad_norms, scaled=True)
    assert kinds(verdicts) == [""] * 5 + ["non-finite"]
    assert kinds(judge_steps(config, losses=[math.nan], scaled=True)) == ["non-finite"]


def test_without_a_scaler_one_infinite_gradient_is_enough(tiny_config: ExperimentConfig) -> None:
    verdicts = judge_steps(tiny_config, losses=[1.0], grad_norms=[math.inf])
    assert kinds(verdicts) == ["non-finite"]


def test_loss_far_above_its_start_is_divergence_with_its_numbers(
    tiny_config: ExperimentConfig,
) -> None:
    verdict = first_verdict(judge_steps(tiny_config, losses=[1.0] * 5 + [50.0] * 20))
    assert verdict is not None
    assert (verdict.kind, verdict.step) == ("diverged", 11)
    assert "1 at the start" in verdict.evidence
    assert "50 times" in verdict.evidence
    assert verdict.advice == "try optim.lr 0.0001 or optim.clip_norm 2"


def test_nan_of_ade20k_v1_2_is_answered_with_the_changes_of_v1_3() -> None:
    config = load_config("configs/ade20k_segformer_b2_v1_2.yaml")
    skipped = config.health.max_skipped_steps
    verdict = first_verdict(
        judge_steps(config, losses=[0.8] * skipped, grad_norms=[math.nan] * skipped, scaled=True)
    )
    assert verdict
    assert verdict.kind == "non-finite"
    assert verdict.advice == (
        "try optim.precision auto, bf16 or fp32, or optim.lr 3e-06 or optim.clip_norm 2 or "
        "optim.head_lr_mult 3"
    )


@pytest.mark.parametrize(
    "losses", [[1.0] + [19.0] * 50, ([1.0] * 6 + [1e6] * 4) * 5, [0.5, 0.01, 0.001] * 20]
)
def test_spikes_and_small_losses_are_no_divergence(
    tiny_config: ExperimentConfig, losses: list[float]
) -> None:
    assert first_verdict(judge_steps(tiny_config, losses=losses)) is None


def test_gradient_that_explodes_is_divergence(tiny_config: ExperimentConfig) -> None:
    grad_norms = [1.0] * 20 + [2000.0] * 10
    verdict = first_verdict(judge_steps(tiny_config, losses=[1.0] * 30, grad_norms=grad_norms))
    assert verdict is not None
    assert (verdict.kind, verdict.step) == ("diverged", 26)
    assert verdict.evidence.startswith("the gradient norm was 1 at the start and is 2000")


def test_miou_that_falls_by_half_and_stays_there_is_forgetting(
    tiny_config: ExperimentConfig,
) -> None:
    verdict = first_verdict(judge(tiny_config, records_of([0.3, 0.6, 0.2, 0.1, 0.1])))
    assert verdict is not None
    assert (verdict.kind, verdict.epoch) == ("forgetting", 4)
    assert "mIoU was 60.0" in verdict.evidence


@pytest.mark.parametrize(
    "mious", [[0.6, 0.2, 0.6, 0.2], [0.6, 0.31, 0.31, 0.31], [0.1, 0.19, 0.05, 0.05, 0.05]]
)
def test_single_low_validation_small_fall_and_slow_start_are_no_forgetting(
    tiny_config: ExperimentConfig, mious: list[float]
) -> None:
    assert first_verdict(judge(tiny_config, records_of(mious))) is None


def test_miou_of_the_initial_weights_can_be_forgotten(tiny_config: ExperimentConfig) -> None:
    records = [replace(record, init_miou=0.6) for record in records_of([0.1, 0.1])]
    first, second = judge(tiny_config, records)
    assert first is None
    assert second is not None
    assert second.evidence.startswith(
        "mIoU was 60.0 and is below 50 % of that for 2 validations, now 10.0"
    )


def test_replayed_monitor_judges_as_one_that_never_stopped(tiny_config: ExperimentConfig) -> None:
    monitor = HealthMonitor(tiny_config)
    records = records_of([0.6, 0.1, 0.1])
    monitor.replay(records[:2])
    assert monitor.first_loss == 1.0
    assert monitor.validation(records[2]) == judge(tiny_config, records)[2]
    assert kinds(judge(tiny_config, records)) == ["", "", "forgetting"]


def test_epoch_without_a_validation_is_not_judged(tiny_config: ExperimentConfig) -> None:
    config = tiny_config.override({"schedule.epochs": 20})
    records = [replace(record, validation=None) for record in stuck_records(20)]
    assert kinds(judge(config, records)) == [""] * 20


@pytest.mark.parametrize(
    ("changes", "kind", "epoch"),
    [
        ({}, "no-progress", 15),
        ({"top_share": 0.9995}, "collapsed", 15),
        ({"gradient_left": 0.01}, "vanishing", 8),
        ({"weight_growth": 30.0}, "diverged", 1),
        ({"weight_growth": None}, "diverged", 1),
    ],
)
def test_model_that_learns_nothing_ends_with_its_kind_after_its_patience(
    tiny_config: ExperimentConfig, changes: dict[str, Any], kind: str, epoch: int
) -> None:
    config = tiny_config.override({"schedule.epochs": 20})
    verdict = first_verdict(judge(config, stuck_records(20, changes)))
    assert verdict is not None
    assert (verdict.kind, verdict.epoch) == (kind, epoch)


@pytest.mark.parametrize(
    "changes",
    [
        {"miou": 0.12},
        {"miou": 0.12, "gradient_left": 0.01},
        {"miou": 0.2, "weight_growth": 30.0},
    ],
)
def test_model_that_is_better_than_a_constant_goes_on(
    tiny_config: ExperimentConfig, changes: dict[str, Any]
) -> None:
    config = tiny_config.override({"schedule.epochs": 20})
    assert kinds(judge(config, stuck_records(20, changes))) == [""] * 20


def test_training_run_of_a_few_epochs_is_left_alone(tiny_config: ExperimentConfig) -> None:
    config = tiny_config.override({"schedule.epochs": 4, "schedule.warmup_epochs": 0.0})
    assert kinds(judge(config, stuck_records(4))) == [""] * 4


def test_training_run_of_a_few_steps_is_left_alone(tiny_config: ExperimentConfig) -> None:
    config = tiny_config.override({"schedule.epochs": 20})
    records = [replace(record, step=7 * record.epoch) for record in stuck_records(20)]
    assert kinds(judge(config, records)) == [""] * 20


def test_patience_does_not_grow_with_a_long_schedule(tiny_config: ExperimentConfig) -> None:
    config = tiny_config.override(
        {"schedule.epochs": 2000, "schedule.warmup_epochs": 5.0, "health.stuck_steps": 500}
    )
    verdict = first_verdict(judge(config, stuck_records(20)))
    assert verdict is not None
    assert (verdict.kind, verdict.epoch) == ("no-progress", 15)


def test_collapse_counts_from_its_latest_start(tiny_config: ExperimentConfig) -> None:
    config = tiny_config.override({"schedule.epochs": 14, "health.stuck_share": 0.571})
    constant = stuck_records(13, {"top_share": 1.0, "miou": 0.1})
    varied = stuck_records(13, {"top_share": 0.5, "miou": 0.2})
    records = [
        other if other.epoch in (1, 4) else same
        for same, other in zip(constant, varied, strict=True)
    ]
    verdicts = kinds(judge(config, records))
    assert verdicts.index("collapsed") + 1 == 12


@pytest.mark.parametrize(
    ("num_fitting", "advice"),
    [(2, "2 fit: try schedule.accumulate 4, or schedule.batch_size 2"), (0, "not even one image")],
)
def test_out_of_memory_advises_a_step_that_fits(
    tiny_config: ExperimentConfig, num_fitting: int, advice: str
) -> None:
    verdict = out_of_memory(
        tiny_config,
        epoch=0,
        step=0,
        num_images=8,
        num_fitting=num_fitting,
        message="CUDA out of memory. Tried to allocate 2 GiB",
    )
    assert (verdict.state, verdict.kind) == ("unhealthy", "out-of-memory")
    assert verdict.advice.startswith(advice)
    assert "8 images of 64 x 64 pixels" in verdict.evidence
    assert "CUDA out of memory" in verdict.evidence
