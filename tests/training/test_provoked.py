"""Unhealthy training runs, provoked by a setting: each ends early, with its kind and an advice.

All of them are real training on the generated shapes.
"""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from segtune.api import run_training
from segtune.config.schema import ExperimentConfig, load_config
from segtune.config.yaml_io import write_yaml
from segtune.data import shapes
from segtune.losses.segmentation import build_loss
from segtune.models.build import build_model
from segtune.training.probes import gradient_left, weight_norm

# The settings below are extreme for this optimiser.
ADAMW = {
    "optim.name": "adamw",
    "optim.lr": 2e-3,
    "optim.clip_norm": 1.0,
    "schedule.batch_size": 8,
    "health.stuck_steps": 1000,
}
DIVERGED = {"optim.lr": 10.0}
NON_FINITE = {"optim.lr": 100.0, "optim.precision": "fp16"}
VANISHING = {
    "loss.focal.gamma": 8.0,
    "loss.dice.weight": 0.0,
    "optim.name": "sgd",
    "optim.lr": 0.01,
}
# A positive weighs a thousandth of a negative, so predicting anything but background never pays.
COLLAPSED = {
    "loss.focal.alpha": 0.001,
    "loss.focal.gamma": 0.0,
    "loss.dice.weight": 0.0,
    "optim.name": "sgd",
    "optim.lr": 0.01,
}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> ExperimentConfig:
    root = tmp_path_factory.mktemp("shapes") / "data"
    shapes.generate_if_needed(root, shapes.ShapesSpec())
    changes = {"data.root": str(root), "data.num_loaders": 0}
    config = load_config("configs/shapes_segformer_b0.yaml").override(changes)
    return config.override(ADAMW)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "kind", "advice"),
    [
        (DIVERGED, "diverged", "try optim.lr 1"),
        (NON_FINITE, "non-finite", "try optim.precision auto, bf16 or fp32, or optim.lr 10"),
        (
            VANISHING,
            "vanishing",
            "try loss.focal.gamma <= 2, loss.focal.form softmax or loss.dice.weight 1",
        ),
        (COLLAPSED, "collapsed", "try optim.lr 0.1 or loss.dice.weight 1"),
    ],
)
def test_unhealthy_training_run_ends_early_with_its_kind(
    config: ExperimentConfig, tmp_path: Path, changes: dict[str, Any], kind: str, advice: str
) -> None:
    verdict = run_training(config.override(changes), tmp_path / "run").verdict
    assert (verdict.state, verdict.kind) == ("unhealthy", kind), verdict
    assert verdict.advice.startswith(advice)
    assert verdict.epoch < config.schedule.epochs


@pytest.mark.slow
def test_converged_model_at_a_thousand_times_its_learning_rate_is_warned_of_and_forgets(
    config: ExperimentConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # The collapse of configs/ade20k_segformer_b2_v1_1.yaml, on a model that converges in seconds.
    good = {
        "loss.focal.form": "softmax",
        "loss.focal.gamma": 1.0,
        "loss.focal.weight": 3.0,
        "loss.ce.weight": 1.0,
        "loss.dice.weight": 0.0,
        # mIoU is then far above twice that of a constant prediction, so the model has learnt.
        "schedule.epochs": 24,
    }
    before = run_training(config.override(good), tmp_path / "good")
    hot = config.override({**good, "optim.lr": 1000 * config.optim.lr})
    verdict = run_training(hot, tmp_path / "hot", init_from=before.checkpoint).verdict
    assert "a large rate on a converged model can take mIoU to 0" in caplog.text
    assert verdict.kind == "forgetting", verdict
    assert f"mIoU was {100 * before.best_miou:.1f}" in verdict.evidence
    assert verdict.advice == "try optim.lr 0.2"
    assert verdict.epoch == 2


# A real limit on the address space of the process. Only the steps with their large crops exceed it.
TRAIN_WITH_1_GIB = """
import resource
import sys

import torch

import segtune.training.trainer
from segtune.train import main

torch.set_num_threads(1)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**30, used + 2**30))
sys.exit(main(sys.argv[1:]))
"""


def test_step_that_does_not_fit_ends_with_a_batch_size_that_does(
    tiny_config: ExperimentConfig, tmp_path: Path
) -> None:
    changes = {"data.crop": [640, 640], "augment.cat_max_ratio": 1.0}
    file = tmp_path / "config.yaml"
    file.write_text(write_yaml(tiny_config.override(changes).dump()))
    arguments = ["--config", str(file), "--out", str(tmp_path / "run")]
    command = [sys.executable, "-c", TRAIN_WITH_1_GIB, *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 3, done.stderr
    evidence = "a step of 8 images of 640 x 640 pixels on a worker does not fit"
    assert f"unhealthy: out-of-memory: {evidence}" in done.stderr
    assert "fit: try schedule.accumulate" in done.stderr


def test_gradient_left_by_a_focal_loss_follows_from_its_gamma(
    tiny_config: ExperimentConfig,
) -> None:
    logits = torch.zeros(1, 3, 2, 2)
    target = torch.zeros(1, 2, 2, dtype=torch.int64)
    focal = tiny_config.loss.override({"dice.weight": 0.0, "focal.gamma": 2.0})
    # At p = 1/2, the gradient of p^2 * log(1 - p) relative to that of log(1 - p):
    # 1/4 + 2 * 1/4 * 1/2 * log 2 / (1/2).
    expected = 0.25 + 2 * 0.25 * 0.5 * 0.6931472 / 0.5
    assert gradient_left(build_loss(focal, 3), logits, target) == pytest.approx(expected, rel=1e-4)
    without_gamma = build_loss(focal.override({"focal.gamma": 0.0}), 3)
    assert gradient_left(without_gamma, logits, target) == 1.0
    all_ignored = torch.full_like(target, 255)
    assert gradient_left(build_loss(focal, 3), logits, all_ignored) == 1.0


def test_weight_norm_is_that_of_all_parameters(tiny_config: ExperimentConfig) -> None:
    model = build_model(tiny_config.model, 3)
    weights = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    assert weight_norm(model) == pytest.approx(float(weights.norm()), rel=1e-5)
