"""Sick runs, all of them real training on the generated shapes: each is told by its name before its end, with an advice."""

import subprocess
import sys

import pytest
import torch

from segtune.api import run_training
from segtune.config.schema import load_config
from segtune.config.yaml_io import write_yaml
from segtune.data import shapes
from segtune.losses.segmentation import build_loss
from segtune.models.build import build_model
from segtune.training.probes import gradient_left, weight_norm

FADING = {"loss.focal.gamma": 8.0, "loss.dice.weight": 0.0, "optim.name": "sgd", "optim.lr": 0.01}
# Positives that weigh a thousandth of the negatives: nothing but the background is ever worth predicting.
LOPSIDED = {
    "loss.focal.alpha": 0.001,
    "loss.focal.gamma": 0.0,
    "loss.dice.weight": 0.0,
    "optim.name": "sgd",
    "optim.lr": 0.01,
}


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    root = tmp_path_factory.mktemp("shapes")
    shapes.generate_if_needed(root / "data", shapes.ShapesSpec())
    changes = {"data.root": str(root / "data"), "data.num_loaders": 0}
    return load_config("configs/shapes_segformer_b0.yaml").override(changes)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "kind", "advice"),
    [
        ({"optim.lr": 10.0}, "diverged", "try optim.lr 1"),
        (
            {"optim.lr": 100.0, "optim.precision": "fp16"},
            "non-finite",
            "try optim.precision bf16 or fp32, or optim.lr 10",
        ),
        (
            FADING,
            "vanishing",
            "try loss.focal.gamma <= 2, loss.focal.form softmax or loss.dice.weight 1",
        ),
        (LOPSIDED, "collapsed", "try optim.lr 0.1 or loss.dice.weight 1"),
    ],
)
def test_sick_run_is_told_by_its_name(config, tmp_path, changes, kind, advice):
    result = run_training(config.override(changes), tmp_path / "run")
    assert (result.verdict.state, result.verdict.kind) == ("unhealthy", kind), result.verdict
    assert result.verdict.advice.startswith(advice)
    assert result.verdict.epoch < config.schedule.epochs


@pytest.mark.slow
def test_converged_model_at_a_thousand_times_its_rate_forgets(config, tmp_path):
    good = {
        "loss.focal.form": "softmax",
        "loss.focal.gamma": 1.0,
        "loss.focal.weight": 3.0,
        "loss.ce.weight": 1.0,
        "loss.dice.weight": 0.0,
    }
    before = run_training(config.override(good), tmp_path / "good")
    rate = 1000 * config.optim.lr
    after = run_training(
        config.override({**good, "optim.lr": rate}), tmp_path / "hot", init_from=before.checkpoint
    )
    assert after.verdict.kind == "forgetting", after.verdict
    assert f"mIoU was {100 * before.best_miou:.1f}" in after.verdict.evidence
    assert after.verdict.advice == "try optim.lr 0.2"
    assert after.verdict.epoch == 2


def test_step_that_does_not_fit_is_told_with_what_would(tiny_config, tmp_path):
    # A real limit of this process's address space; the large crop is what needs the memory.
    changes = {"data.crop": [640, 640], "augment.cat_max_ratio": 1.0}
    (tmp_path / "c.yaml").write_text(write_yaml(tiny_config.override(changes).dump()))
    code = (
        "import resource, sys, torch\n"
        "from segtune.train import main\n"
        "import segtune.training.trainer\n"
        "torch.set_num_threads(1)\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 2**30, used + 2**30))\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    command = [
        sys.executable,
        "-c",
        code,
        "--config",
        str(tmp_path / "c.yaml"),
        "--out",
        str(tmp_path / "run"),
    ]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 3, ended.stderr
    assert (
        "unhealthy: out-of-memory: a step of 8 images of 640 x 640 pixels on a worker does not fit"
        in ended.stderr
    )
    assert "fit: try schedule.accumulate" in ended.stderr


def test_gradient_left_by_a_focal_term_is_what_gamma_takes(tiny_config):
    logits, target = torch.zeros(1, 3, 2, 2), torch.zeros(1, 2, 2, dtype=torch.int64)
    focal = tiny_config.loss.override({"dice.weight": 0.0, "focal.gamma": 2.0})
    # At p = 1/2 the gradient of p^2 * log(1 - p) against that of log(1 - p): 1/4 + 2 * 1/4 * 1/2 * log 2 / (1/2).
    expected = 0.25 + 0.25 * 2 * 0.6931472 * 0.5 / 0.5 / 1
    assert gradient_left(build_loss(focal, 3), logits, target) == pytest.approx(expected, rel=1e-4)
    assert gradient_left(build_loss(focal.override({"focal.gamma": 0.0}), 3), logits, target) == 1.0
    assert gradient_left(build_loss(focal, 3), logits, torch.full_like(target, 255)) == 1.0


def test_weight_norm_is_that_of_all_parameters(tiny_config):
    model = build_model(tiny_config.model, 3)
    expected = torch.cat([p.detach().flatten() for p in model.parameters()]).norm()
    assert weight_norm(model) == pytest.approx(float(expected), rel=1e-5)
