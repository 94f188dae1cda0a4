"""A loss of a package outside the repository: how it is called, and what is refused."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from segtune.config.loss_config import LossConfig
from segtune.config.schema import ExperimentConfig, load_config
from segtune.errors import ConfigError
from segtune.losses import formulas
from segtune.losses.labels import Mixing
from segtune.losses.segmentation import SegmentationLoss, build_loss
from segtune.runs.rundir import TrialDir
from segtune.training.distributed import Ranks
from segtune.training.prediction import load_model
from segtune.training.trainer import Trainer

PACKAGE = "losses_of_a_user"
SOURCE = """
import torch.nn.functional as F

def build(num_classes, ignore_index):
    def loss(logits, labels):
        assert logits.shape[1] == num_classes
        return F.cross_entropy(logits, labels, ignore_index=ignore_index)
    return loss

def no_function(num_classes, ignore_index):
    return 3

def pixels(num_classes, ignore_index):
    return lambda logits, labels: logits.mean(1)

def number(num_classes, ignore_index):
    return lambda logits, labels: logits.mean().item()

def detached(num_classes, ignore_index):
    return lambda logits, labels: logits.mean().detach()
"""

Batch = tuple[Tensor, Tensor]


@pytest.fixture(autouse=True)
def _package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "elsewhere" / PACKAGE
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    (folder / "mine.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(folder.parent)


def custom_alone(name: str, weight: float = 1.0) -> SegmentationLoss:
    off = {term: {"weight": 0.0} for term in ("focal", "dice", "ce")}
    custom = {"name": f"{PACKAGE}.mine:{name}", "weight": weight}
    return build_loss(LossConfig.parse({**off, "custom": custom}), 5)


@pytest.mark.parametrize("size", [(6, 7), (3, 4)])
def test_it_gets_logits_of_the_size_of_the_labels(batch: Batch, size: tuple[int, int]) -> None:
    logits, target = batch[0][..., : size[0], : size[1]].clone().requires_grad_(), batch[1]
    terms = custom_alone("build", weight=3.0)(logits, target)
    expected = formulas.cross_entropy(formulas.upsample(logits, target.shape[-2:]), target)
    assert terms["custom"].item() == pytest.approx(expected.item())
    assert terms["total"].item() == pytest.approx(3 * expected.item())
    (gradient,) = torch.autograd.grad(terms["total"], logits)
    (expected_gradient,) = torch.autograd.grad(3 * expected, logits)
    torch.testing.assert_close(gradient, expected_gradient)
    assert not terms["custom"].requires_grad


def test_a_mixed_batch_is_the_mean_over_its_samples(batch: Batch) -> None:
    logits, first = batch
    second = first.flip(0)
    loss, plain = custom_alone("build"), formulas.cross_entropy
    shares = torch.tensor([0.3, 0.9], dtype=torch.float64)
    value = loss(logits, first, Mixing(second, shares))["total"].item()
    expected = sum(
        shares[n] * plain(logits[n : n + 1], first[n : n + 1])
        + (1 - shares[n]) * plain(logits[n : n + 1], second[n : n + 1])
        for n in range(2)
    )
    assert value == pytest.approx(float(expected) / 2)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_function", "returned 3; expected a function of logits and labels"),
        ("pixels", r"returned torch.float64 of shape \[2, 6, 7\]; expected a float scalar"),
        ("number", "returned float; expected a tensor"),
        ("detached", "has no gradient on the logits"),
    ],
)
def test_what_is_no_loss_is_refused(batch: Batch, name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"loss\.custom\.name: .*{message}"):
        custom_alone(name)(batch[0].clone().requires_grad_(), batch[1])


def test_an_absent_function_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"loss\.custom\.name.*did you mean 'build'"):
        custom_alone("biuld")


def test_no_term_at_all_is_refused_also_with_a_custom_weight() -> None:
    off = {term: {"weight": 0.0} for term in ("focal", "dice")}
    with pytest.raises(ConfigError, match="must be above 0"):
        LossConfig.parse({**off, "custom": {"weight": 1.0}})


def test_a_training_run_has_the_term_and_its_checkpoint_imports_nothing(
    tiny_config: ExperimentConfig, tmp_path: Path
) -> None:
    name = f"{PACKAGE}.mine:build"
    config = tiny_config.override({"loss.custom.name": name, "schedule.epochs": 1})
    out = TrialDir(tmp_path / "run")
    (record,) = Trainer.start(config, out, Ranks.join()).epochs()
    assert record.losses["custom"] > 0
    assert load_config(out.config).loss.custom.name == name
    (tmp_path / "elsewhere" / PACKAGE / "mine.py").unlink()
    load_model(out.path, None, torch.device("cpu"))
