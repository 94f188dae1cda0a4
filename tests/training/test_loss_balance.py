"""With `loss.balance: gradient`, the terms pull equally at the start; the factors are recorded."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from segtune.config.schema import ExperimentConfig
from segtune.data.loader import normalize
from segtune.errors import ConfigError
from segtune.losses.segmentation import build_loss
from segtune.runs.rundir import TrialDir
from segtune.training.distributed import Ranks
from segtune.training.loss_balance import balance_factors, balanced_loss, term_losses
from segtune.training.trainer import Trainer

LOSS: dict[str, Any] = {
    "loss.focal.weight": 2.0,
    "loss.dice.weight": 1.0,
    "loss.lovasz.weight": 0.5,
    "loss.balance": "gradient",
    "model.dropout": 0.0,
    "model.drop_path": 0.0,
}


@pytest.fixture
def config(tiny_config: ExperimentConfig) -> ExperimentConfig:
    return tiny_config.override(LOSS)


def test_factors_make_every_norm_that_of_cross_entropy() -> None:
    factors = balance_factors({"focal": 0.5, "dice": 8.0, "ce": 2.0})
    assert factors == {"focal": 4.0, "dice": 0.25, "ce": 1.0}
    config = ExperimentConfig().override({"loss.focal.weight": 3.0, "loss.dice.weight": 2.0})
    weights = balanced_loss(config, ["a", "b"], factors).config.weights
    assert {name: weight for name, weight in weights.items() if weight} == {
        "focal": 12.0,
        "dice": 0.5,
    }


def test_a_term_without_a_gradient_is_refused_with_the_way_out() -> None:
    with pytest.raises(ConfigError, match=r"the gradient of focal at the start is 0, .* none"):
        balance_factors({"focal": 0.0, "ce": 2.0})
    with pytest.raises(ConfigError, match="the gradient of dice at the start is nan"):
        balance_factors({"dice": float("nan"), "ce": 2.0})


def test_the_factor_of_cross_entropy_relates_to_an_independent_gradient(
    config: ExperimentConfig, tmp_path: Path
) -> None:
    trainer = Trainer.start(config, TrialDir(tmp_path), Ranks())
    batch = next(trainer.train_data.epoch(1))
    network = trainer.network.train()
    logits, _ = network(normalize(batch.images), with_auxiliary=True)
    masks = batch.masks.long()
    full = F.interpolate(logits, masks.shape[-2:], mode="bilinear", align_corners=False)
    parameters = list(network.parameters())

    def norm(value: torch.Tensor) -> float:
        found = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
        return float(torch.nn.utils.get_total_norm([g for g in found if g is not None]))

    reference = norm(F.cross_entropy(full, masks, ignore_index=255))
    for name, loss in term_losses(config, trainer.classes).items():
        alone = norm(loss(logits, masks)["total"])
        assert trainer.loss_factors[name] == pytest.approx(reference / alone, rel=1e-3)
    used = trainer.train_step.loss.config.weights
    assert used["focal"] == pytest.approx(2 * trainer.loss_factors["focal"])
    assert used["ce"] == 0.0
    assert json.loads(TrialDir(tmp_path).loss_factors.read_text()) == trainer.loss_factors


def test_the_calibration_leaves_weights_statistics_and_draws_as_they_were(
    config: ExperimentConfig, tmp_path: Path
) -> None:
    plain = config.override({"loss.balance": "none"})
    with_factors = Trainer.start(config, TrialDir(tmp_path / "a"), Ranks())
    without = Trainer.start(plain, TrialDir(tmp_path / "b"), Ranks())
    assert not without.loss_factors
    assert not TrialDir(tmp_path / "b").loss_factors.exists()
    for name, value in without.network.state_dict().items():
        assert torch.equal(value, with_factors.network.state_dict()[name]), name
    # The same weights in a config without balance give the same training run.
    same = plain.override({"loss": with_factors.train_step.loss.config.dump()})
    same = same.override({"loss.balance": "none"})
    repeated = Trainer.start(same, TrialDir(tmp_path / "c"), Ranks())
    balanced_run, repeated_run = (
        [record.losses["loss"] for record in trainer.epochs()]
        for trainer in (with_factors, repeated)
    )
    assert balanced_run == repeated_run


def test_a_resume_keeps_the_factors_of_the_start(config: ExperimentConfig, tmp_path: Path) -> None:
    first = Trainer.start(config, TrialDir(tmp_path), Ranks())
    next(first.epochs())
    resumed = Trainer.resume(config, TrialDir(tmp_path), Ranks())
    assert resumed.epoch == 1
    assert resumed.loss_factors == first.loss_factors
    assert resumed.train_step.loss.config == first.train_step.loss.config


def test_small_gradients_in_float16_are_measured_with_a_scale(
    config: ExperimentConfig, tmp_path: Path
) -> None:
    norms = {}
    for precision in ("fp32", "fp16"):
        changed = config.override({"optim.precision": precision})
        trainer = Trainer.start(changed, TrialDir(tmp_path / precision), Ranks())
        # Each pixel's gradient on the logits is about 1e-9, which float16 rounds to 0.
        none = {"focal.weight": 0.0, "dice.weight": 0.0, "lovasz.weight": 0.0}
        small = config.loss.override({**none, "ce.weight": 1e-5})
        terms = {"ce": build_loss(small, len(trainer.classes))}
        batch = next(trainer.train_data.epoch(1))
        norms[precision] = trainer.train_step.term_norms(batch, terms)["ce"]
    assert norms["fp16"] == pytest.approx(norms["fp32"], rel=0.02)
