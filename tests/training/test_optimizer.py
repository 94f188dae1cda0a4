"""Laws of the optimiser's groups and of the learning rate."""

import pytest
import torch

from segtune.config.schema import ModelConfig, OptimConfig
from segtune.models.build import build_model, head_parameters
from segtune.training.optimizer import (
    build_optimizer,
    learning_rate_factor,
    parameter_groups,
    set_learning_rate,
)


@pytest.mark.parametrize(
    ("name", "encoder"), [("segformer", "mit_nano"), ("upernet", "convnext_atto")]
)
def test_head_learns_faster_and_norms_and_biases_do_not_decay(name, encoder):
    model = build_model(
        ModelConfig.parse({"name": name, "encoder": encoder, "decoder_channels": 16}), 3
    )
    config = OptimConfig(lr=1e-3, head_lr_mult=10.0, weight_decay=0.1)
    names = {id(p): n for n, p in model.named_parameters()}
    norms = {n for n, p in model.named_parameters() if p.ndim == 1 and n.endswith("weight")}
    assert any("norm" in n or "bn" in n for n in norms)
    found = {}
    for group in parameter_groups(model, config, head_parameters(model)):
        for parameter in group["params"]:
            found[names[id(parameter)]] = (group["lr"], group["weight_decay"])
    assert set(found) == set(names.values())
    for parameter, (lr, decay) in found.items():
        assert lr == (1e-2 if "head" in parameter else 1e-3), parameter
        if parameter.endswith("bias") or parameter in norms:
            assert decay == 0, parameter
        elif parameter.endswith("weight"):
            assert decay == 0.1, parameter


def test_position_tables_do_not_decay_and_depthwise_convolutions_do():
    decay = {}
    for name, encoder in (("upernet", "swin_tiny_patch4_window7_224"), ("segformer", "mit_nano")):
        model = build_model(
            ModelConfig.parse({"name": name, "encoder": encoder, "decoder_channels": 16}), 3
        )
        names = {id(p): n for n, p in model.named_parameters()}
        groups = parameter_groups(model, OptimConfig(weight_decay=0.1), head_parameters(model))
        decay |= {names[id(p)]: group["weight_decay"] for group in groups for p in group["params"]}
    tables = [n for n in decay if n.endswith("relative_position_bias_table")]
    depthwise = [n for n in decay if n.endswith("dwconv.weight")]
    assert tables
    assert depthwise
    assert {decay[n] for n in tables} == {0.0}
    assert {decay[n] for n in depthwise} == {0.1}


def test_frozen_parameters_are_left_out():
    model = torch.nn.Linear(2, 2)
    model.bias.requires_grad_(False)
    assert [group["params"] for group in parameter_groups(model, OptimConfig(), ())] == [
        [model.weight]
    ]


def test_one_step_of_adamw_is_the_formula():
    model = torch.nn.Linear(1, 1)
    torch.nn.init.constant_(model.weight, 2.0)
    torch.nn.init.constant_(model.bias, 2.0)
    optimizer = build_optimizer(model, OptimConfig(lr=0.1, weight_decay=0.5), ())
    model(torch.ones(1, 1)).sum().backward()
    optimizer.step()
    # decay first: 2 - 0.1 * 0.5 * 2; the first step of Adam is lr * sign(gradient)
    assert model.weight.item() == pytest.approx(2 - 0.1 - 0.1, abs=1e-6)
    assert model.bias.item() == pytest.approx(2 - 0.1, abs=1e-6)


@pytest.mark.parametrize(
    ("step", "expected"), [(0, 0.01), (1, 0.505), (2, 1.0), (6, 0.5), (10, 0.0)]
)
def test_rate_warms_up_in_a_line_and_decays_by_the_power(step, expected):
    assert learning_rate_factor(
        step, total=10, warmup=2, warmup_start=0.01, power=1.0
    ) == pytest.approx(expected)


def test_rate_ends_at_the_floor_and_power_zero_keeps_it():
    assert learning_rate_factor(10, 10, 0, 0.1, 0.9, 0.2) == pytest.approx(0.2)
    assert learning_rate_factor(9, 10, 0, 0.1, 0.0) == 1.0
    assert learning_rate_factor(5, 10, 0, 0.1, 2.0) == pytest.approx(0.25)


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_rate_of_every_group_is_a_share_of_its_peak(name):
    model = build_model(ModelConfig(encoder="mit_nano"), 3)
    optimizer = build_optimizer(
        model, OptimConfig(name=name, lr=1e-3, head_lr_mult=10.0), head_parameters(model)
    )
    set_learning_rate(optimizer, 0.5)
    assert {round(g["lr"], 6) for g in optimizer.param_groups} == {5e-4, 5e-3}
