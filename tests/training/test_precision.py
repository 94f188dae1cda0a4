"""float16 is left once if it keeps overflowing under `auto`. The choice of float16 is injected."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from segtune.checks.data_sizes import DataSizes
from segtune.checks.observations import Workbench
from segtune.config.schema import ExperimentConfig
from segtune.runs.rundir import TrialDir
from segtune.training import network, precision
from segtune.training import trainer as trainer_module
from segtune.training.checkpoint import best_checkpoint, load_weights
from segtune.training.distributed import Ranks
from segtune.training.few_steps import seconds_per_val_image
from segtune.training.network_profile import measure_network
from segtune.training.precision import TrainingPrecision, training_dtype
from segtune.training.step_summary import summary_of_steps
from segtune.training.train_step import StepResult
from segtune.training.trainer import Trainer


class Scaled(nn.Module):
    """Multiplies by 1e6 and divides again: more than float16 holds."""

    def forward(self, x: Tensor) -> Tensor:
        return (x * 1e6) / 1e6


class Large(nn.Module):
    """Multiplies by 1e6: in float16 the result is infinite."""

    def forward(self, x: Tensor) -> Tensor:
        return (
            x.to(torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x) * 1e6
        )


class LargeGradient(torch.autograd.Function):
    """Leaves the values as they are. Multiplies their gradient by 1e6 and divides it again."""

    @staticmethod
    def forward(_: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return (gradient * 1e6) / 1e6


class LargeGradients(nn.Module):
    """Has finite values in every precision, and gradients that only float16 cannot hold."""

    def forward(self, x: Tensor) -> Tensor:
        return LargeGradient.apply(x)


class RootOfZero(nn.Module):
    """Adds 0, whose gradient is infinite in every precision."""

    def forward(self, x: Tensor) -> Tensor:
        return x + (0 * x).sqrt()


def plant(patch: pytest.MonkeyPatch, module: nn.Module, place: str = "dropout") -> None:
    """Let every network have `module` before a layer of its head, or before its classifier."""

    def build(*arguments: Any) -> nn.Module:
        built = network.build_network(*arguments)
        layer = built.get_submodule(f"net.decode_head.{place}")
        setattr(built.get_submodule("net.decode_head"), place, nn.Sequential(module, layer))
        return built

    patch.setattr(trainer_module, "build_network", build)


@pytest.fixture
def auto_is_float16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `auto` begin in float16, as on a GPU without bfloat16."""
    monkeypatch.setattr(precision, "_has_fast_float16", lambda device: True)


def train(config: ExperimentConfig, out: Path) -> TrialDir:
    trial = TrialDir(out)
    list(Trainer.start(config, trial, Ranks()).epochs())
    return trial


def losses(trial: TrialDir) -> list[Any]:
    return [record.losses for record in trial.read_epochs()]


def test_scale_and_skipped_steps_are_recorded_in_float16_only(
    tiny_config: ExperimentConfig, tmp_path: Path
) -> None:
    half = train(tiny_config.override({"optim.precision": "fp16"}), tmp_path / "half")
    for record in half.read_epochs():
        assert record.skipped_steps is not None
        # torch's scaler halves its scale at each step that it skips.
        assert record.loss_scale is not None
        assert math.log2(record.loss_scale) <= 16
    records = half.read_epochs()
    skipped = sum(record.skipped_steps or 0 for record in records)
    assert records[-1].loss_scale == 2.0 ** (16 - skipped)
    full = train(tiny_config, tmp_path / "full")
    assert "loss_scale" not in full.epochs.read_text()


