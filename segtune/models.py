"""SegFormer and UPerNet from transformers and timm. The only importer of both.

Images of any size from 32 pixels come in normalised, logits at a quarter of the size go out; models never see a mask.
timm is imported where it is used: it takes half a second of a trial's start, and SegFormer needs nothing of it.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import SegformerConfig, SegformerForSemanticSegmentation, SegformerModel, UperNetConfig
from transformers.models.upernet.modeling_upernet import UperNetFCNHead, UperNetHead

from segtune.config import ModelConfig
from segtune.errors import ConfigError, WeightsError, nearest
from segtune.segformer_head import decode
from segtune.weights import absent, load_encoder, read_weights, to_transformers_names, without_prefix

# Weight of UPerNet's auxiliary loss (Zhao et al. 2017, and mmseg's configs).
AUXILIARY_WEIGHT = 0.4

# hidden sizes, depths, width of the head (Xie et al. 2021, table 6). mit_nano is ours: small enough for trials on a CPU.
MIT: dict[str, tuple[list[int], list[int], int]] = {
    "mit_nano": ([16, 32, 64, 96], [1, 1, 1, 1], 64),
    "mit_b0": ([32, 64, 160, 256], [2, 2, 2, 2], 256),
    "mit_b1": ([64, 128, 320, 512], [2, 2, 2, 2], 256),
    "mit_b2": ([64, 128, 320, 512], [3, 4, 6, 3], 768),
    "mit_b3": ([64, 128, 320, 512], [3, 4, 18, 3], 768),
    "mit_b4": ([64, 128, 320, 512], [3, 8, 27, 3], 768),
    "mit_b5": ([64, 128, 320, 512], [3, 6, 40, 3], 768),
}


class SegFormer(nn.Module):
    """A MiT encoder with the all-MLP head."""

    head = ("net.decode_head.",)

    def __init__(self, config: ModelConfig, num_classes: int) -> None:
        super().__init__()
        if config.encoder not in MIT:
            raise ConfigError([f"model.encoder: segformer takes {', '.join(MIT)}; got {config.encoder!r}{nearest(config.encoder, MIT)}"])
        sizes, depths, width = MIT[config.encoder]
        self.net = SegformerForSemanticSegmentation(
            SegformerConfig(
                hidden_sizes=sizes,
                depths=depths,
                num_attention_heads=[1, 2, 4, 8] if config.encoder == "mit_nano" else [1, 2, 5, 8],
                decoder_hidden_size=config.decoder_channels or width,
                drop_path_rate=config.drop_path,
                num_labels=num_classes,  # pyright: ignore[reportCallIssue]
            )
        )
        if config.weights:
            _load_mit(self.net.segformer, config.weights)

    def forward(self, images: Tensor, with_auxiliary: bool = False) -> Any:
        """Returns logits [N, C, h/4, w/4] for images [N, 3, h, w]; with `with_auxiliary` the pair (logits, None)."""
        logits = decode(self.net.decode_head, self.net.segformer(images, output_hidden_states=True).hidden_states)
        return (logits, None) if with_auxiliary else logits


class UPerNet(nn.Module):
    """Any timm encoder with feature maps at 1/4 to 1/32, UPerNet's head, and an FCN head that helps in training."""

    head = ("decode_head.", "auxiliary_head.")

    def __init__(self, config: ModelConfig, num_classes: int) -> None:
        super().__init__()
        self.encoder, self.indices = _timm_encoder(config)
        info = self.encoder.feature_info  # type: ignore[union-attr]
        channels = [info.channels()[i] for i in self.indices]  # type: ignore[operator]
        head = UperNetConfig(hidden_size=config.decoder_channels or 512, num_labels=num_classes, auxiliary_channels=256)  # pyright: ignore[reportCallIssue]
        self.decode_head = UperNetHead(head, channels)
        self.auxiliary_head = UperNetFCNHead(head, channels)
        self.channels = channels
        # Swin keeps channels last, and takes no image that its patches do not tile.
        self.channels_last = getattr(self.encoder, "output_fmt", "NCHW") == "NHWC"
        self.patch = 4 if config.encoder.startswith("swin") else 1

    def forward(self, images: Tensor, with_auxiliary: bool = False) -> Any:
        """Returns logits [N, C, h/4, w/4] for images [N, 3, h, w]; with `with_auxiliary` also those of the FCN head."""
        height, width = images.shape[-2:]
        maps = self.encoder(F.pad(images, (0, -width % self.patch, 0, -height % self.patch)))
        features = [maps[i].permute(0, 3, 1, 2).contiguous() if self.channels_last else maps[i] for i in self.indices]
        logits = self.decode_head(features)
        return (logits, self.auxiliary_head(features)) if with_auxiliary else logits


def build_model(config: ModelConfig, num_classes: int) -> SegFormer | UPerNet:
    """Returns the network of a config: images [N, 3, h, w] normalised -> logits [N, num_classes, h/4, w/4].

    Raises ConfigError for an unknown encoder, WeightsError for weights that are absent or do not fit.
    """
    return SegFormer(config, num_classes) if config.name == "segformer" else UPerNet(config, num_classes)


