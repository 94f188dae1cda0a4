"""Dead settings are found and explained; settings that change anything are live."""

from collections.abc import Callable
from typing import Any

import pytest

from segtune.checks.data_sizes import data_sizes
from segtune.checks.findings import Finding
from segtune.checks.liveness import Liveness, liveness, liveness_findings
from segtune.tuning.study import Study

MakeStudy = Callable[..., Study]
NO_FOCAL = {"loss.focal.weight": 0.0, "loss.dice.weight": 1.0}


def examine(study: Study) -> dict[str, Liveness]:
    return {result.key: result for result in liveness(study, data_sizes(study.config))}


def the_finding(study: Study) -> Finding:
    (finding,) = liveness_findings(liveness(study, data_sizes(study.config)))
    return finding


def test_a_gamma_without_focal_loss_is_dead_and_names_the_weight(make_study: MakeStudy) -> None:
    study = make_study({"loss.focal.gamma": {"uniform": [0.0, 4.0]}}, NO_FOCAL)
    finding = the_finding(study)
    assert (finding.severity, finding.key) == ("error", "loss.focal.gamma")
    assert "loss.focal.weight is 0 in the config, and the space does not change" in finding.reason
    assert "with --set loss.focal.weight=1 it has an effect (loss" in finding.reason
    assert finding.way_out.startswith("--set loss.focal.weight=1")


def test_a_gamma_is_live_if_the_space_draws_a_focal_weight(make_study: MakeStudy) -> None:
    space = {
        "loss.focal.gamma": {"uniform": [0.0, 4.0]},
        "loss.focal.weight": {"choice": [0.0, 0.5]},
    }
    results = examine(make_study(space, NO_FOCAL))
    assert {result.status for result in results.values()} == {"live"}


def test_a_focal_weight_that_is_0_in_the_whole_space_opens_nothing(make_study: MakeStudy) -> None:
    space = {
        "loss.focal.gamma": {"uniform": [0.0, 4.0]},
        "loss.focal.weight": {"choice": [0.0]},
        "loss.dice.weight": {"uniform": [0.5, 2.0]},
    }
    results = examine(make_study(space, NO_FOCAL))
    assert results["loss.focal.gamma"].status == "dead"
    assert results["loss.dice.weight"].status == "live"


def test_a_setting_is_live_under_its_condition(make_study: MakeStudy) -> None:
    space = {
        "loss.focal.weight": {"choice": [0.0, 1.0]},
        "loss.focal.gamma": {"uniform": [0.0, 4.0], "when": {"loss.focal.weight": 1.0}},
    }
    assert examine(make_study(space, NO_FOCAL))["loss.focal.gamma"].status == "live"


def test_a_gate_that_random_configs_hardly_open_is_opened(make_study: MakeStudy) -> None:
    space = {
        "seed": {"int": [1, 1000]},
        "loss.focal.weight": {"choice": [0.0, 1.0], "when": {"seed": 7}},
        "loss.focal.gamma": {"uniform": [0.0, 4.0]},
    }
    assert examine(make_study(space, NO_FOCAL))["loss.focal.gamma"].status == "live"


def test_all_conditions_of_a_setting_hold_while_it_is_examined(make_study: MakeStudy) -> None:
    adamw = {"optim.name": "adamw", "loss.focal.form": "sigmoid"}
    space = {
        "seed": {"int": [1, 1000]},
        "loss.focal.form": {"choice": ["sigmoid", "softmax"]},
        "optim.name": {"choice": ["sgd", "adamw"], "when": {"seed": 7}},
        "optim.betas": {"choice": [[0.9, 0.99], [0.9, 0.999]], "when": adamw},
    }
    # SGD does not use the second beta.
    assert examine(make_study(space, {"optim.name": "sgd"}))["optim.betas"].status == "live"