@pytest.mark.usefixtures("auto_is_float16")
def test_float16_that_overflows_is_left_and_the_outcome_is_that_of_float32(
    tiny_config: ExperimentConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    plant(monkeypatch, Scaled())
    trial = train(tiny_config, tmp_path / "auto")
    verdict = trial.read_verdict()
    assert verdict is not None
    assert verdict.state == "completed"
    assert verdict.note.startswith("float16 until epoch 1, step 0, then float32, because the loss")
    assert verdict.reason == verdict.note
    assert "optim.precision auto: float16 until epoch 1" in caplog.text
    assert json.loads(trial.precision.read_text())["after"] == "float32"
    assert [record.loss_scale for record in trial.read_epochs()] == [None, None]
    # No step in float16 has changed a weight, so the first epoch was made again.
    full = train(tiny_config.override({"optim.precision": "fp32"}), tmp_path / "full")
    assert losses(trial) == losses(full)


@pytest.mark.usefixtures("auto_is_float16")
@pytest.mark.parametrize("max_skipped_steps", [1, 2, 3])
def test_epoch_without_a_changed_weight_begins_again(
    tiny_config: ExperimentConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    max_skipped_steps: int,
) -> None:
    # The losses are finite. An epoch has 3 steps, the gradients of which overflow in float16.
    plant(monkeypatch, LargeGradients())
    config = tiny_config.override({"health.max_skipped_steps": max_skipped_steps})
    trial = train(config, tmp_path / "auto")
    switch = json.loads(trial.precision.read_text())
    assert (switch["epoch"], switch["step"]) == (1, 0)
    full = train(config.override({"optim.precision": "fp32"}), tmp_path / "full")
    assert losses(trial) == losses(full)


@pytest.mark.usefixtures("auto_is_float16")
def test_batch_norms_that_float16_has_spoilt_are_reset(
    tiny_config: ExperimentConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch, Large(), "batch_norm")
    trial = TrialDir(tmp_path)
    trainer = Trainer.start(tiny_config, trial, Ranks())
    list(trainer.epochs())
    assert trial.precision.exists()
    assert all(bool(buffer.isfinite().all()) for buffer in trainer.network.buffers())


@pytest.mark.usefixtures("auto_is_float16")
def test_resume_stays_in_the_precision_that_float16_was_left_for(
    tiny_config: ExperimentConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch, Scaled())
    unbroken = train(tiny_config, tmp_path / "unbroken")
    broken = TrialDir(tmp_path / "broken")
    next(iter(Trainer.start(tiny_config, broken, Ranks()).epochs()))
    trainer = Trainer.resume(tiny_config, broken, Ranks())
    assert trainer.precision.dtype is torch.float32
    assert not trainer.precision.may_leave_float16
    assert broken.precision.exists()
    list(trainer.epochs())
    assert losses(broken) == losses(unbroken)
    paths = [best_checkpoint(trial.checkpoints) for trial in (broken, unbroken)]
    ours, theirs = (load_weights(path) for path in paths if path)
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


@pytest.mark.usefixtures("auto_is_float16")
def test_float16_is_left_only_once(
    tiny_config: ExperimentConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch, RootOfZero())
    trial = train(tiny_config.override({"health.max_skipped_steps": 2}), tmp_path)
    verdict = trial.read_verdict()
    assert verdict is not None
    assert (verdict.state, verdict.kind) == ("unhealthy", "non-finite")
    assert "for 2 steps in a row" in json.loads(trial.precision.read_text())["reason"]
    # No step in float16 has changed a weight, so step 1 was made again.
    assert verdict.step == 1
    assert "float16 until epoch 1, step 0, then float32" in verdict.reason


def test_float16_that_is_set_is_not_left(
    tiny_config: ExperimentConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch, Scaled())
    trial = train(tiny_config.override({"optim.precision": "fp16"}), tmp_path)
    verdict = trial.read_verdict()
    assert verdict is not None
    assert verdict.kind == "non-finite"
    assert verdict.advice.startswith("try optim.precision auto, bf16 or fp32, or ")
    assert not trial.precision.exists()


def step_result(step: int, grad_norm: float) -> StepResult:
    return StepResult(step, 1e-4, {"loss": 1.0}, grad_norm, None, math.isfinite(grad_norm), False)


@pytest.mark.usefixtures("auto_is_float16")
@pytest.mark.parametrize(
    ("setting", "num_skipped", "num_steps", "is_left"),
    [
        ("auto", 30, 100, True),
        ("auto", 20, 100, False),  # not more than 20 %
        ("auto", 10, 12, False),  # not more than health.max_skipped_steps
        ("fp16", 30, 100, False),
    ],
)
def test_many_skipped_steps_of_an_epoch_leave_float16(
    tiny_config: ExperimentConfig,
    tmp_path: Path,
    setting: str,
    num_skipped: int,
    num_steps: int,
    is_left: bool,
) -> None:
    config = tiny_config.override({"optim.precision": setting})
    trainer = Trainer.start(config, TrialDir(tmp_path), Ranks())
    norms = [math.inf] * num_skipped + [1.0] * (num_steps - num_skipped)
    results = [step_result(number, norm) for number, norm in enumerate(norms, 1)]
    record = summary_of_steps(1, results, 1.0, trainer.precision.scaler)
    left = trainer.precision.leave_if_it_skips(trainer.train_step, record, num_steps, num_steps)
    assert left is is_left
    expected = torch.float32 if is_left else torch.float16
    assert trainer.train_step.precision is trainer.precision.dtype is expected
    assert trainer.train_step.scaler.is_enabled() is not is_left


@pytest.mark.parametrize(
    ("has_bf16", "capability", "name", "expected"),
    [
        (True, (8, 0), "NVIDIA A100-SXM4-40GB", torch.bfloat16),
        (False, (7, 5), "Tesla T4", torch.float16),
        (False, (7, 5), "NVIDIA GeForce GTX 1660 Ti", torch.float32),
        (False, (6, 1), "NVIDIA GeForce GTX 1080", torch.float32),
    ],
)
def test_auto_is_the_fastest_precision_of_the_gpu(
    monkeypatch: pytest.MonkeyPatch,
    has_bf16: bool,
    capability: tuple[int, int],
    name: str,
    expected: torch.dtype,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_bf16)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert training_dtype("auto", torch.device("cuda")) is expected
    assert training_dtype("auto", torch.device("cpu")) is torch.float32
    assert training_dtype("fp32", torch.device("cuda")) is torch.float32


@pytest.mark.usefixtures("auto_is_float16")
def test_checkpoint_without_a_scaler_stays_out_of_float16(
    tiny_config: ExperimentConfig, tmp_path: Path
) -> None:
    restored = TrainingPrecision(tiny_config, TrialDir(tmp_path), Ranks())
    assert restored.dtype is torch.float16
    restored.load_state({"scaler": {}})
    assert restored.switch is None
    assert restored.dtype is torch.float32


@pytest.mark.usefixtures("auto_is_float16")
@pytest.mark.parametrize(("setting", "expected"), [("auto", "float32"), ("fp16", "float16")])
def test_validation_takes_float16_only_if_it_is_set(
    tiny_config: ExperimentConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    setting: str,
    expected: str,
) -> None:
    config = tiny_config.override({"optim.precision": setting, "schedule.epochs": 1})
    trainer = Trainer.start(config, TrialDir(tmp_path), Ranks())
    used = []

    def note(_: nn.Module, inputs: Any) -> None:
        if not trainer.network.training:
            used.append(torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else 0)

    trainer.network.register_forward_pre_hook(note)
    list(trainer.epochs())
    seconds_per_val_image(trainer)
    profile = measure_network(trainer, config, with_latency=True)
    assert set(used) == ({torch.float16} if expected == "float16" else {0})
    assert profile.precision == expected
    assert trainer.precision.dtype is torch.float16


@pytest.mark.usefixtures("auto_is_float16")
def test_check_observes_the_precision_of_training(tiny_config: ExperimentConfig) -> None:
    workbench = Workbench(DataSizes(), None, 7, steps=6)
    (observed,) = workbench.observe("precision", tiny_config)
    assert observed.value == "float16"


DIFFERENT_GPUS = """
import logging
import sys
from pathlib import Path

import torch

from segtune.config.schema import ExperimentConfig
from segtune.runs.rundir import TrialDir
from segtune.training import precision
from segtune.training.distributed import Ranks

ranks = Ranks.join("cpu")
warnings = []
handler = logging.Handler()
handler.emit = lambda record: warnings.append(record.getMessage())
precision.log.addHandler(handler)
first = ranks.is_first

def made():
    return precision.TrainingPrecision(ExperimentConfig(), TrialDir(Path(sys.argv[1])), ranks)

precision._has_fast_float16 = lambda device: first
dtypes = [made().dtype]
precision._has_fast_float16 = lambda device: True
restored = made()
dtypes.append(restored.dtype)
precision.autocast_dtype = lambda name, device: torch.float32 if first else torch.bfloat16
restored.load_state({"scaler": {}})
dtypes.append(restored.dtype)
sys.stdout.write(f"{ranks.rank} {dtypes} {warnings}\\n")
ranks.close()
"""


def test_ranks_on_different_gpus_train_in_float32(
    tmp_path: Path, run_on_two_ranks: Callable[..., list[str]]
) -> None:
    lines = run_on_two_ranks(DIFFERENT_GPUS, tmp_path / "run")
    dtypes = "[torch.float32, torch.float16, torch.float32]"
    assert lines[0].startswith(f"0 {dtypes} ['optim.precision auto: the GPUs of the ranks differ")
    assert "(float16, float32), so all train in float32" in lines[0]
    assert "(float32, bfloat16), so all train in float32" in lines[0]
    assert lines[1] == f"1 {dtypes} []"
