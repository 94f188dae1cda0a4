"""Real steps at the corners of a space: what fails is found, with the range that works."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from shipped import STUDIES
from torch import nn

from segtune.checks.corner_steps import CornerReport, costs_of
from segtune.checks.findings import errors_of
from segtune.checks.measured_steps import corner_report_here
from segtune.checks.own_data import SHAPES_FILES
from segtune.checks.step_costs import StepCosts
from segtune.data.loader import Batch
from segtune.training.train_step import TrainStep
from segtune.tuning.study import Study
from segtune.tuning.study_reader import load_study

MakeStudy = Callable[..., Study]
NO_MEMORY = "DefaultCPUAllocator: can't allocate memory"
NO_WARMUP = {"schedule.warmup_epochs": 0.0}
# The loss overflows before the learning rate has any part in it.
OVERFLOW = {"loss.ce.weight": 1e38, "loss.focal.weight": 1e38, "loss.dice.weight": 1e38}


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that gets the number of images of each forward pass of training."""
    sizes: list[int] = []
    forward = TrainStep._forward

    def counted(self: TrainStep, model: nn.Module, batch: Batch) -> Any:
        sizes.append(len(batch.images))
        return forward(self, model, batch)

    monkeypatch.setattr(TrainStep, "_forward", counted)
    return sizes