DEAD = {
    "loss.focal.alpha": ([0.25, 0.75], {"loss.focal.form": "softmax"}, "loss.focal.form"),
    "loss.dice.per_class": ([True, False], {"loss.dice.weight": 0.0}, "loss.dice.weight"),
    "loss.tversky.beta": ([0.3, 0.7], {}, "loss.tversky.weight"),
    "loss.lovasz.per_image": ([True, False], {}, "loss.lovasz.weight"),
    "loss.label_smoothing": ([0.0, 0.1], {}, "loss.ce.weight"),
    "loss.class_weights": ([None, "balanced"], NO_FOCAL, "loss.focal.weight"),
    "loss.ohem.keep": ([0.25, None], NO_FOCAL, "loss.ce.weight"),
    "augment.cutout.size": ([[0.1, 0.2], [0.3, 0.4]], {}, "augment.cutout.prob"),
    "augment.erase.fill": (["mean", "random"], {}, "augment.erase.prob"),
    "augment.rotate.degree": ([[-5.0, 5.0], [-20.0, 20.0]], {}, "augment.rotate.prob"),
    "augment.mix.kind": (["none", "cutmix"], {}, "augment.mix.prob"),
    "augment.mix.prob": ([0.2, 0.8], {}, "augment.mix.kind"),
    "augment.ratio": (
        [[0.5, 1.0], [0.9, 2.0]],
        {"augment.scales": [1.0]},
        "augment.scales",
    ),
    "schedule.warmup_epochs": ([0.25, 1.0], {"schedule.warmup_steps": 2}, "schedule.warmup_steps"),
    "schedule.warmup_start": ([1e-6, 0.1], {"schedule.warmup_epochs": 0.0}, "schedule.warmup"),
    "schedule.eta_min": ([0.0, 1e-5], {"schedule.poly_power": 0.0}, "schedule.poly_power"),
    "val.window": ([[32, 32], [64, 64]], {}, "val.mode"),
}


@pytest.mark.parametrize("name", DEAD)
def test_a_setting_behind_a_closed_gate_is_dead_and_names_the_gate(
    make_study: MakeStudy, name: str
) -> None:
    values, config, gate = DEAD[name]
    finding = the_finding(make_study({name: {"choice": values}}, config))
    assert (finding.severity, finding.key) == ("error", name)
    assert gate in finding.reason
    assert "it has an effect" in finding.reason


def test_an_epoch_number_that_the_proxy_replaces_is_dead(make_study: MakeStudy) -> None:
    # With a warmup, the two would differ: it shrinks by another factor.
    config = {"schedule.warmup_epochs": 0.0, "schedule.val_every": 1}
    study = make_study({"schedule.epochs": {"choice": [20, 40]}}, config, proxy={"epochs": 2})
    assert "search.proxy.epochs" in the_finding(study).reason


def test_the_second_beta_of_sgd_is_dead(make_study: MakeStudy) -> None:
    space = {"optim.betas": {"choice": [[0.9, 0.99], [0.9, 0.999]]}}
    finding = the_finding(make_study(space, {"optim.name": "sgd"}))
    assert finding.severity == "error"
    assert "the same groups of the optimiser" in finding.reason
    assert examine(make_study(space))["optim.betas"].status == "live"


LIVE: dict[str, list[Any]] = {
    "seed": [1, 2],
    "data.crop": [[32, 32], [64, 64]],
    "data.resize": [[64, 64], [96, 96]],
    "data.num_images": [8, 16],
    "augment.photometric": [True, False],
    "augment.flip": [0.0, 0.5],
    "augment.cutout.prob": [0.0, 0.5],
    "augment.extra": [[], [{"name": "GaussNoise", "p": 0.5}]],
    "model.drop_path": [0.0, 0.2],
    "model.dropout": [0.0, 0.1],
    "model.encoder": ["mit_nano", "mit_b0"],
    "model.decoder_channels": [16, 32],
    "loss.focal.form": ["sigmoid", "softmax"],
    "loss.ce.weight": [0.0, 1.0],
    "loss.ohem.keep": [None, 0.25, 0.5],
    "optim.name": ["adamw", "sgd"],
    "optim.lr": [1e-4, 1e-3],
    "optim.weight_decay": [0.01, 0.1],
    "optim.head_lr_mult": [1.0, 10.0],
    "optim.layer_decay": [0.9, 1.0],
    "optim.clip_norm": [1.0, 5.0, None],
    "optim.precision": ["fp32", "bf16"],
    "optim.ema": [None, 0.9],
    "schedule.epochs": [2, 3],
    "schedule.batch_size": [4, 8],
    "schedule.poly_power": [0.9, 1.0],
    "schedule.by": ["step", "epoch"],
    "schedule.val_every": [1, 2],
    "val.mode": ["whole", "slide"],
}


