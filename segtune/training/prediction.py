"""A checkpoint's model, and its predictions as colours over images. Computes no scores."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from segtune.config.import_path import refuse_own_code
from segtune.config.schema import ExperimentConfig
from segtune.config.yaml_io import parse_assignments
from segtune.errors import CheckpointError, DataError, first_of
from segtune.training.overlays import InputImage, check_free, write_overlay

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

    from segtune.training.checkpoint import Manifest

log = logging.getLogger(__name__)

# Pixels of a resized image that the network takes at once: 2048 x 1024, the size of Cityscapes. The
# first attention of SegFormer takes 4 / 4096 bytes per pixel squared, so 1 GB, and its softmax as
# much again.
WHOLE_PIXELS = 2048 * 1024
# Side of a window for larger images, in pixels of the resized image.
WINDOW = 1024


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
        trained_names = checkpoint.class_names_in(manifest) or _names_in(trained)
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


def _names_in(config: ExperimentConfig) -> Sequence[str]:
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


def draw_overlays(
    model: torch.nn.Module,
    config: ExperimentConfig,
    images: Sequence[InputImage],
    out: Path,
    device: torch.device,
    window: int | None = None,
    opacity: float = 0.5,
) -> Iterator[str]:
    """Write each image, blended with the colours of its predicted classes, under the folder `out`.

    Yields a message for each image that is refused, or an empty text if its overlay is written, in
    the order of `images`. `window` is the side of the windows for images that are larger; None
    chooses WINDOW for images above WHOLE_PIXELS. `opacity` in 0..1 is the share of the class
    colours. Raise RunError if nothing can be written under `out`.
    """
    import torch

    from segtune.data.images import read_image

    says_windows = True
    for image in images:
        target = out / image.overlay
        try:
            check_free(target)
            rgb = read_image(image.path, config.data)
            side = _window_for(rgb.shape[:2], config, window)
            if side and says_windows:
                log.info("%s: predicted in windows of %d pixels; see --window", image.path, side)
                says_windows = False
            write_overlay(target, overlay(model, config, rgb, device, side, opacity))
            yield ""
        except DataError as error:
            yield _with_path(image.path, str(error))
        except (MemoryError, torch.OutOfMemoryError):
            yield f"{image.path}: does not fit into memory; try --window {WINDOW // 2}"


def _with_path(path: Path, problem: str) -> str:
    return problem if problem.startswith(str(path)) else f"{path}: {problem}"


def _window_for(size: tuple[int, ...], config: ExperimentConfig, window: int | None) -> int | None:
    """Return the side of the windows for an image of (H, W), or None to predict it as a whole."""
    from segtune.data.augment import fit_scale

    scale = fit_scale(size[0], size[1], config.data.resize)
    height, width = size[0] * scale, size[1] * scale
    if window is not None:
        return window if max(height, width) > window else None
    return WINDOW if height * width > WHOLE_PIXELS else None


def overlay(
    model: torch.nn.Module,
    config: ExperimentConfig,
    rgb: np.ndarray,
    device: torch.device,
    window: int | None = None,
    opacity: float = 0.5,
) -> np.ndarray:
    """Return an image uint8 [H, W, 3] in BGR, blended with the colours of its predicted classes.

    Overwrites `rgb` if it is writable: a copy of an image of 300 million pixels takes 0.9 GB.
    """
    import cv2
    import numpy as np
    import torch

    from segtune.data.augment import resize_to_fit
    from segtune.data.label_colours import voc_colours
    from segtune.training.evaluation import label_bands

    resized = resize_to_fit(rgb, config.data.resize).transpose(2, 0, 1)
    batch = torch.from_numpy(np.ascontiguousarray(resized))[None].to(device)
    with torch.no_grad():
        logits = _logits(model, batch, window)
        colours = np.ascontiguousarray(voc_colours(logits.shape[1])[:, ::-1])
        blended = rgb if rgb.flags.writeable else np.empty_like(rgb)
        for rows, labels in label_bands([logits], rgb.shape[:2]):
            of_classes = colours[labels.cpu().numpy()]
            bgr = cv2.cvtColor(rgb[rows], cv2.COLOR_RGB2BGR)
            blended[rows] = cv2.addWeighted(bgr, 1 - opacity, of_classes, opacity, 0)
    return blended


def _logits(model: torch.nn.Module, images: Tensor, window: int | None) -> Tensor:
    """Return the logits [1, C, h, w] of images uint8 [1, 3, H, W], as a whole or in windows."""
    from segtune.data.loader import normalize
    from segtune.training.tta import MIN_SIDE, AugmentedInference

    inference = AugmentedInference(window)
    if window is None or min(images.shape[-2:]) < MIN_SIDE:
        return inference.logits(model, normalize(images))[0]
    # A window is normalised when it is used: in float32, a large image takes four times the memory.
    return inference.logits(lambda part: model(normalize(part)), images)[0]


def validation_images(config: ExperimentConfig) -> list[InputImage]:
    """Return the images of the validation split with the names of their overlays."""
    from segtune.data.layouts import open_split
    from segtune.training.overlays import named_images

    return named_images(pair.image for pair in open_split(config.data, "val"))
