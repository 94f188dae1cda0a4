"""The weights that a new training run takes from a checkpoint, class by class. Trains nothing."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from segtune.config.import_path import is_import_path
from segtune.config.model_config import ModelConfig
from segtune.config.schema import ExperimentConfig
from segtune.errors import CheckpointError, first_of
from segtune.models.segmentation_model import SegmentationModel
from segtune.training import checkpoint
from segtune.training.checkpoint import Manifest
from segtune.training.locate import find_checkpoint

log = logging.getLogger(__name__)

# Warn of a learning rate above this multiple of the rate at which the checkpoint's training run
# ended, or of a hundredth of its peak: such a learning rate has taken mIoU to 0.
LARGE_LR_FACTOR = 10

# At most this many class names are listed in a message.
MAX_SHOWN = 5


def load_initial_weights(
    model: SegmentationModel, source: Path, config: ExperimentConfig, classes: Sequence[str]
) -> bool:
    """Load the weights that a new training run starts from; warn if `optim.lr` may ruin them.

    `source` is a checkpoint or a file in it, or the folder of a training run or of a search run.
    `classes` are the names of the model's classes. The classifier takes the weights of the classes
    that have the same name in the checkpoint; the others keep their random weights, which is
    logged. Return whether all classes have weights of the checkpoint. Raises CheckpointError if it
    is of another architecture.
    """
    path = find_checkpoint(source)
    manifest = checkpoint.verify(path, weights_only=True)
    weights = checkpoint.load_weights(path)
    _check_model(path, manifest, model, weights, config.model)
    layers = _classifiers(model)
    saved = checkpoint.class_names_in(manifest)
    # A model of the user's own may not name its classifier. Then all its tensors have fitted.
    num_saved = len(weights[layers[0]]) if layers else len(saved or classes)
    if saved is None and num_saved == len(classes):
        log.warning("--init-from %s: its classes have no names; taken in their order", path)
        saved = tuple(classes)
    rows = [saved.index(name) if saved and name in saved else None for name in classes]
    if rows != list(range(num_saved)):
        if not layers:
            raise _no_classifier(path, saved or (), classes)
        _log_classes(path, layers, rows, classes, saved or ("?",) * num_saved)
        fresh = model.state_dict()
        for name in layers:
            weights[name] = _take_rows(fresh[name].cpu(), weights[name], rows)
    model.load_state_dict(weights)
    _warn_of_large_rate(config.optim.lr, manifest, path)
    return None not in rows


def _no_classifier(path: Path, saved: Sequence[str], classes: Sequence[str]) -> CheckpointError:
    return CheckpointError(
        f"--init-from {path}: other classes or another order, {len(saved)} there "
        f"({first_of(saved, MAX_SHOWN)}) and {len(classes)} here ({first_of(classes, MAX_SHOWN)}); "
        "name the layers that have a row for each class in the attribute classifier_prefixes of "
        "your model (docs/own-code.md)"
    )


def _classifiers(model: SegmentationModel) -> list[str]:
    """Return the names of the parameters that have a row for each class."""
    return [name for name in model.state_dict() if name.startswith(model.classifier_prefixes)]


def _take_rows(fresh: Tensor, saved: Tensor, rows: Sequence[int | None]) -> Tensor:
    """Return `fresh` with the rows of `saved` that `rows` names, one for each class."""
    taken = [fresh[i] if row is None else saved[row] for i, row in enumerate(rows)]
    return torch.stack(taken)


def _log_classes(
    path: Path,
    layers: Sequence[str],
    rows: Sequence[int | None],
    classes: Sequence[str],
    saved: Sequence[str],
) -> None:
    modules = ", ".join(dict.fromkeys(name.rpartition(".")[0] for name in layers))
    taken = [name for name, row in zip(classes, rows, strict=True) if row is not None]
    left_out = [name for name, row in zip(classes, rows, strict=True) if row is None]
    parts = []
    if taken:
        names = first_of(taken, MAX_SHOWN)
        parts.append(f"{len(taken)} classes of the same name keep their weights ({names})")
    if left_out:
        names = first_of(left_out, MAX_SHOWN)
        parts.append(f"{len(left_out)} start from random weights ({names})")
    log.warning(
        "--init-from %s: other classes or another order, %d there (%s) and %d here; in the "
        "classifier (%s) %s",
        path,
        len(saved),
        first_of(saved, MAX_SHOWN),
        len(classes),
        modules,
        ", ".join(parts),
    )


def _check_model(
    path: Path,
    manifest: Manifest,
    model: SegmentationModel,
    weights: Mapping[str, Tensor],
    config: ModelConfig,
) -> None:
    """Raise CheckpointError if the weights are of another architecture, or not finite."""
    expected = model.state_dict()
    saved = manifest.config.get("model", {})
    differing = _differing_settings(config, saved)
    fits = weights.keys() == expected.keys() and all(
        _shape(name, value, model) == _shape(name, expected[name], model)
        for name, value in weights.items()
    )
    if fits and not any(name in ("name", "encoder") for name in differing):
        return _check_finite(path, weights)
    if not differing:
        return checkpoint.load_into(model, path)  # raises, and lists the shapes
    listed = ", ".join(
        f"model.{name} is {ours!r} here and {theirs!r} there"
        for name, (ours, theirs) in differing.items()
    )
    as_there = " ".join(
        f"--set model.{name}={'null' if theirs is None else theirs}"
        for name, (_, theirs) in differing.items()
    )
    encoder_only = ""
    if "encoder" not in differing:
        encoder_only = f", or take only its encoder, with --set model.weights={path} instead"
    raise CheckpointError(
        f"--init-from {path}: another model: {listed}. To start from these weights, use "
        f"{as_there}{encoder_only}"
    )


def _shape(name: str, value: Tensor, model: SegmentationModel) -> torch.Size:
    """Return the shape of a tensor, of a classifier without the number of classes."""
    return value.shape[1:] if name.startswith(model.classifier_prefixes) else value.shape


def _differing_settings(
    config: ModelConfig, saved: Mapping[str, Any]
) -> dict[str, tuple[Any, Any]]:
    """Return {name: (ours, theirs)} of the settings that decide the shapes of a model."""
    ours = config.dump()
    # timm's tag names other weights of the same encoder: resnet50.a1_in1k.
    return {
        name: (ours[name], saved[name])
        for name in ("name", "encoder", "decoder_channels")
        if name in saved and _untagged(ours[name]) != _untagged(saved[name])
    }


def _untagged(value: Any) -> Any:
    if is_import_path(value):
        return value
    return value.split(".")[0] if isinstance(value, str) else value


def _check_finite(path: Path, weights: Mapping[str, Tensor]) -> None:
    for name, value in weights.items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise CheckpointError(
                f"--init-from {path}: {name!r} has values that are not finite (NaN or infinite); "
                "take a checkpoint from before its training run diverged"
            )


def _warn_of_large_rate(lr: float, manifest: Manifest, path: Path) -> None:
    peak = manifest.config.get("optim", {}).get("lr", 0.0)
    # At the end of a schedule the rate is 0. Weights stand a tenth of their peak rate.
    if lr > LARGE_LR_FACTOR * max(manifest.lr, peak / LARGE_LR_FACTOR**2):
        log.warning(
            "optim.lr %.3g is far above the rate at which %s ended (%.3g; its peak was %.3g): a "
            "large rate on a converged model can take mIoU to 0",
            lr,
            path,
            manifest.lr,
            peak,
        )
