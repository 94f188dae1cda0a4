"""A checkpoint's model, and the images that it predicts. Predicts nothing itself."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from segtune.config.import_path import refuse_own_code
from segtune.config.schema import ExperimentConfig
from segtune.config.yaml_io import parse_assignments
from segtune.errors import CheckpointError, DataError, first_of
from segtune.training.overlays import InputImage

if TYPE_CHECKING:
    import torch

    from segtune.training.checkpoint import Manifest

log = logging.getLogger(__name__)


def load_model(
    path: str | Path,
    config: ExperimentConfig | None,
    device: torch.device,
    overrides: Sequence[str] = (),
    *,
    check_classes: bool = False,
) -> tuple[torch.nn.Module, ExperimentConfig, Path]:
    """Return the model of a checkpoint in evaluation mode, its config, and the checkpoint's folder.

    `path` is as in `find_checkpoint`. If `config` is None, the config in the checkpoint is
    used. `overrides` are `name=value` texts that change it, for example if the data set has moved
    since. The data set is read only with `check_classes`, which compares its classes with those of
    the checkpoint. Raise CheckpointError if there is no checkpoint, if it is damaged, or if it has
    another architecture or another number of classes.
    """
    from segtune.models.build import build_model
    from segtune.training import checkpoint
    from segtune.training.locate import find_checkpoint

    folder = find_checkpoint(path)
    manifest = checkpoint.verify(folder, weights_only=True)
    trained = ExperimentConfig.parse(manifest.config)
    if config is None or manifest.classes is None:
        # Without class names, they are read with the settings of the data set in the checkpoint.
        refuse_own_code(trained, str(folder))
    config = config or trained
    if config.data.value_range is None:  # the model expects the pixels that it was trained with
        config = config.override({"data.value_range": trained.data.value_range})
    if overrides:
        config = config.override(*parse_assignments(overrides))
    num_classes = _num_classes(folder, manifest, trained)
    if check_classes:
        # Early checkpoints do not name their classes; the file with the names may still be there.
        trained_names = checkpoint.class_names_in(manifest) or names_in(trained)
        _compare_classes(config, trained_names, num_classes, folder)
    # Not the pretrained weights of the config: the checkpoint replaces them all.
    model = build_model(config.model.override({"weights": None}), num_classes)
    checkpoint.load_into(model, folder)
    return model.to(device).eval(), config, folder


def _num_classes(folder: Path, manifest: Manifest, config: ExperimentConfig) -> int:
    """Return how many classes a checkpoint's weights predict.

    Early checkpoints do not name their classes. They have one of two heads, so the number is that
    of the weights: the file with the class names may be gone with the data set.
    """
    from safetensors import SafetensorError, safe_open

    from segtune.data.layouts import class_names
    from segtune.training.checkpoint import WEIGHTS

    if manifest.classes is not None:
        return len(manifest.classes)
    try:
        with safe_open(folder / WEIGHTS, "pt") as weights:
            for name in weights.keys():  # noqa: SIM118 - not a mapping
                if name.endswith("decode_head.classifier.bias"):
                    return weights.get_slice(name).get_shape()[0]
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{folder / WEIGHTS}: not readable: {error}") from None
    return len(class_names(config.data))


def names_in(config: ExperimentConfig) -> tuple[str, ...]:
    """Return the class names of a config, or nothing if its data set is gone."""
    from segtune.data.layouts import class_names

    try:
        return class_names(config.data)
    except DataError:
        return ()


def _compare_classes(
    config: ExperimentConfig, trained_names: Sequence[str], num_classes: int, folder: Path
) -> None:
    """Raise CheckpointError for another number of classes; warn of other names."""
    from segtune.data.layouts import class_names

    names = class_names(config.data)
    if len(trained_names) != num_classes:
        trained_names = ()  # the file with the names has changed
    if len(names) != num_classes:
        of_checkpoint = f" ({first_of(trained_names, 3)})" if trained_names else ""
        raise CheckpointError(
            f"data.classes: {len(names)} classes ({first_of(names, 3)}), but {folder} predicts "
            f"{num_classes} classes{of_checkpoint}; use the classes that it was trained with, in "
            "the same order, or train a model for these classes"
        )
    pairs = zip(names, trained_names, strict=False)
    other = [label for label, (ours, theirs) in enumerate(pairs) if ours != theirs]
    if other:
        label = other[0]
        log.warning(
            "data.classes: %d of %d names differ from those that %s was trained with: label %d is "
            "%r here and %r there; the model predicts labels, so the order has to be the same",
            len(other),
            num_classes,
            folder,
            label,
            names[label],
            trained_names[label],
        )


def validation_images(config: ExperimentConfig) -> list[InputImage]:
    """Return the images of the validation split with the names of their overlays."""
    from segtune.data.layouts import open_split
    from segtune.training.overlays import named_images

    return named_images(pair.image for pair in open_split(config.data, "val"))
