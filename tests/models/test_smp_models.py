"""The architectures of segmentation_models_pytorch."""

import builtins
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from segtune.config.model_config import ModelConfig
from segtune.errors import ConfigError, WeightsError
from segtune.models.build import build_model, check_batch

pytest.importorskip("segmentation_models_pytorch")

ENCODER = "tu-mobilenetv3_small_050"
STRIDES = {
    "Unet": 1,
    "UnetPlusPlus": 1,
    "MAnet": 1,
    "Linknet": 1,
    "FPN": 4,
    "PSPNet": 8,
    "PAN": 4,
    "DeepLabV3": 8,
    "DeepLabV3Plus": 4,
    "UPerNet": 4,
    "Segformer": 4,
}


def build(name: str, encoder: str = ENCODER, **settings: object) -> Any:
    config = {"name": f"smp:{name}", "encoder": encoder, "drop_path": 0.0, **settings}
    return build_model(ModelConfig.parse(config), 3)


@pytest.mark.parametrize(("name", "stride"), STRIDES.items())
def test_images_of_any_size_give_logits_of_their_size_and_the_smallest_batch_trains(
    name: str, stride: int
) -> None:
    model = build(name).eval()
    for height, width in [(64, 64), (33, 47)]:
        with torch.no_grad():
            logits = model(torch.randn(1, 3, height, width))
        assert logits.shape == (1, 3, -(-height // stride), -(-width // stride))
    num_images = 1
    model.train()
    try:
        check_batch(ModelConfig.parse({"name": f"smp:{name}"}), 1)
    except ConfigError:
        num_images = 2
        with pytest.raises(ValueError, match="more than 1 value per channel"):
            model(torch.randn(1, 3, 128, 128))
    model(torch.randn(num_images, 3, 128, 128)).square().mean().backward()
    # DDP waits for the gradient of every parameter that is trained.
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    assert all(p.grad is None for p in model.parameters() if not p.requires_grad)


def test_layers_after_the_last_map_are_not_trained() -> None:
    frozen = [
        n for n, p in build("FPN", "efficientnet-b0").named_parameters() if not p.requires_grad
    ]
    layers = ("_conv_head.weight", "_bn1.weight", "_bn1.bias")
    assert frozen == [f"net.encoder.{layer}" for layer in layers]


def test_building_a_model_leaves_its_batch_norms_as_new() -> None:
    norms = [m for m in build("Unet").modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert norms
    assert all(m.num_batches_tracked == 0 and m.running_mean.eq(0).all() for m in norms)


def test_a_vit_goes_with_dpt() -> None:
    model = build("DPT", "tu-vit_tiny_patch16_224").eval()
    assert model(torch.randn(1, 3, 70, 90)).shape[:2] == (1, 3)
    classifier = [n for n, _ in model.named_parameters() if n.startswith(model.classifier_prefixes)]
    assert [model.get_parameter(name).shape[0] for name in classifier] == [3, 3]


def test_all_but_the_encoder_learns_as_the_head() -> None:
    model = build("FPN", "resnet18")
    others = [n for n, _ in model.named_parameters() if not n.startswith(model.head_prefixes)]
    assert {name.split(".")[1] for name in others} == {"encoder"}
    classifier = [n for n, _ in model.named_parameters() if n.startswith(model.classifier_prefixes)]
    assert [model.get_parameter(name).shape[0] for name in classifier] == [3, 3]


def test_drop_path_and_width_reach_the_library() -> None:
    model = build("DeepLabV3Plus", "tu-convnext_atto", drop_path=0.3, decoder_channels=32)
    rates = [getattr(module, "drop_prob", 0) for module in model.modules()]
    assert max(r for r in rates if isinstance(r, float)) == pytest.approx(0.3)
    assert model.net.segmentation_head[0].weight.shape[:2] == (3, 32)


@pytest.mark.parametrize(
    ("name", "settings", "expected"),
    [
        ("Unet", {"encoder": "mit_b0"}, "licence that forbids commercial use.*model.name: segform"),
        ("Unet", {"encoder": "resnet5"}, "has no 'resnet5'; did you mean 'resnet50'"),
        ("Unet", {"encoder": "tu-resnet5"}, "timm has no 'resnet5'; did you mean 'resnet50'"),
        ("Unett", {}, "has no 'Unett'; did you mean 'smp:Unet'.*smp:FPN"),
        ("Unet", {"decoder_channels": 64}, "more than one width"),
        ("Unet", {"encoder": "resnet18", "drop_path": 0.1}, r"set model\.drop_path: 0"),
        ("DeepLabV3", {"encoder": "vgg11"}, "'vgg11' does not go with smp:DeepLabV3"),
    ],
)
def test_wrong_settings_are_refused_with_a_way_out(
    name: str, settings: dict[str, Any], expected: str
) -> None:
    with pytest.raises(ConfigError, match=expected):
        build(name, **settings)


def test_without_the_package_the_message_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    real_import = builtins.__import__

    def without(name: str, *arguments: Any, **options: Any) -> Any:
        if name == "segmentation_models_pytorch":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real_import(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match=r'pip install "segtune\[smp\]"'):
        build("Unet")


@pytest.mark.parametrize("encoder", ["resnet18", "tu-resnet18", "tu-convnext_atto"])
def test_encoder_weights_come_from_a_file_of_the_whole_model(tmp_path: Path, encoder: str) -> None:
    import timm

    saved = timm.create_model(encoder.removeprefix("tu-"), pretrained=False).state_dict()
    path = tmp_path / "weights.safetensors"
    save_file(saved, path)
    loaded = build("FPN", encoder, weights=str(path)).net.encoder.state_dict()
    values = [(value.shape, value.sum().item()) for value in saved.values()]
    for name, value in loaded.items():
        if not name.endswith("num_batches_tracked"):
            assert (value.shape, value.sum().item()) in values, name
    with pytest.raises(WeightsError, match=r"model\.weights"):
        build("FPN", encoder, weights="nowhere.pth")
