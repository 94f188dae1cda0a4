"""DeepLabV3, FCN and LR-ASPP of torchvision."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from segtune.config.model_config import ModelConfig
from segtune.errors import ConfigError, WeightsError
from segtune.models.build import build_model
from segtune.models.torchvision_models import TorchvisionModel

DEEPLAB = "deeplabv3_mobilenet_v3_large"
LRASPP = "lraspp_mobilenet_v3_large"


def build(name: str, **settings: object) -> TorchvisionModel:
    model = build_model(ModelConfig.parse({"name": name, "drop_path": 0.0, **settings}), 4)
    assert isinstance(model, TorchvisionModel)
    return model


@pytest.mark.parametrize("name", [DEEPLAB, "fcn_resnet50", LRASPP])
def test_upsampled_logits_of_both_heads_are_those_of_torchvision(name: str) -> None:
    model = build(name).eval()
    images = torch.randn(2, 3, 70, 90)
    with torch.no_grad():
        logits, auxiliary = model(images, with_auxiliary=True)
        expected = model.net(images)
    assert set(expected) == ({"out"} if auxiliary is None else {"out", "aux"})
    for ours, key in ((logits, "out"), (auxiliary, "aux")):
        if ours is not None:
            upsampled = F.interpolate(ours, size=(70, 90), mode="bilinear", align_corners=False)
            assert torch.equal(upsampled, expected[key])
    assert torch.equal(model(images), logits)


def test_the_name_decides_the_encoder() -> None:
    assert ModelConfig.parse({"name": "fcn_resnet101"}).encoder == "resnet101"
    assert ModelConfig().override({"name": DEEPLAB}).encoder == "mobilenet_v3_large"


@pytest.mark.parametrize(
    ("setting", "value", "expected"),
    [
        ("encoder", "resnet18", "has the encoder mobilenet_v3_large, got 'resnet18'.*smp:DeepLab"),
        ("drop_path", 0.1, r"set model\.drop_path: 0"),
        ("decoder_channels", 64, "has a fixed width"),
    ],
)
def test_settings_that_torchvision_does_not_have_are_refused(
    setting: str, value: object, expected: str
) -> None:
    with pytest.raises(ConfigError, match=expected):
        build(DEEPLAB, **{setting: value})


def test_encoder_weights_come_from_a_file_of_the_encoder_or_of_the_whole_model(
    tmp_path: Path,
) -> None:
    from torchvision.models import get_model

    encoder = get_model("mobilenet_v3_large", weights=None).state_dict()
    whole = build(LRASPP).net.state_dict()
    for weights, prefix in ((encoder, "features."), (whole, "backbone.")):
        save_file(weights, tmp_path / "weights.safetensors")
        loaded = build(DEEPLAB, weights=str(tmp_path / "weights.safetensors")).net.backbone
        for name, value in loaded.state_dict().items():
            assert torch.equal(value, weights[prefix + name])


def test_torchvisions_own_weights_come_from_its_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision.models import MobileNet_V3_Large_Weights, get_model

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    weights = get_model("mobilenet_v3_large", weights=None).state_dict()
    url = MobileNet_V3_Large_Weights.IMAGENET1K_V1.url
    torch.save(weights, cache / url.rpartition("/")[2])
    loaded = build(DEEPLAB, weights="torchvision").net.backbone.state_dict()
    assert torch.equal(loaded["0.0.weight"], weights["features.0.0.weight"])
    with pytest.raises(WeightsError, match=r"'timm' is no file .*other word is torchvision"):
        build(DEEPLAB, weights="timm")
