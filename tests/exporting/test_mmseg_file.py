"""A checkpoint for mmseg: segtune reads its encoder back, mmseg's head gives its logits."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from trained import train

import segtune
from segtune.config.model_config import ModelConfig
from segtune.errors import RunError
from segtune.exporting.source import open_source
from segtune.models.build import build_model
from segtune.models.mmseg_weights import to_mmseg
from segtune.models.segformer import SegFormer


class ConvModule(nn.Module):
    """mmcv's: a convolution without a bias, a BatchNorm, and a ReLU unless `act_cfg` is None."""

    def __init__(self, inside: int, outside: int, *, has_relu: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inside, outside, 1, bias=False)
        self.bn = nn.BatchNorm2d(outside)
        self.has_relu = has_relu

    def forward(self, maps: Tensor) -> Tensor:
        maps = self.bn(self.conv(maps))
        return F.relu(maps) if self.has_relu else maps


class SegformerHead(nn.Module):
    """The decode head of mmseg 1.2 in evaluation mode, with `act_cfg=None`."""

    def __init__(self, channels: list[int], width: int, num_classes: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(ConvModule(c, width, has_relu=False) for c in channels)
        self.fusion_conv = ConvModule(width * len(channels), width, has_relu=True)
        self.conv_seg = nn.Conv2d(width, num_classes, 1)

    def forward(self, maps: list[Tensor]) -> Tensor:
        size = maps[0].shape[2:]
        scaled = [
            F.interpolate(conv(part), size=size, mode="bilinear", align_corners=False)
            for conv, part in zip(self.convs, maps, strict=True)
        ]
        return self.conv_seg(self.fusion_conv(torch.cat(scaled, dim=1)))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, shapes_root: Path) -> Path:
    changes = {"model.encoder": "mit_b0", "schedule.epochs": 1, "schedule.val_every": 1}
    return train(tmp_path_factory.mktemp("b0") / "run", shapes_root, **changes)


def test_round_trip_gives_the_same_logits(run: Path, tmp_path: Path) -> None:
    (written,) = segtune.export_model(run, mmseg=tmp_path / "a.pth")
    assert "decode_head.act_cfg=None" in written.sentence
    source = open_source(run)
    ours = source.model
    # The encoder through segtune's own reader of mmseg's files.
    weights = str(tmp_path / "a.pth")
    read = build_model(ModelConfig(encoder="mit_b0", weights=weights), len(source.classes)).eval()
    assert isinstance(ours, SegFormer)
    assert isinstance(read, SegFormer)
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        maps = read.net.segformer(images, output_hidden_states=True).hidden_states
        expected = ours.net.segformer(images, output_hidden_states=True).hidden_states
        assert all(torch.equal(one, other) for one, other in zip(maps, expected, strict=True))
        content = torch.load(tmp_path / "a.pth", weights_only=True)
        settings = content["meta"]["model"]["decode_head"]
        head = SegformerHead(
            settings["in_channels"], settings["channels"], settings["num_classes"]
        ).eval()
        prefix = "decode_head."
        of_head = {n: v for n, v in content["state_dict"].items() if n.startswith(prefix)}
        head.load_state_dict({name.removeprefix(prefix): v for name, v in of_head.items()})
        assert torch.allclose(head(list(maps)), ours(images), atol=1e-5)


def test_names_are_those_of_mmseg(run: Path) -> None:
    source = open_source(run)
    assert isinstance(source.model, SegFormer)
    weights = to_mmseg(source.model)
    # Names and shapes as in mmseg's segformer_mit-b0 checkpoints.
    assert weights["backbone.layers.0.0.projection.weight"].shape == (32, 3, 7, 7)
    assert weights["backbone.layers.0.1.0.attn.attn.in_proj_weight"].shape == (96, 32)
    assert weights["backbone.layers.0.1.0.attn.sr.weight"].shape == (32, 32, 8, 8)
    assert weights["backbone.layers.0.1.0.ffn.layers.0.weight"].shape == (128, 32, 1, 1)
    assert weights["backbone.layers.0.1.0.ffn.layers.1.weight"].shape == (128, 1, 3, 3)
    assert weights["backbone.layers.3.2.bias"].shape == (256,)
    assert weights["decode_head.convs.3.conv.weight"].shape == (256, 256, 1, 1)
    assert weights["decode_head.fusion_conv.conv.weight"].shape == (256, 1024, 1, 1)
    assert weights["decode_head.conv_seg.weight"].shape == (7, 256, 1, 1)
    num_values = sum(value.numel() for value in weights.values() if value.is_floating_point())
    ours = sum(value.numel() for value in source.model.state_dict().values())
    # The four norms of the head have a weight, a mean and a variance more than a bias.
    counters = 1  # of segtune's one BatchNorm, which is no float
    assert num_values == ours - counters + 4 * 3 * 256


def test_meta_has_classes_and_colours_for_both_versions_of_mmseg(run: Path, tmp_path: Path) -> None:
    segtune.export_model(run, mmseg=tmp_path / "a.pth")
    meta = torch.load(tmp_path / "a.pth", weights_only=True)["meta"]
    classes = list(open_source(run).classes)
    assert meta["CLASSES"] == meta["dataset_meta"]["classes"] == classes
    assert len(meta["PALETTE"]) == len(meta["dataset_meta"]["palette"]) == len(classes)
    assert meta["model"]["decode_head"]["act_cfg"] is None


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("upernet", "the model is upernet, but only segformer"),
        ("segformer", "mit_nano is segtune's own"),
    ],
)
def test_other_architectures_are_refused_before_anything_is_written(
    kind: str, reason: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    run: Path = request.getfixturevalue(kind)
    with pytest.raises(RunError, match=f"--mmseg: {reason}"):
        segtune.export_model(run, mmseg=tmp_path / "a.pth", card=tmp_path / "a.md")
    assert list(tmp_path.iterdir()) == []
