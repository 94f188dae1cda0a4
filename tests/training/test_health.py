"""Laws of health: what is hopeless ends with its numbers and an advice, what is only noisy or slow goes on."""

import math

import pytest

from segtune.training.health import HealthMonitor, out_of_memory


def test_scaler_may_skip_some_steps_but_not_for_ever(tiny_config):
    monitor = HealthMonitor(
        tiny_config.override({"health.max_skipped_steps": 3, "optim.precision": "fp16"})
    )
    numbers = {"epoch": 0, "loss": 1.0, "lr": 0.1, "scaled": True}
    ends = [
        monitor.step(step=i, grad_norm=norm, **numbers)
        for i, norm in enumerate([float("inf")] * 2 + [1.0] + [float("inf")] * 3)
    ]
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


@pytest.mark.parametrize(
    "losses", [[1.0] + [19.0] * 50, ([1.0] * 6 + [1e6] * 4) * 5, [0.5, 0.01, 0.001] * 20]
)
def test_spikes_and_small_losses_are_no_divergence(tiny_config, losses):
    assert steps(HealthMonitor(tiny_config), losses) is None


def rows(mious, constant=0.1):
    return [
        {"epoch": e, "step": e, "loss": 1.0, "miou": m, "constant_miou": constant}
        for e, m in enumerate(mious, 1)
    ]


def first_verdict(config, mious):
    monitor = HealthMonitor(config)
    return next((v for v in map(monitor.validation, rows(mious)) if v), None)


def test_mean_iou_that_falls_by_half_and_stays_is_forgetting(tiny_config):
    verdict = first_verdict(tiny_config, [0.3, 0.6, 0.2, 0.1, 0.1])
    assert verdict is not None
    assert (verdict.kind, verdict.epoch) == ("forgetting", 4)
    assert "mIoU was 60.0" in verdict.evidence


@pytest.mark.parametrize(
    "mious", [[0.6, 0.2, 0.6, 0.2], [0.6, 0.31, 0.31, 0.31], [0.1, 0.19, 0.05, 0.05, 0.05]]
)
def test_one_bad_validation_a_smaller_fall_and_a_slow_start_are_not(tiny_config, mious):
    assert first_verdict(tiny_config, mious) is None


def test_resumed_monitor_remembers(tiny_config):
    monitor = HealthMonitor(tiny_config)
    monitor.replay(rows([0.6, 0.1]))
    assert monitor.validation(rows([0.6, 0.1, 0.1])[-1]) is not None
    assert math.isclose(monitor.first_loss or 0, 1.0)


def stuck_rows(epochs, **changes):
    row = {
        "loss": 1.0,
        "miou": 0.1,
        "constant_miou": 0.1,
        "top_class": "sky",
        "top_share": 0.5,
        "gradient_left": 1.0,
        "weight_growth": 1.1,
    }
    return [{**row, "epoch": e, "step": 50 * e, "lr": 0.1, **changes} for e in range(1, epochs + 1)]


def ends(config, rows):
    monitor = HealthMonitor(config)
    return [v.kind if v else "" for v in map(monitor.validation, rows)]


@pytest.mark.parametrize(
    ("changes", "kind", "epoch"),
    [
        ({}, "no-progress", 15),
        ({"top_share": 0.9995}, "collapsed", 15),
        ({"gradient_left": 0.01}, "vanishing", 8),
        ({"gradient_left": 0.01, "miou": 0.12}, "", 0),
        ({"miou": 0.12}, "", 0),
        ({"weight_growth": 30.0}, "diverged", 1),
        ({"weight_growth": None}, "diverged", 1),
        ({"weight_growth": 30.0, "miou": 0.2}, "", 0),
    ],
)
def test_what_learns_nothing_is_told_after_its_patience(tiny_config, changes, kind, epoch):
    told = ends(tiny_config.override({"schedule.epochs": 20}), stuck_rows(20, **changes))
    assert (
        next(filter(None, told), ""),
        [bool(t) for t in told].index(True) + 1 if any(told) else 0,
    ) == (kind, epoch)


def test_short_run_is_left_alone(tiny_config):
    assert (
        ends(
            tiny_config.override({"schedule.epochs": 4, "schedule.warmup_epochs": 0.0}),
            stuck_rows(4),
        )
        == [""] * 4
    )


def test_run_of_a_few_steps_is_left_alone(tiny_config):
    rows = [{**row, "step": 7 * row["epoch"]} for row in stuck_rows(20)]
    assert ends(tiny_config.override({"schedule.epochs": 20}), rows) == [""] * 20


def test_long_schedule_is_not_waited_for(tiny_config):
    config = tiny_config.override(
        {"schedule.epochs": 2000, "schedule.warmup_epochs": 5.0, "health.stuck_steps": 500}
    )
    assert ends(config, stuck_rows(20)).index("no-progress") + 1 == 15


def test_collapse_counts_from_its_last_beginning(tiny_config):
    config = tiny_config.override({"schedule.epochs": 14, "health.stuck_share": 0.571})
    constant, other = {"top_share": 1.0, "miou": 0.1}, {"top_share": 0.5, "miou": 0.2}
    told = ends(
        config,
        [{**row, **(other if row["epoch"] in (1, 4) else constant)} for row in stuck_rows(13)],
    )
    assert told.index("collapsed") + 1 == 12


def test_miou_of_the_initial_weights_can_be_forgotten(tiny_config):
    monitor = HealthMonitor(tiny_config)
    told = [monitor.validation({**row, "init_miou": 0.6}) for row in rows([0.1, 0.1])]
    assert [bool(t) for t in told] == [False, True]
    assert told[1].evidence.startswith(
        "mIoU was 60.0 and is below 50 % of that for 2 validations, now 10.0"
    )


def test_gradient_that_explodes_is_divergence(tiny_config):
    monitor = HealthMonitor(tiny_config)
    norms = [1.0] * 20 + [2000.0] * 10
    told = [
        monitor.step(epoch=0, step=i, loss=1.0, grad_norm=n, lr=0.1, scaled=False)
        for i, n in enumerate(norms, 1)
    ]
    verdict = next(filter(None, told))
    assert (verdict.kind, verdict.step) == ("diverged", 26)
    assert verdict.evidence.startswith("the gradient norm was 1 at the start and is 2000")


@pytest.mark.parametrize(
    ("fits", "advice"),
    [(2, "2 fit: try schedule.accumulate 4, or schedule.batch_size 2"), (0, "not even one image")],
)
def test_out_of_memory_says_what_would_fit(tiny_config, fits, advice):
    verdict = out_of_memory(
        tiny_config, 0, 0, 8, fits, "CUDA out of memory. Tried to allocate 2 GiB"
    )
    assert (verdict.state, verdict.kind) == ("unhealthy", "out-of-memory")
    assert verdict.advice.startswith(advice)
    assert "8 images of 64 x 64 pixels" in verdict.evidence
