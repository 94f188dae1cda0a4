"""Each rule finds its mistake, gives the way out, and is silent beside it."""

from collections.abc import Callable
from typing import Any

import pytest

from segtune.checks.data_sizes import DataSizes
from segtune.checks.findings import Finding
from segtune.checks.space_rules import space_findings
from segtune.tuning.study import Study

MakeStudy = Callable[..., Study]
LR = {"optim.lr": {"loguniform": [1e-4, 1e-3]}}
VOC = DataSizes(num_images=80, num_classes=21)  # 10 steps of 8 images
ASHA = {"asha": {"grace_epochs": 2, "reduction": 3}}


def found(study: Study, rule: str, sizes: DataSizes = VOC) -> list[Finding]:
    return [finding for finding in space_findings(study, sizes) if finding.rule == rule]


def test_a_plain_study_has_no_findings(make_study: MakeStudy) -> None:
    assert space_findings(make_study(LR, trials=30), VOC) == []


def test_a_warmup_in_steps_that_the_proxy_does_not_shorten_is_an_error(
    make_study: MakeStudy,
) -> None:
    config = {"schedule.epochs": 40, "schedule.warmup_steps": 100}
    (finding,) = found(make_study(LR, config, proxy={"epochs": 10}), "warmup")
    assert finding.severity == "error"
    assert "100 steps" in finding.problem
    assert "10 epochs of 10 steps" in finding.problem
    assert "--set schedule.warmup_steps=10" in finding.way_out
    assert found(make_study(LR, config, proxy={"epochs": 11}), "warmup") == []
    assert found(make_study(LR, config), "warmup") == []


def test_a_warmup_is_measured_by_the_proxys_images_if_the_data_set_is_absent(
    make_study: MakeStudy,
) -> None:
    config = {"schedule.epochs": 40, "schedule.warmup_steps": 100}
    study = make_study(LR, config, proxy={"epochs": 10, "num_images": 80})
    assert found(study, "warmup", DataSizes())
    assert not found(make_study(LR, config, proxy={"epochs": 10}), "warmup", DataSizes())


def test_a_first_rung_inside_the_warmup_is_a_warning_with_the_next_rung(
    make_study: MakeStudy,
) -> None:
    config = {"schedule.epochs": 20, "schedule.warmup_epochs": 5}
    (finding,) = found(make_study(LR, config, scheduler=ASHA), "rung-in-warmup")
    assert finding.severity == "warning"
    assert "epoch 2" in finding.problem
    assert "40 % of its peak" in finding.reason
    assert "{asha: {grace_epochs: 5}}" in finding.way_out
    later = {"asha": {"grace_epochs": 5, "reduction": 3}}
    assert found(make_study(LR, config, scheduler=later), "rung-in-warmup") == []
    assert found(make_study(LR, config), "rung-in-warmup") == []


def test_only_the_share_of_trials_with_a_long_warmup_is_named(make_study: MakeStudy) -> None:
    space = {"schedule.warmup_epochs": {"uniform": [0.0, 4.0]}}
    study = make_study(space, {"schedule.epochs": 20}, scheduler=ASHA)
    (finding,) = found(study, "rung-in-warmup")
    share = int(finding.problem.split(" % of the trials")[0].split()[-1])
    assert share == pytest.approx(50, abs=12)


def test_a_warmup_that_is_longer_than_every_rung_is_an_error(make_study: MakeStudy) -> None:
    config = {"schedule.epochs": 10, "schedule.warmup_epochs": 8}
    (finding,) = found(make_study(LR, config, scheduler=ASHA), "rung-in-warmup")
    assert finding.severity == "error"
    assert "[2, 6]" in finding.problem


def only_focal(**changes: Any) -> dict[str, Any]:
    return {"loss.focal.weight": 1.0, "loss.dice.weight": 0.0, **changes}


def test_sigmoid_focal_loss_alone_is_a_warning_that_gives_its_gradient(
    make_study: MakeStudy,
) -> None:
    (finding,) = found(make_study(LR, only_focal()), "focal-alone")
    assert finding.severity == "warning"
    assert "0.042 of cross-entropy's" in finding.problem
    assert "--set loss.ce.weight=1.0" in finding.way_out
    few = DataSizes(80, 2)  # with two classes, the gradient is four times as large
    assert "0.042" not in found(make_study(LR, only_focal()), "focal-alone", few)[0].problem


@pytest.mark.parametrize(
    "change",
    [{"loss.focal.gamma": 1.9}, {"loss.focal.form": "softmax"}, {"loss.ce.weight": 0.1}],
    ids=str,
)
def test_focal_loss_with_another_term_form_or_gamma_is_fine(
    make_study: MakeStudy, change: dict[str, Any]
) -> None:
    assert found(make_study(LR, only_focal(**change)), "focal-alone") == []


def test_focal_loss_that_is_alone_in_some_trials_is_a_warning(make_study: MakeStudy) -> None:
    space = {"loss.dice.weight": {"choice": [0.0, 1.0]}}
    (finding,) = found(make_study(space, {"loss.focal.weight": 1.0}), "focal-alone")
    assert finding.severity == "warning"
    uniform = {"loss.dice.weight": {"uniform": [0.0, 1.0]}}
    assert found(make_study(uniform, {"loss.focal.weight": 1.0}), "focal-alone") == []


