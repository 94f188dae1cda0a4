"""Laws of the optimiser's groups and of the learning rate."""

from collections.abc import Collection

import pytest
import torch
from torch import nn

from segtune.config.model_config import ModelConfig
from segtune.config.optim_config import OptimConfig
from segtune.models.build import build_model, head_parameters
from segtune.models.segformer import SegFormer
from segtune.models.upernet import UPerNet
from segtune.training.optimizer import (
    build_optimizer,
    parameter_groups,
    set_learning_rate,
)


def small_model(name: str, encoder: str) -> SegFormer | UPerNet:
    settings = {"name": name, "encoder": encoder, "decoder_channels": 16}
    return build_model(ModelConfig.parse(settings), 3)


def lr_and_decay(
    model: nn.Module, config: OptimConfig, head: Collection[str]
) -> dict[str, tuple[float, float]]:
    """Return the learning rate and the weight decay of each parameter, by its name."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        names[id(parameter)]: (group["lr"], group["weight_decay"])
        for group in parameter_groups(model, config, head)
        for parameter in group["params"]
    }


@pytest.mark.parametrize(
    ("name", "encoder"), [("segformer", "mit_nano"), ("upernet", "convnext_atto")]
)
def test_head_learns_faster_and_norms_and_biases_do_not_decay(name: str, encoder: str) -> None:
    model = small_model(name, encoder)
    config = OptimConfig(lr=1e-3, head_lr_mult=10.0, weight_decay=0.1)
    vectors = {name for name, parameter in model.named_parameters() if parameter.ndim == 1}
    norms = {name for name in vectors if name.endswith("weight")}
    assert any("norm" in name or "bn" in name for name in norms)
    values = lr_and_decay(model, config, head_parameters(model))
    assert set(values) == {name for name, _ in model.named_parameters()}
    for parameter, (lr, decay) in values.items():
        assert lr == (1e-2 if "head" in parameter else 1e-3), parameter
        if parameter.endswith("bias") or parameter in norms:
            assert decay == 0, parameter
        elif parameter.endswith("weight"):
            assert decay == 0.1, parameter


@pytest.mark.parametrize(
    ("name", "encoder", "suffix", "expected"),
    [
        ("upernet", "swin_tiny_patch4_window7_224", "relative_position_bias_table", 0.0),
        ("segformer", "mit_nano", "dwconv.weight", 0.1),
    ],
)
def test_position_tables_do_not_decay_and_depthwise_convolutions_do(
    name: str, encoder: str, suffix: str, expected: float
) -> None:
    model = small_model(name, encoder)
    values = lr_and_decay(model, OptimConfig(weight_decay=0.1), head_parameters(model))
    decays = {decay for parameter, (_, decay) in values.items() if parameter.endswith(suffix)}
    assert decays == {expected}


def test_frozen_parameters_are_left_out() -> None:
    model = nn.Linear(2, 2)
    model.bias.requires_grad_(False)
    (group,) = parameter_groups(model, OptimConfig(), ())
    assert group["params"] == [model.weight]


def test_step_of_adamw_is_the_formula() -> None:
    model = nn.Linear(1, 1)
    nn.init.constant_(model.weight, 2.0)
    nn.init.constant_(model.bias, 2.0)
    optimizer = build_optimizer(model, OptimConfig(lr=0.1, weight_decay=0.5), ())
    model(torch.ones(1, 1)).sum().backward()
    optimizer.step()
    # The decay comes first: 2 - 0.1 * 0.5 * 2. The first step of Adam is lr * sign(gradient).
    assert model.weight.item() == pytest.approx(2 - 0.1 - 0.1, abs=1e-6)
    assert model.bias.item() == pytest.approx(2 - 0.1, abs=1e-6)


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_learning_rate_of_every_group_is_a_fraction_of_its_peak(name: str) -> None:
    model = build_model(ModelConfig(encoder="mit_nano"), 3)
    config = OptimConfig.parse({"name": name, "lr": 1e-3, "head_lr_mult": 10.0})
    optimizer = build_optimizer(model, config, head_parameters(model))
    set_learning_rate(optimizer, 0.5)
    assert {round(group["lr"], 6) for group in optimizer.param_groups} == {5e-4, 5e-3}
