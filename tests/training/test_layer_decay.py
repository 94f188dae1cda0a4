"""Laws of the learning rate that falls from block to block, by the names of real encoders."""

import pytest

from segtune.config.model_config import ModelConfig
from segtune.config.optim_config import OptimConfig
from segtune.models.build import build_model, head_parameters
from segtune.training.layer_decay import depths, layer_factors
from segtune.training.optimizer import parameter_groups


def test_the_last_block_has_one_decay_and_each_block_before_it_one_more() -> None:
    names = ["patch.weight", "blocks.0.a", "blocks.0.b.0.c", "blocks.1.a", "norm.weight"]
    assert layer_factors(names, 0.5) == {
        "patch.weight": 0.125,
        "blocks.0.a": 0.25,
        "blocks.0.b.0.c": 0.25,
        "blocks.1.a": 0.5,
        "norm.weight": 0.5,
    }


@pytest.mark.parametrize(
    ("name", "encoder", "num_blocks"),
    [
        ("segformer", "mit_nano", 4),
        ("segformer", "mit_b2", 16),
        ("upernet", "resnet18", 8),
        ("upernet", "convnext_atto", 12),
        ("upernet", "swin_tiny_patch4_window7_224", 12),
        ("upernet", "regnety_002", 13),
        ("upernet", "tf_efficientnet_lite0", 16),
        ("upernet", "vit_tiny_patch16_224", 12),
    ],
)
def test_blocks_of_an_encoder_are_counted(name: str, encoder: str, num_blocks: int) -> None:
    settings = {"name": name, "encoder": encoder, "drop_path": 0.0, "decoder_channels": 16}
    model = build_model(ModelConfig.parse(settings), 3)
    head = head_parameters(model)
    names = [name for name, _ in model.named_parameters() if not name.startswith(head)]
    numbers = depths(names)
    assert set(numbers.values()) == set(range(num_blocks + 1))
    assert numbers[names[0]] == 0


def test_the_head_keeps_its_own_rate_and_norms_have_no_decay() -> None:
    settings = {"encoder": "mit_nano", "decoder_channels": 16}
    model = build_model(ModelConfig.parse(settings), 3)
    config = OptimConfig(lr=1.0, head_lr_mult=10.0, layer_decay=0.5, weight_decay=0.1)
    groups = parameter_groups(model, config, head_parameters(model))
    assert {group["lr"] for group in groups} == {10.0, *(0.5**n for n in range(1, 6))}
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    assert {group["weight_decay"] for group in groups} == {0.0, 0.1}
