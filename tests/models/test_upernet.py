"""UPerNet takes the encoders of timm: their layouts, their options, and their weights."""

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from segtune.config.model_config import ModelConfig
from segtune.errors import ConfigError, WeightsError
from segtune.models.upernet import UPerNet

SWIN = "swin_tiny_patch4_window7_224"


def upernet(encoder: str = "convnext_atto", **settings: object) -> UPerNet:
    config = {"name": "upernet", "encoder": encoder, "decoder_channels": 16, **settings}
    return UPerNet(ModelConfig.parse(config), num_classes=3)


def test_swin_takes_crops_of_any_size() -> None:
    model = upernet(SWIN).eval()
    assert model(torch.randn(1, 3, 96, 112)).shape == (1, 3, 24, 28)
    assert model(torch.randn(1, 3, 33, 47)).shape == (1, 3, 9, 12)


@pytest.mark.parametrize("encoder", ["resnet18", SWIN])
def test_height_and_width_are_not_confused_if_they_equal_the_channels(encoder: str) -> None:
    model = upernet(encoder).eval()
    side = 4 * model.channels[0]  # the map at 1/4 is as wide as it has channels
    for height, width in [(64, side), (side, 64)]:
        assert model(torch.randn(1, 3, height, width)).shape == (1, 3, height // 4, width // 4)


def test_encoder_without_drop_path_is_refused_with_a_way_out_and_accepted_at_0() -> None:
    with pytest.raises(ConfigError, match=r"model\.drop_path: 0"):
        upernet("vgg11")
    logits = upernet("vgg11", drop_path=0.0).eval()(torch.randn(1, 3, 64, 64))
    assert logits.shape == (1, 3, 16, 16)


@pytest.mark.parametrize("encoder", ["efficientformer_l1", "coat_lite_tiny"])
def test_encoder_of_one_image_size_is_refused_before_training(encoder: str) -> None:
    with pytest.raises(ConfigError, match=r"takes images of 224 x 224 pixels only.*such as resnet"):
        upernet(encoder, drop_path=0.0)


def test_unknown_encoder_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'resnet50'"):
        upernet("resnet_50")


@pytest.mark.parametrize("encoder", ["convnext_atto", "resnet18", "mobilenetv3_small_100"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_load_from_a_file_of_the_whole_model(
    tmp_path: Path, encoder: str, suffix: str
) -> None:
    whole_model = timm.create_model(encoder, pretrained=False).eval()
    path = tmp_path / f"weights{suffix}"
    (torch.save if suffix == ".pth" else save_file)(whole_model.state_dict(), path)
    loaded = upernet(encoder, weights=str(path)).encoder.state_dict()
    saved = whole_model.state_dict()
    not_in_file = [
        name
        for name, value in loaded.items()
        if not any(
            value.shape == other.shape and torch.equal(value, other) for other in saved.values()
        )
    ]
    assert [name for name in not_in_file if not name.endswith("num_batches_tracked")] == []


def test_weights_of_another_encoder_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "resnet18.pth"
    torch.save(timm.create_model("resnet18", pretrained=False).state_dict(), path)
    with pytest.raises(WeightsError, match="not the weights of this encoder"):
        upernet("convnext_atto", weights=str(path))