def test_settings_that_change_training_are_live_with_evidence(make_study: MakeStudy) -> None:
    space = {name: {"choice": values} for name, values in LIVE.items()}
    study = make_study(space, {"schedule.warmup_epochs": 0.0})
    results = liveness(study, data_sizes(study.config))
    assert {r.key: r.status for r in results} == dict.fromkeys(LIVE, "live")
    assert all(result.evidence for result in results)
    assert liveness_findings(results) == []


def test_two_choices_that_do_the_same_are_an_error(make_study: MakeStudy) -> None:
    finding = the_finding(make_study({"loss.ohem.keep": {"choice": [None, 1.0, 0.5]}}))
    assert (finding.severity, finding.rule) == ("error", "equal-choices")
    assert "the choices null and 1 do the same" in finding.problem


def test_choices_that_differ_on_another_machine_are_a_warning(make_study: MakeStudy) -> None:
    # Without a GPU, auto is fp32.
    finding = the_finding(make_study({"optim.precision": {"choice": ["auto", "fp32", "bf16"]}}))
    assert (finding.severity, finding.rule) == ("warning", "equal-choices")


def test_averages_that_a_short_trial_cannot_tell_apart_are_dead(make_study: MakeStudy) -> None:
    # The decay is at most (1 + step) / (10 + step), and a trial has 6 steps.
    finding = the_finding(make_study({"optim.ema": {"choice": [0.999, 0.9999]}}))
    assert "the same average of the weights" in finding.reason


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("optim.compile", [True, False]),
        ("data.num_loaders", [0, 1]),
        ("data.cache", ["auto", "none"]),
        ("log.every_steps", [10, 100]),
        ("checkpoint.every", [1, 2]),
        ("health.patience", [1, 2]),
    ],
)
def test_a_setting_that_changes_no_number_is_a_warning(
    make_study: MakeStudy, name: str, values: list[Any]
) -> None:
    finding = the_finding(make_study({name: {"choice": values}}))
    assert (finding.severity, finding.rule) == ("warning", "speed-only")


def test_a_choice_that_cannot_be_built_is_an_error(make_study: MakeStudy) -> None:
    space = {"model.encoder": {"choice": ["mit_nano", "mit_b0", "mit_b9"]}}
    finding = the_finding(make_study(space))
    assert (finding.severity, finding.rule) == ("error", "not-built")
    assert "mit_b9 cannot be built" in finding.problem


def test_a_probability_that_no_sample_shows_is_unproven(make_study: MakeStudy) -> None:
    space = {"augment.flip": {"choice": [0.5, 0.5000001]}}
    finding = the_finding(make_study(space))
    assert (finding.severity, finding.rule) == ("warning", "unproven-key")


def test_settings_of_an_absent_data_set_are_unproven(make_study: MakeStudy, tmp_path: Any) -> None:
    absent = {"data.layout": "voc", "data.root": str(tmp_path / "absent"), "data.classes": "voc"}
    space = {
        "data.num_images": {"choice": [8, 16]},
        "augment.flip": {"choice": [0.0, 0.5]},
        "data.crop": {"choice": [[32, 32], [64, 64]]},
    }
    results = examine(make_study(space, absent))
    statuses = {name: result.status for name, result in results.items()}
    assert statuses == {
        "data.num_images": "unproven",
        "augment.flip": "live",
        "data.crop": "live",
    }


def test_weights_that_this_machine_lacks_are_a_warning(make_study: MakeStudy) -> None:
    space = {"model.weights": {"choice": [None, "absent.pth"]}}
    finding = the_finding(make_study(space))
    assert (finding.severity, finding.rule) == ("warning", "not-built")


def test_class_weights_say_how_many_classes_an_absent_data_set_has(
    make_study: MakeStudy, tmp_path: Any
) -> None:
    absent = {
        "data.layout": "voc",
        "data.root": str(tmp_path / "absent"),
        "data.classes": "labels.txt",
        "loss.class_weights": [1.0, 2.0, 3.0],
    }
    study = make_study({"loss.focal.gamma": {"uniform": [0.0, 4.0]}}, absent)
    assert examine(study)["loss.focal.gamma"].status == "live"
