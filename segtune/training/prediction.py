"""A checkpoint's model, and its predictions as colours over images. Computes no scores."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from segtune.config.schema import ExperimentConfig
from segtune.config.yaml_io import parse_assignments
from segtune.errors import DataError

if TYPE_CHECKING:
    import torch


def load_model(
    path: str | Path,
    config: ExperimentConfig | None,
    device: torch.device,
    overrides: Sequence[str] = (),
) -> tuple[torch.nn.Module, ExperimentConfig, Path]:
    """Return the model of a checkpoint in evaluation mode, its config, and the checkpoint's folder.

    `path` is a checkpoint, or the folder of a training run, a trial or a search run, which stands
    for its best checkpoint. If `config` is None, the config in the checkpoint is used. `overrides`
    are `name=value` texts that change it, for example if the data set has moved since. Raise
    CheckpointError if there is no checkpoint, if it is damaged, or if it has another architecture.
    """
    from segtune.data.layouts import class_names
    from segtune.models.build import build_model
    from segtune.training import checkpoint

    folder = checkpoint.find(path)
    manifest = checkpoint.verify(folder, weights_only=True)
    trained = ExperimentConfig.parse(manifest.config)
    config = config or trained
    if config.data.value_range is None:  # the model expects the pixels that it was trained with
        config = config.override({"data.value_range": trained.data.value_range})
    if overrides:
        config = config.override(*parse_assignments(overrides))
    # Not the pretrained weights of the config: the checkpoint replaces them all.
    model = build_model(config.model.override({"weights": None}), len(class_names(config.data)))
    checkpoint.load_into(model, folder)
    return model.to(device).eval(), config, folder


def images_in(paths: Iterable[str | Path]) -> list[Path]:
    """Return the image files among files and folders; a folder stands for its images, by suffix.

    Raise DataError for a path that does not exist and for a folder without images.
    """
    from segtune.data.file_names import IMAGE_SUFFIXES

    images: list[Path] = []
    for path in map(Path, paths):
        files = [path]
        if path.is_dir():
            files = sorted(file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)
        if not files or not files[0].is_file():
            suffixes = ", ".join(IMAGE_SUFFIXES)
            raise DataError(f"{path}: no such image, or a folder without images ({suffixes})")
        images += files
    return images


def write_overlays(
    model: torch.nn.Module,
    config: ExperimentConfig,
    images: Sequence[Path],
    out: Path,
    device: torch.device,
    opacity: float = 0.5,
) -> int:
    """Write each image, blended with the colours of its predicted classes, to `out/NAME.png`.

    Return the number of files. `opacity` in 0..1 is the share of the class colours. Raise DataError
    for a file that is not an image.
    """
    import cv2
    import numpy as np
    import torch

    from segtune.data.augment import resize_to_fit
    from segtune.data.images import read_image
    from segtune.data.layouts import class_names
    from segtune.data.loader import normalize
    from segtune.data.masks import palette
    from segtune.training.evaluation import predict_labels

    out.mkdir(parents=True, exist_ok=True)
    colours = palette(len(class_names(config.data)))
    for path in images:
        rgb = read_image(path, config.data)
        resized = resize_to_fit(rgb, config.data.resize).transpose(2, 0, 1)
        batch = torch.from_numpy(np.ascontiguousarray(resized))[None].to(device)
        with torch.no_grad():
            logits = model(normalize(batch))
            labels = predict_labels([logits], rgb.shape[:2])[0].cpu().numpy()
        overlay = cv2.addWeighted(rgb, 1 - opacity, colours[labels], opacity, 0)
        cv2.imwrite(str(out / f"{path.stem}.png"), overlay[:, :, ::-1])
    return len(images)


def validation_images(config: ExperimentConfig) -> list[Path]:
    """Return the image files of the validation split."""
    from segtune.data.layouts import open_split

    return [Path(pair.image) for pair in open_split(config.data, "val")]
