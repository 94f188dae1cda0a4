"""Replays of training runs that die of an injected fault: all train and replay for real."""

import errno
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from segtune.api_replay import replay_trial
from segtune.config.schema import ExperimentConfig
from segtune.config.yaml_io import write_yaml
from segtune.data.known_classes import NAMED_CLASSES
from segtune.runs.replay_record import RemedyResult, ReplayRecord, StepNumbers
from segtune.runs.rundir import SearchDir, TrialDir
from segtune.runs.verdict import Verdict
from segtune.training import checkpoint, network, replay_step
from segtune.training import trainer as trainer_module
from segtune.training.distributed import Ranks
from segtune.training.first_non_finite import THE_LOSS
from segtune.training.remedies import conclude, works
from segtune.training.replay_bundle import read_bundle, read_manifest, statistics_of
from segtune.training.train_step import TrainStep
from segtune.training.trainer import Trainer

Fault = Callable[[nn.Module], None]
PLACE = "net.decode_head.dropout"
NUM_CLASSES = len(NAMED_CLASSES["shapes"])


class Large(nn.Module):
    """Multiplies by 1e6 in float16, whatever the precision of autocast."""

    def forward(self, x: Tensor) -> Tensor:
        return x.half().mul(1e6).float() / 1e6


class RootOfZero(nn.Module):
    """Adds 0, whose gradient is infinite."""

    def forward(self, x: Tensor) -> Tensor:
        return x + (0 * x).sqrt()


class Scaled(nn.Module):
    """Multiplies by 1e6 and divides again, in the precision of the input."""

    def forward(self, x: Tensor) -> Tensor:
        return (x * 1e6) / 1e6


def train(config: ExperimentConfig, out: TrialDir, *, resume: bool = False) -> Verdict:
    start = Trainer.resume if resume else Trainer.start
    trainer = start(config, out, Ranks())
    for _ in trainer.epochs():
        pass
    assert trainer.verdict is not None
    return trainer.verdict


@pytest.fixture
def plant(monkeypatch: pytest.MonkeyPatch) -> Callable[[nn.Module], None]:
    """Return a function that plants a module in every network of training and replay."""

    def plant_module(module: nn.Module) -> None:
        def build(*arguments: Any) -> nn.Module:
            built = network.build_network(*arguments)
            built.get_submodule("net.decode_head").dropout = module
            return built

        monkeypatch.setattr(trainer_module, "build_network", build)
        monkeypatch.setattr(replay_step, "build_network", build)

    return plant_module


class FailingStep:
    """Reports an infinite gradient norm at one step; keeps the norm that was measured."""

    def __init__(self, patch: pytest.MonkeyPatch, number: int) -> None:
        self.norm = math.nan
        original = TrainStep._clip_gradients
        count = 0

        def clip(step: TrainStep) -> Tensor:
            nonlocal count
            count += 1
            norm = original(step)
            if count != number:
                return norm
            self.norm = float(norm)
            return torch.full_like(norm, math.inf)

        patch.setattr(TrainStep, "_clip_gradients", clip)


def replayed(out: TrialDir, **options: Any) -> ReplayRecord:
    return replay_trial(TrialDir(out.path), **options)


@pytest.mark.parametrize("when", ["unbroken", "resumed"])
def test_replay_has_the_loss_and_the_gradient_norm_of_the_step(
    tiny_config: ExperimentConfig, tmp_path: Path, when: str
) -> None:
    # Dropout, drop path, momentum and two micro-batches: all of them have to be those of step 5.
    changes = {"model.dropout": 0.3, "model.drop_path": 0.3, "schedule.accumulate": 2}
    config, out = tiny_config.override(changes), TrialDir(tmp_path)
    number = 5
    if when == "resumed":
        trainer = Trainer.start(config, out, Ranks())
        assert next(iter(trainer.epochs())).step == 3
        number = 2
    with pytest.MonkeyPatch.context() as patch:
        failing = FailingStep(patch, number)
        verdict = train(config, out, resume=when == "resumed")
    assert (verdict.kind, verdict.step) == ("non-finite", 5)
    assert verdict.advice.endswith(f"segtune replay {tmp_path}")
    record = replayed(out)
    assert (record.exact, record.step, record.epoch) == (True, 5, 2)
    assert record.replayed.losses == pytest.approx(record.recorded.losses, rel=1e-6)
    assert record.replayed.grad_norm == pytest.approx(failing.norm, rel=1e-6)
    # The norm that was recorded is infinite, and this one is not.
    assert not record.reproduced
    assert "without any change" in record.conclusion