@pytest.fixture
def memory_for_four(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse more than four images in a forward pass of training, as the allocator would."""
    forward = TrainStep._forward

    def limited(self: TrainStep, model: nn.Module, batch: Batch) -> Any:
        if len(batch.images) > 4:
            raise RuntimeError(NO_MEMORY)
        return forward(self, model, batch)

    monkeypatch.setattr(TrainStep, "_forward", limited)


def ends(report: CornerReport) -> dict[str, str]:
    return {c.name: c.verdict.kind if c.verdict else "healthy" for c in report.costs}


def test_a_healthy_study_has_no_finding_and_known_costs(make_study: MakeStudy) -> None:
    report = corner_report_here(make_study({"schedule.batch_size": {"choice": [4, 8, 12]}}))
    assert ends(report) == {"the config itself": "healthy", "largest step": "healthy"}
    assert report.findings == ()
    itself, largest = report.costs
    assert (itself.steps_per_epoch, largest.steps_per_epoch) == (3, 2)
    assert (itself.num_val_images, itself.params) == (7, {})
    for costs in report.costs:
        numbers = (costs.start_s, costs.step_s, costs.val_image_s, costs.checkpoint_bytes)
        assert all(numbers)
    assert costs_of(json.loads(json.dumps(report.dump()))) == list(report.costs)


def test_a_learning_rate_that_is_too_large_has_its_safe_range(make_study: MakeStudy) -> None:
    study = make_study({"optim.lr": {"loguniform": [1e-4, 1e6]}}, NO_WARMUP)
    report = corner_report_here(study)
    assert ends(report) == {"the config itself": "healthy", "largest learning rate": "non-finite"}
    (finding,) = report.findings
    assert (finding.severity, finding.key) == ("warning", "optim.lr")
    assert "optim.lr 1e+06" in finding.problem
    assert 1 <= len(report.probes) <= 3
    healthy = max(p.params["optim.lr"] for p in report.probes if p.verdict is None)
    unhealthy = min(p.params["optim.lr"] for p in report.probes if p.verdict)
    assert f"optim.lr {healthy:.3g} was healthy for 4 steps, {unhealthy:.3g} was not" in (
        finding.way_out
    )
    assert f"optim.lr: {{loguniform: [0.0001, {healthy}]}}" in finding.way_out


def test_a_step_that_does_not_fit_names_the_batch_that_does(
    make_study: MakeStudy, memory_for_four: None
) -> None:
    space = {
        "schedule.batch_size": {"choice": [2, 4, 16]},
        "model.decoder_channels": {"choice": [32, 64]},
    }
    report = corner_report_here(make_study(space, {"schedule.batch_size": 2}))
    assert ends(report) == {
        "the config itself": "healthy",
        "largest step": "out-of-memory",
        # With the step that fits, the models are healthy.
        "model.decoder_channels 32, largest healthy step": "healthy",
        "model.decoder_channels 64, largest healthy step": "healthy",
    }
    (finding,) = report.findings
    assert (finding.severity, finding.key) == ("warning", "schedule.batch_size")
    assert "4 fit: try schedule.accumulate 4, or schedule.batch_size 4" in finding.way_out
    assert "schedule.batch_size: {choice: [2, 4]}" in finding.way_out


def test_a_config_that_does_not_fit_is_an_error_and_no_other_corner_is_tried(
    make_study: MakeStudy, memory_for_four: None
) -> None:
    report = corner_report_here(make_study({"optim.lr": {"loguniform": [1e-4, 1e-2]}}))
    assert ends(report) == {"the config itself": "out-of-memory"}
    assert report.left_out == ("largest learning rate (the config itself fails)",)
    (finding,) = report.findings
    assert finding.severity == "error"
    assert finding.way_out == "4 fit: try schedule.accumulate 2, or schedule.batch_size 4"


def test_a_loss_that_overflows_at_once_is_an_error_in_spite_of_the_warmup(
    make_study: MakeStudy,
) -> None:
    report = corner_report_here(make_study({"optim.lr": {"loguniform": [1e-4, 1e-2]}}, OVERFLOW))
    (finding,) = report.findings
    assert (finding.severity, finding.rule) == ("error", "corner-non-finite")
    assert "at step 1" in finding.problem
    assert finding.key == "loss"
    assert finding.way_out.startswith("lower the weights of the loss")


@pytest.mark.parametrize(("warmup", "severity"), [(0.5, "warning"), (0.0, "error")])
def test_the_warmup_may_save_a_config_that_fails_at_its_peak(
    make_study: MakeStudy, warmup: float, severity: str
) -> None:
    changes = {"optim.lr": 1e6, "schedule.warmup_epochs": warmup}
    report = corner_report_here(make_study({"loss.dice.weight": {"choice": [1.0, 2.0]}}, changes))
    (finding,) = report.findings
    assert finding.severity == severity
    assert ("without the warmup" in finding.reason) == bool(warmup)


def test_a_choice_that_fails_is_left_out(make_study: MakeStudy, shapes_root: Path) -> None:
    absent = str(shapes_root / "absent.safetensors")
    study = make_study({"model.weights": {"choice": [None, absent]}})
    report = corner_report_here(study)
    (finding,) = report.findings
    assert finding.severity == "warning"
    assert "model.weights: {choice: [null]}" in finding.way_out


def test_a_setting_of_which_every_value_fails_is_an_error(
    make_study: MakeStudy, shapes_root: Path
) -> None:
    absent = [str(shapes_root / f"absent{number}.safetensors") for number in range(2)]
    report = corner_report_here(make_study({"model.weights": {"choice": absent}}))
    assert [finding.severity for finding in report.findings] == ["error", "error"]
    high = make_study({"optim.lr": {"loguniform": [1e5, 1e6]}}, NO_WARMUP)
    assert [f.severity for f in corner_report_here(high).findings] == ["error"]


def test_a_network_that_breaks_a_guard_is_not_tried(
    make_study: MakeStudy, batches: list[int]
) -> None:
    space = {"model.decoder_channels": {"choice": [32, 768]}}
    config = {"model.decoder_channels": 64}
    # The config itself is tried in any case.
    study = make_study(space, config, guards={"params_m": 0.001}, sampler="random")
    report = corner_report_here(study)
    assert ends(report) == {"the config itself": "healthy"}
    assert report.left_out == (
        "model.decoder_channels 32 (breaks search.guards.params_m)",
        "model.decoder_channels 768 (breaks search.guards.params_m)",
    )
    assert (report.probes, report.findings) == ((), ())
    assert len(batches) == study.search.corner_steps
    between = make_study(space, config, guards={"params_m": 0.6}, sampler="random")
    assert corner_report_here(between).left_out == report.left_out[1:]


def test_a_worker_of_several_takes_its_part_of_the_batch(
    make_study: MakeStudy, batches: list[int]
) -> None:
    study = make_study({"optim.lr": {"loguniform": [1e-4, 1e-2]}}, workers_per_trial=2)
    costs = corner_report_here(study).costs[0]
    assert set(batches) == {4}
    assert costs.steps_per_epoch == 3  # of 24 images in batches of 8


def test_costs_survive_a_record_that_lacks_numbers() -> None:
    costs = StepCosts.parse({"name": "old", "params": {}, "verdict": None, "step_s": 0.5})
    assert (costs.step_s, costs.peak_bytes) == (0.5, None)


@pytest.mark.slow
@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_the_corners_of_a_shipped_study_are_no_errors_on_shapes(
    path: Path, shapes_root: Path
) -> None:
    small = {
        **{name: value for name, value in SHAPES_FILES.items() if name != "data.num_images"},
        "data.root": str(shapes_root),
        "data.num_images": None,
        "data.resize": [64, 64],
        "data.crop": [64, 64],
        "data.num_loaders": 0,
        "model.weights": None,
        "schedule.batch_size": 8,
    }
    study = load_study(path)
    if study.config.model.encoder.startswith("mit"):
        small["model.encoder"] = "mit_nano"
    words = [f"{name}={json.dumps(value)}" for name, value in small.items()]
    # The checkpoints that some of them start from are not shipped.
    report = corner_report_here(load_study(path, None, words, {"init_from": None}))
    assert errors_of(report.findings) == []
    assert report.costs[0].verdict is None
