"""UPerNet takes the encoders of timm: their layouts, their options, and their weights."""

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from segtune.config.model_config import ModelConfig
from segtune.errors import ConfigError, WeightsError
from segtune.models.encoder_maps import FeaturePyramid
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


def with_dropout(rate: float) -> UPerNet:
    torch.manual_seed(0)
    return upernet("resnet18", drop_path=0.0, dropout=rate)


def test_dropout_changes_neither_the_initial_weights_nor_a_prediction() -> None:
    images = torch.randn(2, 3, 64, 64)
    none, half = with_dropout(0.0).eval(), with_dropout(0.5).eval()
    for name, value in none.state_dict().items():
        assert torch.equal(value, half.state_dict()[name])
    assert torch.equal(none(images), half(images))


def test_dropout_drops_channels_in_both_heads_in_training() -> None:
    images = torch.randn(2, 3, 64, 64)
    model = with_dropout(1.0).train()
    for head, logits in zip(
        (model.decode_head, model.auxiliary_head), model(images, with_auxiliary=True), strict=True
    ):
        assert torch.equal(logits, head.classifier.bias[None, :, None, None].expand_as(logits))


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


@pytest.mark.parametrize(
    ("encoder", "channels"), [("vit_tiny_patch16_224", 192), ("vit_pwee_patch16_reg1_gap_256", 256)]
)
def test_a_plain_vit_gets_maps_of_four_sizes_from_four_blocks(encoder: str, channels: int) -> None:
    model = upernet(encoder).eval()
    depth = len(model.encoder.model.blocks)  # pyright: ignore
    assert model.encoder.out_indices == [depth * i // 4 - 1 for i in (1, 2, 3, 4)]
    maps = model.neck(model.maps.take(model.encoder, torch.randn(1, 3, 64, 96)))  # pyright: ignore
    assert [tuple(part.shape[1:]) for part in maps] == [
        (channels, 64 // reduction, 96 // reduction) for reduction in (4, 8, 16, 32)
    ]
    assert model(torch.randn(1, 3, 33, 47)).shape == (1, 3, 9, 12)


def test_patches_of_14_pixels_give_the_same_sizes() -> None:
    pyramid = FeaturePyramid(8, patch_size=14)
    maps = pyramid([torch.randn(1, 8, 16, 32)] * 4)  # an image of 224 x 448 pixels
    assert [tuple(part.shape[2:]) for part in maps] == [(56, 112), (28, 56), (14, 28), (7, 14)]


def test_all_but_the_vit_learns_as_the_head() -> None:
    model = upernet("vit_tiny_patch16_224")
    others = {n for n, _ in model.named_parameters() if not n.startswith(model.head_prefixes)}
    assert {name.split(".")[0] for name in others} == {"encoder"}


def test_weights_of_a_vit_load_from_a_file_of_the_whole_model(tmp_path: Path) -> None:
    saved = timm.create_model("vit_tiny_patch16_224", pretrained=False).state_dict()
    save_file(saved, tmp_path / "vit.safetensors")
    loaded = upernet("vit_tiny_patch16_224", weights=str(tmp_path / "vit.safetensors")).encoder
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, saved[name.removeprefix("model.")])