def sync_norms(model: SegFormer | UPerNet) -> SegFormer | UPerNet:
    """Returns the model with batch norms whose statistics are those of all ranks (PyTorch's SyncBatchNorm)."""
    import timm.layers

    return cast(SegFormer | UPerNet, timm.layers.convert_sync_batchnorm(model))  # pyright: ignore[reportPrivateImportUsage]


def compile_model(model: nn.Module) -> None:
    """Has the network compiled by its first call, which takes minutes; names of parameters stay as they are."""
    # transformers hooks itself into a model at the very first call, and the compiler would stop at that.
    with torch.no_grad():
        model.eval()(torch.zeros(1, 3, 64, 64))
    model.train().compile()


def head_parameters(model: SegFormer | UPerNet) -> tuple[str, ...]:
    """Returns the prefixes of the head's parameter names, which learn at lr * head_lr_mult."""
    return model.head


def check_batch(config: ModelConfig, images: int) -> None:
    """Raises ConfigError where a backward pass on `images` images per worker cannot work."""
    if config.name == "upernet" and images < 2:
        raise ConfigError(
            [
                "schedule.batch_size: UPerNet pools to 1x1 pixel before a BatchNorm, which needs 2 or more images per worker; raise batch_size, or use fewer workers or accumulate 1"
            ]
        )


def _timm_encoder(config: ModelConfig) -> tuple[nn.Module, list[int]]:
    import timm

    options: dict[str, Any] = {"features_only": True, "pretrained": False}
    if config.drop_path:
        options["drop_path_rate"] = config.drop_path
    if not timm.is_model(config.encoder):
        raise ConfigError([f"model.encoder: timm has no {config.encoder!r}{nearest(config.encoder, timm.list_models())}"])
    if config.encoder.startswith("swin"):
        options["strict_img_size"] = False  # crops of any size, padded to windows
    try:
        encoder = timm.create_model(config.encoder, **options)
    except (RuntimeError, TypeError, NotImplementedError) as error:
        # timm has no class of its own for an encoder without feature maps, or without an option: each raises what it comes upon.
        way_out = "; it has no stochastic depth: set model.drop_path: 0" if "drop_path_rate" in str(error) else ""
        raise ConfigError([f"model.encoder: {config.encoder!r} gives no feature maps{way_out or f': {error}'}"]) from None
    reductions: list[int] = encoder.feature_info.reduction()  # type: ignore[union-attr, operator]
    if not {4, 8, 16, 32} <= set(reductions):
        raise ConfigError([f"model.encoder: upernet needs feature maps at 1/4, 1/8, 1/16 and 1/32; {config.encoder!r} has 1/{reductions}"])
    if config.weights:
        _load_timm(encoder, config)
    # The last map of each size, where an encoder has more than one.
    return encoder, [len(reductions) - 1 - reductions[::-1].index(r) for r in (4, 8, 16, 32)]


def _load_timm(encoder: nn.Module, config: ModelConfig) -> None:
    """Loads a file of timm weights, or those of the hub under the encoder's own name (`timm`) or an id."""
    import timm

    given = str(config.weights)
    path = Path(given)
    if path.is_dir():
        path = next(iter([*path.glob("*.safetensors"), *path.glob("pytorch_model.bin")]), path)
    if path.is_file():
        own = encoder.state_dict()
        weights = {_features_name(name, own): value for name, value in without_prefix(read_weights(path)).items()}
        if not weights.keys() <= own.keys():
            # What lies between the last feature map and the classifier (`conv_head`, `final_conv`): only the whole model has it.
            whole = timm.create_model(config.encoder, pretrained=False).state_dict()
            weights = {name: value for name, value in weights.items() if name in own or name not in whole}
        return load_encoder(encoder, weights, str(path))
    try:
        name = f"hf-hub:{given}" if "/" in given else config.encoder
        pretrained = timm.create_model(name, pretrained=True, features_only=True)
    except Exception as error:  # whatever the hub's client raises: no network, no such model, no permission
        raise absent(given, error) from None
    load_encoder(encoder, pretrained.state_dict(), given)


def _features_name(name: str, own: Collection[str]) -> str:
    """Returns what `features_only` calls a parameter: `layers.0.x` is `layers_0.x` there, or `model.layers.0.x`."""
    return next((given for given in (name, name.replace(".", "_", 1), f"model.{name}") if given in own), name)


def _load_mit(encoder: nn.Module, given: str) -> None:
    """Loads a MiT from a file of any naming, a local folder of transformers, or the hub."""
    path = Path(given)
    if path.is_file():
        return load_encoder(encoder, to_transformers_names(read_weights(path)), given)
    if not path.is_dir() and (path.suffix or given.count("/") != 1):
        raise absent(given, "not a hub id of the form owner/name")
    try:
        offline = path.is_dir() or bool(os.environ.get("HF_HUB_OFFLINE"))
        pretrained, report = SegformerModel.from_pretrained(given, local_files_only=offline, output_loading_info=True)  # pyright: ignore[reportGeneralTypeIssues]
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        if path.is_dir():
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise WeightsError(f"model.weights: {given}: expected config.json and model.safetensors of a SegFormer: {reason}") from None
        raise absent(given, error) from None
    # transformers leaves what a file lacks at random, with no more than a warning.
    weights = {name: value for name, value in pretrained.state_dict().items() if name not in report["missing_keys"]}
    load_encoder(encoder, weights, given)
