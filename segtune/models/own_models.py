"""Models and backbones of the user's own, from an import path. docs/own-code.md describes them."""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor, nn

from segtune.config.import_path import load_object
from segtune.config.model_config import ModelConfig
from segtune.errors import ConfigError
from segtune.models.encoder_maps import REDUCTIONS, EncoderMaps, try_out
from segtune.models.pretrained import load_encoder
from segtune.models.segmentation_model import (
    TRIED_SIZE,
    SegmentationModel,
    cut_logits,
    freeze_unused,
    pad_to_multiple,
)
from segtune.models.weight_files import local_weights, read_weights, weights_not_found

# Images are padded to multiples of this, unless the user's module has an attribute `size_multiple`.
SIZE_MULTIPLE = 32


class OwnModel(SegmentationModel):
    """A model that the user's function `build(config, num_classes)` has built.

    Its attributes `head_prefixes`, `classifier_prefixes` and `size_multiple` are optional. If its
    `forward` has the parameter `with_auxiliary`, it returns a pair of logits in training.
    """

    def __init__(self, config: ModelConfig, num_classes: int) -> None:
        super().__init__()
        self.net: nn.Module = _built("model.name", config.name, config, num_classes)
        self.head_prefixes = _prefixes(self.net, "head_prefixes")
        self.classifier_prefixes = _prefixes(self.net, "classifier_prefixes")
        self.multiple = _size_multiple(self.net)
        self.has_auxiliary = "with_auxiliary" in inspect.signature(self.net.forward).parameters
        _check_logits(config.name, try_out(self.net, self.multiple), num_classes)
        if config.weights:
            encoder = getattr(self.net, "encoder", None)
            if not isinstance(encoder, nn.Module):
                raise ConfigError(
                    [
                        f"model.weights: the model of {config.name} has no attribute 'encoder', to "
                        "which the weights would belong; name it so, or load the weights in your "
                        "function and leave model.weights out"
                    ]
                )
            _load(encoder, config.weights)
        freeze_unused(self)

    def forward(self, images: Tensor, with_auxiliary: bool = False) -> Any:
        """Return logits [N, C, h/s, w/s] for images [N, 3, h, w] of any size.

        With `with_auxiliary`, return the pair (logits, logits of the auxiliary head or None).
        """
        padded = pad_to_multiple(images, self.multiple)
        if not with_auxiliary:
            return cut_logits(self.net(padded), padded, images)
        if not self.has_auxiliary:
            return cut_logits(self.net(padded), padded, images), None
        logits, auxiliary = self.net(padded, with_auxiliary=True)
        if auxiliary is not None:
            auxiliary = cut_logits(auxiliary, padded, images)
        return cut_logits(logits, padded, images), auxiliary


def build_own_backbone(config: ModelConfig) -> tuple[nn.Module, EncoderMaps]:
    """Return the backbone that the user's function `build(config)` has built, and its maps.

    Raises ConfigError if it does not return four maps at 1/4, 1/8, 1/16 and 1/32 with as many
    channels as its attribute `channels` has, and as `load_encoder` for weights that do not fit.
    """
    path = config.encoder
    backbone = _built("model.encoder", path, config)
    channels = getattr(backbone, "channels", None)
    if not isinstance(channels, list | tuple) or [type(c) for c in channels] != [int] * 4:
        raise ConfigError(
            [
                f"model.encoder: the backbone of {path} needs an attribute 'channels': a list of "
                f"four whole numbers, the channels of its maps at 1/4 to 1/32; it is {channels!r}"
            ]
        )
    multiple = _size_multiple(backbone)
    _check_maps(path, try_out(backbone, multiple), list(channels), multiple)
    if config.weights:
        _load(backbone, config.weights)
    return backbone, EncoderMaps(channels=list(channels), multiple=multiple)


def _built(setting: str, path: str, *arguments: Any) -> Any:
    """Call the user's function and return its module. Raises ConfigError for another type."""
    module = load_object(path, setting)(*arguments)
    if not isinstance(module, nn.Module):
        raise ConfigError(
            [
                f"{setting}: {path} returns a {type(module).__name__}; expected a torch.nn.Module "
                "(docs/own-code.md)"
            ]
        )
    return module


def _prefixes(net: nn.Module, attribute: str) -> tuple[str, ...]:
    """Return the prefixes of the user's module, as they begin in OwnModel."""
    prefixes = getattr(net, attribute, ())
    prefixes = (prefixes,) if isinstance(prefixes, str) else tuple(prefixes)
    names = [name for name, _ in net.named_parameters()]
    for prefix in prefixes:
        if not any(name.startswith(prefix) for name in names):
            raise ConfigError(
                [
                    f"model.name: {attribute} of your model has {prefix!r}, but no parameter "
                    f"begins so; the first ones are {', '.join(names[:3])}"
                ]
            )
    return tuple(f"net.{prefix}" for prefix in prefixes)


def _size_multiple(module: nn.Module) -> int:
    multiple = getattr(module, "size_multiple", SIZE_MULTIPLE)
    if type(multiple) is not int or multiple < 1:
        raise ConfigError(
            [f"docs/own-code.md: size_multiple is a whole number >= 1, got {multiple!r}"]
        )
    return multiple


def _check_logits(path: str, logits: Any, num_classes: int) -> None:
    """Raise ConfigError if the user's model does not return logits for an image of TRIED_SIZE."""
    found = _described(logits)
    is_fitting = isinstance(logits, Tensor) and logits.ndim == 4 and logits.is_floating_point()
    if not is_fitting or tuple(logits.shape[:2]) != (1, num_classes):
        raise ConfigError(
            [
                f"model.name: the model of {path} returns {found} for one image of "
                f"{TRIED_SIZE[0]} x {TRIED_SIZE[1]} pixels; expected logits, a float tensor [1, "
                f"{num_classes}, h, w]"
            ]
        )


def _check_maps(path: str, maps: Any, channels: list[int], multiple: int) -> None:
    """Raise ConfigError if the user's backbone does not return its four maps for one image."""
    sizes = [-(-side // multiple) * multiple for side in TRIED_SIZE]
    expected = [
        [1, count, *(-(-side // reduction) for side in sizes)]
        for count, reduction in zip(channels, REDUCTIONS, strict=True)
    ]
    is_list = isinstance(maps, list | tuple) and all(isinstance(part, Tensor) for part in maps)
    if not is_list or [list(part.shape) for part in maps] != expected:
        raise ConfigError(
            [
                f"model.encoder: the backbone of {path} returns {_described(maps)} for one image "
                f"of {sizes[0]} x {sizes[1]} pixels; expected a list of four tensors {expected}, "
                "the maps at 1/4, 1/8, 1/16 and 1/32"
            ]
        )


def _described(result: Any) -> str:
    if isinstance(result, Tensor):
        return f"a tensor {list(result.shape)} of {str(result.dtype).removeprefix('torch.')}"
    if isinstance(result, list | tuple):
        return f"a list of {len(result)}: [{', '.join(_described(part) for part in result)}]"
    return f"a {type(result).__name__}"


def _load(encoder: nn.Module, source: str) -> None:
    """Load weights from a file or a folder. Raises WeightsError as `load_encoder`."""
    path = local_weights(source)
    if path is None:
        raise weights_not_found(source, "code of your own takes only files")
    load_encoder(encoder, read_weights(path), source)