def test_weights_of_a_bundle_are_those_before_the_step_that_was_not_finite(
    tiny_config: ExperimentConfig, tmp_path: Path
) -> None:
    before: dict[str, Tensor] = {}
    original = TrainStep.run

    def run(train_step: TrainStep, *arguments: Any, **options: Any) -> Any:
        if options["step"] == 2:
            before.update({n: p.detach().clone() for n, p in train_step.model.named_parameters()})
        return original(train_step, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        FailingStep(patch, 2)
        patch.setattr(TrainStep, "run", run)
        train(tiny_config, TrialDir(tmp_path))
    bundle = read_bundle(TrialDir(tmp_path).replay)
    assert bundle is not None
    assert before
    assert all(torch.equal(value, bundle.weights[name]) for name, value in before.items())
    assert bundle.manifest.images == [bundle.manifest.images[0]]
    assert len(set(bundle.manifest.images[0])) == tiny_config.schedule.batch_size
    assert set(bundle.manifest.weights) == set(before)


def test_first_operation_of_the_forward_pass_is_named(
    tiny_config: ExperimentConfig, tmp_path: Path, plant: Callable[[nn.Module], None]
) -> None:
    plant(Large())
    assert train(tiny_config, TrialDir(tmp_path)).kind == "non-finite"
    record = replayed(TrialDir(tmp_path))
    assert record.reproduced
    origin = record.origin
    assert origin is not None
    assert (origin.phase, origin.layer) == ("forward", f"{PLACE} (Large)")
    assert (origin.operation, origin.dtype, origin.dtype_max) == ("mul", "float16", 65504.0)
    assert origin.inf_share > 0.1
    assert origin.line.startswith("tests/training/test_replay.py:")
    # In no precision of autocast, because the module computes in float16 itself.
    assert not any(result.works for result in record.remedies)
    assert record.settings == {"optim.lr": 1e-4}


def test_first_node_of_the_backward_pass_is_named(
    tiny_config: ExperimentConfig, tmp_path: Path, plant: Callable[[nn.Module], None]
) -> None:
    plant(RootOfZero())
    assert train(tiny_config, TrialDir(tmp_path)).kind == "non-finite"
    record = replayed(TrialDir(tmp_path))
    origin = record.origin
    assert record.reproduced
    assert origin is not None
    assert math.isfinite(record.replayed.loss)
    assert (origin.phase, origin.layer) == ("backward", f"{PLACE} (RootOfZero)")
    assert origin.operation == "SqrtBackward0"


@pytest.mark.parametrize(
    ("changes", "phase", "layer"),
    [
        ({"loss.class_weights": [3e38] * NUM_CLASSES}, "loss", "loss term ce"),
        ({"loss.ce.weight": 3e38}, "loss", THE_LOSS),
        ({"loss.ce.weight": 1e30}, "norm", "all parameters"),
    ],
)
def test_loss_term_and_norm_of_the_gradients_are_named(
    tiny_config: ExperimentConfig,
    tmp_path: Path,
    changes: dict[str, Any],
    phase: str,
    layer: str,
) -> None:
    terms = {"loss.focal.weight": 0.0, "loss.dice.weight": 1.0, "loss.ce.weight": 1.0}
    config = tiny_config.override({**terms, **changes})
    assert train(config, TrialDir(tmp_path)).kind == "non-finite"
    record = replayed(TrialDir(tmp_path))
    assert record.reproduced
    assert record.origin is not None
    assert (record.origin.phase, record.origin.layer) == (phase, layer)


def test_weights_that_are_not_finite_are_named_and_no_remedy_is_tried(
    tiny_config: ExperimentConfig, tmp_path: Path
) -> None:
    trainer = Trainer.start(tiny_config, TrialDir(tmp_path), Ranks())
    weight = trainer.network.get_parameter("net.decode_head.batch_norm.weight")
    with torch.no_grad():
        weight[0] = math.inf
    assert list(trainer.epochs()) == []
    record = replayed(TrialDir(tmp_path))
    assert record.origin is not None
    assert record.origin.phase == "weights"
    assert record.origin.layer == "net.decode_head.batch_norm.weight"
    assert record.remedies == []
    assert "weights that are not finite" in record.conclusion


def test_precision_is_the_remedy_if_only_float16_overflows(
    tiny_config: ExperimentConfig, tmp_path: Path, plant: Callable[[nn.Module], None]
) -> None:
    plant(Scaled())
    config = tiny_config.override({"optim.precision": "fp16"})
    assert train(config, TrialDir(tmp_path)).kind == "non-finite"
    record = replayed(TrialDir(tmp_path))
    worked = {str(result.settings): result.works for result in record.remedies}
    assert worked == {
        "{}": False,
        "{'optim.precision': 'bf16'}": True,
        "{'optim.precision': 'fp32'}": True,
        "{'optim.clip_norm': 2.0}": False,
        "{'optim.lr': 0.0001}": False,
    }
    assert record.settings == {"optim.precision": "bf16"}
    assert record.conclusion.startswith("--set optim.precision=bf16: 6 steps")


def test_lower_rate_is_the_remedy_if_only_the_rate_is_too_large(
    tiny_config: ExperimentConfig, tmp_path: Path
) -> None:
    changes = {"optim.lr": 8.0, "optim.clip_norm": None, "schedule.warmup_epochs": 0.0}
    config = tiny_config.override(changes)
    with pytest.MonkeyPatch.context() as patch:
        FailingStep(patch, 1)
        train(config, TrialDir(tmp_path))
    # The step itself is finite here, and the steps after it diverge.
    record = replayed(TrialDir(tmp_path))
    worked = {str(result.settings): result.works for result in record.remedies}
    assert worked == {
        "{}": False,
        "{'optim.clip_norm': 2.0}": False,
        "{'optim.lr': 0.8}": True,
    }
    assert record.settings == {"optim.lr": 0.8}


def test_diverged_training_run_leaves_the_weights_that_it_has(
    tiny_config: ExperimentConfig, tmp_path: Path
) -> None:
    config = tiny_config.override({"health.gradient_factor": 1.0001, "schedule.epochs": 8})
    with pytest.MonkeyPatch.context() as patch:
        original = TrainStep._clip_gradients
        norms = iter(range(1, 100))
        patch.setattr(TrainStep, "_clip_gradients", lambda step: original(step) * 2 ** next(norms))
        verdict = train(config, TrialDir(tmp_path))
    assert verdict.kind == "diverged"
    record = replayed(TrialDir(tmp_path))
    assert (record.exact, record.step, record.origin) == (False, verdict.step, None)
    assert "the weights are those after step" in record.note
    assert math.isfinite(record.replayed.loss)


def test_full_disk_leaves_the_verdict_as_it_is(
    tiny_config: ExperimentConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", fail)
    FailingStep(monkeypatch, 1)
    verdict = train(tiny_config, TrialDir(tmp_path))
    assert (verdict.state, verdict.kind) == ("unhealthy", "non-finite")
    assert "segtune replay" not in verdict.advice
    assert "bundle was not written" in caplog.text
    assert "no space left" in caplog.text
    assert not [path for path in tmp_path.iterdir() if "replay" in path.name]


def test_unreadable_bundle_of_another_trial_leaves_the_verdict_as_it_is(
    tiny_config: ExperimentConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    run = SearchDir(tmp_path)
    run.study.write_text(write_yaml({}))
    # A folder in place of the file: reading it is an OSError.
    (run.trial(0).replay / checkpoint.MANIFEST).mkdir(parents=True)
    FailingStep(monkeypatch, 1)
    verdict = train(tiny_config, run.trial(1))
    assert (verdict.state, verdict.kind) == ("unhealthy", "non-finite")
    assert "bundle was not written" in caplog.text


def test_a_search_keeps_the_first_bundle_of_each_kind(
    tiny_config: ExperimentConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = SearchDir(tmp_path)
    run.trials.mkdir()
    run.study.write_text(write_yaml({}))
    for number in range(3):
        with pytest.MonkeyPatch.context() as patch:
            FailingStep(patch, 1)
            verdict = train(tiny_config, run.trial(number))
        assert verdict.kind == "non-finite"
        assert ("segtune replay" in verdict.advice) == (number == 0)
    kept = [trial.id for trial in run.trial_dirs() if trial.replay.exists()]
    assert kept == ["0000"]
    # Of another kind.
    diverged = {"health.gradient_factor": 1.0001, "schedule.epochs": 8}
    original = TrainStep._clip_gradients
    norms = iter(range(1, 100))
    monkeypatch.setattr(
        TrainStep, "_clip_gradients", lambda step: original(step) * 2 ** next(norms)
    )
    train(tiny_config.override(diverged), run.trial(3))
    manifest = read_manifest(run.trial(3).replay)
    assert manifest is not None
    assert manifest.kind == "diverged"


def test_advised_command_is_quoted(tiny_config: ExperimentConfig, tmp_path: Path) -> None:
    out = TrialDir(tmp_path / "my run")
    with pytest.MonkeyPatch.context() as patch:
        FailingStep(patch, 1)
        verdict = train(tiny_config, out)
    assert verdict.advice.endswith(f"segtune replay '{out.path}'")


def test_share_of_non_finite_values_is_exact_in_large_tensors() -> None:
    values = torch.zeros(1_000_000)
    values[3] = math.nan
    share = statistics_of([("weight", values)])["weight"]["non_finite"]
    assert share == pytest.approx(1e-6, rel=1e-9)


def result_with(loss_after: float, *, stays_finite: bool = True) -> RemedyResult:
    """Return the result of steps that begin with a loss of 1."""
    steps = [StepNumbers(1, {"loss": 1.0}, 1.0)]
    is_good = works(steps, loss_after, stays_finite=stays_finite)
    return RemedyResult({}, steps, loss_after, stays_finite, is_good)


@pytest.mark.parametrize(
    ("baseline", "words"),
    [
        (result_with(0.9), "the settings as they are also work, so no remedy is clearly better"),
        (result_with(2.0), "no remedy lowers the loss from these weights: start a new"),
        (result_with(math.inf, stays_finite=False), "which are damaged already: start a new"),
    ],
)
def test_conclusion_without_a_remedy_says_why(baseline: RemedyResult, words: str) -> None:
    results = [baseline, result_with(max(0.9, baseline.loss_after))]
    text, settings = conclude(ExperimentConfig(), "diverged", results)
    assert words in text
    assert text.endswith(f"--set optim.lr={settings['optim.lr']}, which cannot be tried here")


def test_a_resume_removes_the_bundle_of_the_death_that_it_repairs(
    tiny_config: ExperimentConfig, tmp_path: Path
) -> None:
    out = TrialDir(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        FailingStep(patch, 5)
        train(tiny_config, out)
    assert out.replay.is_dir()
    assert train(tiny_config, out, resume=True).state == "completed"
    assert not out.replay.exists()


TWO_RANKS = """
import math
import sys
from pathlib import Path

import torch

from segtune.config.schema import load_config
from segtune.runs.rundir import TrialDir
from segtune.training.distributed import Ranks
from segtune.training.train_step import TrainStep
from segtune.training.trainer import Trainer

original, norms = TrainStep._clip_gradients, []

def clip(step):
    norms.append(original(step))
    return norms[-1] if len(norms) != 2 else torch.full_like(norms[-1], math.inf)

TrainStep._clip_gradients = clip
ranks = Ranks.join("cpu")
trainer = Trainer.start(load_config(sys.argv[1]), TrialDir(Path(sys.argv[2])), ranks)
list(trainer.epochs())
sys.stdout.write(f"{ranks.rank} {float(norms[1])!r}\\n")
ranks.close()
"""


def test_replay_of_two_ranks_has_their_mean_loss_and_gradient(
    tiny_config: ExperimentConfig, tmp_path: Path, run_on_two_ranks: Callable[..., list[str]]
) -> None:
    config = tiny_config.override({"model.dropout": 0.3, "model.drop_path": 0.3})
    file = tmp_path / "config.yaml"
    file.write_text(write_yaml(config.dump()))
    lines = run_on_two_ranks(TWO_RANKS, file, tmp_path / "run")
    norm = float(lines[0].split()[1])
    record = replayed(TrialDir(tmp_path / "run"))
    assert record.step == 2
    assert [len(names) for names in record.images] == [4, 4]
    assert record.replayed.losses == pytest.approx(record.recorded.losses, rel=1e-4)
    assert record.replayed.grad_norm == pytest.approx(norm, rel=1e-4)
    assert any("batches of 2 in turn" in text for text in record.differences)
