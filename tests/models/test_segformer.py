"""SegFormer is the published model: its sizes, its attention, and its head, computed folded."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from segtune.config.model_config import ModelConfig
from segtune.errors import ConfigError
from segtune.models.segformer import SegFormer

# Millions of parameters with the head for ADE20K's 150 classes, as published with the paper.
PUBLISHED_SIZES = {
    "mit_b0": 3.8,
    "mit_b1": 13.7,
    "mit_b2": 27.5,
    "mit_b3": 47.3,
    "mit_b4": 64.1,
    "mit_b5": 84.7,
}
PUBLISHED_HEAD_WIDTHS = {"mit_b0": 256, "mit_b1": 256, "mit_b2": 768, "mit_b5": 768}


def segformer(num_classes: int, encoder: str = "mit_nano", **settings: object) -> SegFormer:
    return SegFormer(ModelConfig.parse({"encoder": encoder, **settings}), num_classes)


def logits_and_gradients(
    model: SegFormer, forward: Callable[[Tensor], Tensor], images: Tensor
) -> list[Tensor]:
    """Return the logits, and the gradient of each parameter that has one."""
    model.zero_grad()
    logits = forward(images)
    logits.square().sum().backward()
    gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    return [logits.detach(), *gradients]


@pytest.mark.parametrize("training", [False, True])
def test_folded_head_gives_the_logits_and_gradients_of_the_one_in_transformers(
    training: bool,
) -> None:
    model = segformer(5, drop_path=0.0, dropout=0.0).double().train(training)
    images = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    folded = logits_and_gradients(model, model, images)
    plain = logits_and_gradients(model, lambda x: model.net(pixel_values=x).logits, images)
    assert len(folded) == 1 + len(list(model.parameters()))
    for ours, expected in zip(folded, plain, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-12)


def test_attention_is_computed_in_one_fused_call() -> None:
    assert segformer(3).net.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("encoder", list(PUBLISHED_SIZES))
def test_every_mit_is_as_large_as_the_paper_says(encoder: str) -> None:
    with torch.device("meta"):
        model = segformer(150, encoder)
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    assert millions == pytest.approx(PUBLISHED_SIZES[encoder], abs=0.055)
    # The number of parameters does not depend on the number of attention heads.
    assert model.net.config.num_attention_heads == [1, 2, 5, 8]


def test_width_of_the_head_is_that_of_the_paper_unless_it_is_set() -> None:
    with torch.device("meta"):
        for encoder, width in PUBLISHED_HEAD_WIDTHS.items():
            assert segformer(3, encoder).net.config.decoder_hidden_size == width
        assert segformer(3, decoder_channels=24).net.config.decoder_hidden_size == 24


def test_unknown_encoder_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'mit_b2'"):
        segformer(3, "mit-b2")
