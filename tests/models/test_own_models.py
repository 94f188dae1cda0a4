"""Models and backbones of the user's own, from a package outside the repository."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from segtune.config.model_config import ModelConfig
from segtune.errors import ConfigError, WeightsError
from segtune.models.build import build_model

pytestmark = pytest.mark.usefixtures("own_package")

MODEL = {"name": "my_pkg.models:build", "decoder_channels": 8}
BACKBONE = {
    "name": "upernet",
    "encoder": "my_pkg.backbones:build",
    "decoder_channels": 16,
    "drop_path": 0.0,
}


def config(settings: dict[str, object], **changes: object) -> ModelConfig:
    return ModelConfig.parse({**settings, **changes})


def add_module(folder: Path, code: str) -> None:
    (folder / "my_pkg" / "other.py").write_text(f"import torch\nfrom torch import nn\n{code}")


@pytest.mark.parametrize("settings", [MODEL, BACKBONE], ids=["model", "backbone"])
@pytest.mark.parametrize("size", [(64, 64), (33, 47), (70, 90)])
def test_the_code_of_the_page_takes_images_of_any_size(
    settings: dict[str, object], size: tuple[int, int]
) -> None:
    model = build_model(config(settings), 5).eval()
    expected = (2, 5, -(-size[0] // 4), -(-size[1] // 4))
    assert model(torch.randn(2, 3, *size)).shape == expected


def test_settings_reach_the_function_and_the_head_has_its_prefixes() -> None:
    model = build_model(config(MODEL), 5)
    assert model.net.head.weight.shape == (5, 8, 1, 1)  # pyright: ignore
    assert model.head_prefixes == ("net.head.",)
    assert model.classifier_prefixes == ("net.head.",)


def test_the_padding_does_not_change_logits_that_do_not_see_it() -> None:
    model = build_model(config(MODEL), 5).eval()
    images = torch.randn(1, 3, 96, 96)
    whole, part = model(images), model(images[..., :44, :44])
    # A kernel of 3 at a stride of 4 sees one pixel beyond its own four, to the left only.
    assert part.shape[-2:] == (11, 11)
    assert torch.allclose(part, whole[..., :11, :11], atol=1e-6)


def test_an_auxiliary_head_is_used_in_training_only(own_package: Path) -> None:
    add_module(
        own_package,
        "class Net(nn.Module):\n"
        "    size_multiple = 8\n"
        "    def __init__(self):\n        super().__init__()\n"
        "        self.a, self.b = nn.Conv2d(3, 2, 1), nn.Conv2d(3, 2, 1)\n"
        "    def forward(self, images, with_auxiliary=False):\n"
        "        self.width = images.shape[-1]\n"
        "        return (self.a(images), self.b(images)) if with_auxiliary else self.a(images)\n"
        "def build(config, num_classes): return Net()\n",
    )
    model = build_model(config({"name": "my_pkg.other:build"}), 2).eval()
    images = torch.randn(1, 3, 33, 34)
    logits, auxiliary = model(images, with_auxiliary=True)
    assert model.net.width == 40  # padded to a multiple of 8
    assert torch.allclose(logits, model.net.a(images), atol=1e-6)  # pyright: ignore
    assert torch.allclose(auxiliary, model.net.b(images), atol=1e-6)  # pyright: ignore
    assert torch.equal(model(images), logits)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("def build(config, n): return 3", "returns a int; expected a torch.nn.Module"),
        (
            "def build(config, n): return nn.Identity()",
            r"returns a tensor \[1, 3, 64, 96\] of",
        ),
        ("def build(config, n): return nn.Flatten()", r"expected logits, a float tensor \[1, 5, h"),
        (
            "class Net(nn.Conv2d):\n    head_prefixes = ('haed.',)\n"
            "def build(config, n): return Net(3, n, 1)",
            "head_prefixes of your model has 'haed.', but no parameter begins so.*weight, bias",
        ),
    ],
)
def test_a_model_that_returns_no_logits_is_refused_before_training(
    own_package: Path, code: str, expected: str
) -> None:
    add_module(own_package, code)
    with pytest.raises(ConfigError, match=expected):
        build_model(config({"name": "my_pkg.other:build"}), 5)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("def build(config): return nn.Identity()", "needs an attribute 'channels'.*it is None"),
        (
            "class Net(nn.Identity): channels = [1, 2, 3, 4]\ndef build(config): return Net()",
            r"returns a tensor \[1, 3, 64, 96\].*\[1, 1, 16, 24\], \[1, 2, 8, 12\]",
        ),
    ],
)
def test_a_backbone_without_its_four_maps_is_refused_before_training(
    own_package: Path, code: str, expected: str
) -> None:
    add_module(own_package, code)
    with pytest.raises(ConfigError, match=expected):
        build_model(config(BACKBONE, encoder="my_pkg.other:build"), 5)


@pytest.mark.parametrize("settings", [MODEL, BACKBONE], ids=["model", "backbone"])
def test_weights_come_from_a_file_of_any_prefix(
    settings: dict[str, object], tmp_path: Path
) -> None:
    source = build_model(config(settings), 5)
    encoder = (source.net if settings is MODEL else source).encoder.state_dict()  # pyright: ignore
    path = tmp_path / "weights.safetensors"
    save_file({f"model.backbone.{name}": value for name, value in encoder.items()}, path)
    other = build_model(config(settings, weights=str(path)), 5)
    loaded = (other.net if settings is MODEL else other).encoder.state_dict()  # pyright: ignore
    assert all(torch.equal(loaded[name], value) for name, value in encoder.items())
    with pytest.raises(WeightsError, match="code of your own takes only files"):
        build_model(config(settings, weights="timm"), 5)


def test_weights_for_a_model_without_an_encoder_are_refused(
    own_package: Path, tmp_path: Path
) -> None:
    add_module(own_package, "def build(config, n): return nn.Conv2d(3, n, 1)")
    path = tmp_path / "weights.safetensors"
    save_file({"weight": torch.zeros(1)}, path)
    with pytest.raises(ConfigError, match="has no attribute 'encoder'"):
        build_model(config({"name": "my_pkg.other:build"}, weights=str(path)), 5)
