"""A loss of the user's own package, by import path (`loss.custom.name`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor

from segtune.config.import_path import load_object
from segtune.errors import ConfigError
from segtune.losses.labels import Labelling

SETTING = "loss.custom.name"

# Logits [N, C, H, W] and labels int64 [N, H, W] to a scalar [].
Loss = Callable[[Tensor, Tensor], Tensor]


def load_custom_loss(name: str, num_classes: int, ignore_index: int) -> Loss:
    """Return the loss that the function `name` (package.module:build) builds.

    Raises ConfigError if it cannot be imported, or if it does not return something callable.
    """
    loss = load_object(name, SETTING)(num_classes, ignore_index)
    if not callable(loss):
        raise _problem(
            name, f"returned {loss!r}; expected a function of logits and labels, or a Module"
        )
    return cast(Loss, loss)


def custom_loss(loss: Loss, name: str, logits: Tensor, parts: Sequence[Labelling]) -> Tensor:
    """Return the loss [] of logits [N, C, H, W]; of a mixed batch, the mean over its samples.

    Raises ConfigError if the result is not a scalar of torch, or has no gradient.
    """
    if len(parts) == 1:
        return _checked(loss(logits, parts[0].target), name, logits)
    values = [
        part.share[i] * _checked(loss(logits[i : i + 1], part.target[i : i + 1]), name, logits)
        for part in parts
        if part.share is not None
        for i in range(len(logits))
    ]
    return torch.stack(values).sum() / len(logits)


def _checked(value: object, name: str, logits: Tensor) -> Tensor:
    if not isinstance(value, Tensor):
        raise _problem(name, f"its loss returned {type(value).__name__}; expected a tensor")
    if value.ndim or not value.is_floating_point():
        raise _problem(
            name,
            f"its loss returned {value.dtype} of shape {list(value.shape)}; expected a float "
            "scalar, for example loss.mean()",
        )
    if torch.is_grad_enabled() and logits.requires_grad and not value.requires_grad:
        raise _problem(name, "its loss has no gradient on the logits, so it would train nothing")
    return value


def _problem(name: str, text: str) -> ConfigError:
    return ConfigError([f"{SETTING}: {name}: {text}"])