def test_a_large_gamma_in_fp16_is_a_warning_with_a_gamma_that_fits(
    make_study: MakeStudy,
) -> None:
    large = {"data.crop": [512, 512], "optim.precision": "fp16", "loss.focal.gamma": 3.0}
    (finding,) = found(make_study(LR, large), "gamma-fp16")
    assert finding.severity == "warning"
    assert "gamma of at most 1.75" in finding.way_out
    assert found(make_study(LR, {**large, "loss.focal.gamma": 1.75}), "gamma-fp16") == []
    assert found(make_study(LR, {**large, "optim.precision": "bf16"}), "gamma-fp16") == []


def test_dice_loss_alone_is_a_warning(make_study: MakeStudy) -> None:
    dice = {"loss.focal.weight": 0.0, "loss.dice.weight": 1.0}
    (finding,) = found(make_study(LR, dice), "dice-alone")
    assert "0.081 of cross-entropy's" in finding.problem
    assert found(make_study(LR, {**dice, "loss.ce.weight": 0.1}), "dice-alone") == []


def test_learning_rates_outside_the_optimisers_decades_are_named(make_study: MakeStudy) -> None:
    wide = {"optim.lr": {"loguniform": [1e-5, 1.0]}}
    (finding,) = found(make_study(wide), "lr-decades")
    assert (finding.severity, finding.key) == ("warning", "optim.lr")
    assert "{loguniform: [1e-05, 0.02]}" in finding.way_out
    high = {"optim.lr": {"loguniform": [0.1, 1.0]}}
    assert found(make_study(high), "lr-decades")[0].severity == "error"
    # The same rates are plausible for SGD.
    assert found(make_study(high, {"optim.name": "sgd"}), "lr-decades") == []


def test_the_learning_rate_of_the_head_counts_too(make_study: MakeStudy) -> None:
    (finding,) = found(make_study(LR, {"optim.head_lr_mult": 100.0}), "lr-decades")
    assert finding.key == "optim.head_lr_mult"
    assert "head_lr_mult of at most 20" in finding.way_out


def test_a_learning_rate_drawn_linearly_over_decades_is_a_warning(make_study: MakeStudy) -> None:
    linear = {"optim.lr": {"uniform": [1e-5, 1e-3]}}
    (finding,) = found(make_study(linear), "linear-lr")
    assert "only 9 % of the draws" in finding.problem
    assert "optim.lr: {loguniform: [1e-05, 0.001]}" in finding.way_out
    assert found(make_study({"optim.lr": {"uniform": [2e-4, 1e-3]}}), "linear-lr") == []


@pytest.mark.parametrize(("sampler", "trials"), [("tpe", 11), ("random", 10), ("grid", 10)])
def test_enough_trials_for_the_sampler_are_fine(
    make_study: MakeStudy, sampler: str, trials: int
) -> None:
    assert found(make_study(LR, sampler=sampler, trials=trials), "random-start") == []


def test_a_search_within_the_random_start_of_its_sampler_is_a_warning(
    make_study: MakeStudy,
) -> None:
    (finding,) = found(make_study(LR, sampler="tpe", trials=10), "random-start")
    assert "--trials 20" in finding.way_out


def test_a_grid_larger_than_the_trials_names_the_values_that_are_never_drawn(
    make_study: MakeStudy,
) -> None:
    space = {"seed": {"choice": [1, 2, 3, 4, 5, 6]}}
    (finding,) = found(make_study(space, sampler="grid", trials=4), "grid-size")
    assert "7 points" in finding.problem
    assert "search.trials is 4" in finding.problem
    # Trial 0 is the config itself, with seed 0.
    assert finding.problem.split("never drawn: ")[1].count("seed") == 3
    assert "--trials 7" in finding.way_out
    assert found(make_study(space, sampler="grid", trials=7), "grid-size") == []


def test_choices_that_a_search_probably_never_draws_are_named(make_study: MakeStudy) -> None:
    space = {"seed": {"choice": list(range(20))}}
    (finding,) = found(make_study(space, trials=16), "undrawn-choice")
    # 15 draws after trial 0, which has seed 0: 0.95^15 = 0.463.
    assert "chance of 46 %" in finding.problem
    assert found(make_study({"seed": {"choice": [0, 1, 2]}}, trials=16), "undrawn-choice") == []


def test_a_rare_condition_makes_choices_rare(make_study: MakeStudy) -> None:
    space = {
        "seed": {"choice": list(range(8))},
        "loss.focal.form": {"choice": ["sigmoid", "softmax"], "when": {"seed": 3}},
    }
    findings = found(make_study(space, trials=16), "undrawn-choice")
    # 1/16 each: 0.9375^15 = 0.38. One in 8 seeds: 0.875^15 = 0.13 is not worth a word.
    assert [finding.key for finding in findings] == ["loss.focal.form"]


@pytest.mark.parametrize(
    ("values", "is_narrow"),
    [
        ({"uniform": [1.0, 1.05]}, True),
        ({"choice": [1.0, 1.05]}, True),
        ({"uniform": [1.0, 1.2]}, False),
        ({"uniform": [0.0, 0.05]}, False),
    ],
    ids=str,
)
def test_a_range_narrower_than_the_noise_is_a_warning(
    make_study: MakeStudy, values: dict[str, Any], is_narrow: bool
) -> None:
    study = make_study({"loss.dice.weight": values})
    assert bool(found(study, "narrow-range")) == is_narrow
