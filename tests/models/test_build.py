"""Laws of every model: the size of its logits, its gradients, and how it is built."""

import socket

import pytest
import torch

from segtune.config.loss_config import LossConfig
from segtune.config.model_config import ModelConfig
from segtune.config.optim_config import OptimConfig
from segtune.errors import ConfigError
from segtune.losses.segmentation import SegmentationLoss
from segtune.models.build import build_model, check_batch, head_parameters, sync_norms
from segtune.training.optimizer import build_optimizer

SEGFORMER: dict[str, object] = {"encoder": "mit_nano"}
UPERNET: dict[str, object] = {
    "name": "upernet",
    "encoder": "convnext_atto",
    "decoder_channels": 16,
}
UPERNET_RESNET = UPERNET | {"encoder": "resnet18"}
UPERNET_VIT = UPERNET | {"encoder": "vit_tiny_patch16_224"}
DEEPLAB: dict[str, object] = {"name": "deeplabv3_mobilenet_v3_large", "drop_path": 0.0}
LRASPP = DEEPLAB | {"name": "lraspp_mobilenet_v3_large"}
UNET: dict[str, object] = {"name": "smp:Unet", "encoder": "resnet18", "drop_path": 0.0}
ALL = [SEGFORMER, UPERNET, UPERNET_VIT, DEEPLAB, LRASPP, UNET]
IDS = ["segformer", "upernet", "vit", "deeplab", "lraspp", "unet"]


@pytest.mark.parametrize(
    "settings", [SEGFORMER, UPERNET, UPERNET_RESNET], ids=["segformer", "convnext", "resnet"]
)
@pytest.mark.parametrize("size", [(64, 64), (32, 32), (33, 47), (70, 90)])
def test_logits_are_a_quarter_of_the_image(
    settings: dict[str, object], size: tuple[int, int]
) -> None:
    model = build_model(ModelConfig.parse(settings), 7).eval()
    logits = model(torch.randn(2, 3, *size))
    assert logits.shape[:2] == (2, 7)
    assert abs(logits.shape[2] - size[0] / 4) <= 1
    assert abs(logits.shape[3] - size[1] / 4) <= 1


def test_models_are_built_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    connections: list[object] = []

    def refuse(*target: object) -> None:
        connections.append(target)
        pytest.fail("building a model opened a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    for settings in (*ALL, UPERNET_RESNET):
        build_model(ModelConfig.parse(settings), 3)
    assert connections == []


@pytest.mark.parametrize("settings", ALL, ids=IDS)
def test_gradient_reaches_every_parameter_through_all_heads(settings: dict[str, object]) -> None:
    model = build_model(ModelConfig.parse(settings), 3)
    logits, auxiliary = model(torch.randn(2, 3, 64, 64), with_auxiliary=True)
    loss = logits.square().mean()
    if auxiliary is not None:
        loss = loss + auxiliary.square().mean()
    loss.backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("settings", [SEGFORMER, UPERNET], ids=["segformer", "upernet"])
def test_drop_path_reaches_the_encoder(settings: dict[str, object]) -> None:
    model = build_model(ModelConfig.parse(settings | {"drop_path": 0.3}), 3)
    rates = [getattr(module, "drop_prob", 0) for module in model.modules()]
    assert max(rate for rate in rates if isinstance(rate, float)) == pytest.approx(0.3)


def test_upernet_needs_two_images_per_worker() -> None:
    with pytest.raises(ConfigError, match="2 or more images per worker"):
        check_batch(ModelConfig.parse(UPERNET), 1)
    check_batch(ModelConfig.parse(UPERNET), 2)
    check_batch(ModelConfig.parse(SEGFORMER), 1)


@pytest.mark.parametrize("settings", ALL, ids=IDS)
def test_steps_on_one_batch_reduce_the_loss_of_a_model_whose_head_learns_faster(
    settings: dict[str, object],
) -> None:
    torch.manual_seed(0)
    model = build_model(ModelConfig.parse(settings), 3).train()
    optim = OptimConfig(lr=1e-3, head_lr_mult=2.0)
    optimizer = build_optimizer(model, optim, head_parameters(model))
    rates = {group["lr"] for group in optimizer.param_groups}
    assert rates == {1e-3, 2e-3}
    images, mask = torch.randn(2, 3, 64, 64), torch.randint(3, (2, 64, 64))
    loss = SegmentationLoss(LossConfig(), 3)
    values = []
    for _ in range(6):
        logits, auxiliary = model(images, with_auxiliary=True)
        total = loss(logits, mask)["total"]
        if auxiliary is not None:
            total = total + 0.4 * loss(auxiliary, mask)["total"]
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        values.append(total.item())
    assert values[-1] < values[0]


@pytest.mark.parametrize(
    ("name", "encoder"),
    [
        ("segformer", "mit_nano"),
        ("upernet", "mobilenetv3_small_050"),
        ("lraspp_mobilenet_v3_large", "mobilenet_v3_large"),
        ("smp:FPN", "tu-mobilenetv3_small_050"),
    ],
)
def test_synchronised_norms_have_the_same_weights_under_the_same_names(
    name: str, encoder: str
) -> None:
    config = ModelConfig.parse({"name": name, "encoder": encoder, "drop_path": 0.0})
    model = build_model(config, 3).eval()
    images = torch.randn(2, 3, 64, 64)
    names = list(model.state_dict())
    logits = model(images)
    synced = sync_norms(model)
    assert not any(type(module).__name__.startswith("BatchNorm") for module in synced.modules())
    assert list(synced.state_dict()) == names
    assert torch.equal(synced(images), logits)
