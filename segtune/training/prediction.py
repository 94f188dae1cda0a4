"""A checkpoint's model, and colour overlays of its predictions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from segtune.config.schema import ExperimentConfig
from segtune.errors import DataError

if TYPE_CHECKING:
    import torch


SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")


def load_model(
    path: str | Path, config: ExperimentConfig | None, device: torch.device
) -> tuple[torch.nn.Module, ExperimentConfig, Path]:
    """Returns the model of a checkpoint, its config (or the given one) and the checkpoint's folder.

    `path` is a checkpoint, or the folder of a run or trial, which stands for its best checkpoint. Raises CheckpointError.
    """
    from segtune.data.layouts import class_names
    from segtune.models.build import build_model
    from segtune.training import checkpoint

    folder = checkpoint.find(path)
    manifest = checkpoint.verify(folder)
    config = config or ExperimentConfig.parse(manifest.config)
    # The checkpoint brings all weights: reading pretrained ones first would be for nothing.
    model = build_model(config.model.override({"weights": None}), len(class_names(config.data)))
    checkpoint.load_into(model, folder)
    return model.to(device).eval(), config, folder


def images_in(paths: Iterable[str | Path]) -> list[Path]:
    """Returns the image files that are meant: files as they are, folders by their image suffixes. Raises DataError."""
    found: list[Path] = []
    for path in map(Path, paths):
        files = (
            sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES)
            if path.is_dir()
            else [path]
        )
        if not files or not files[0].is_file():
            raise DataError(
                f"{path}: no such image, or a folder without images ({', '.join(SUFFIXES)})"
            )
        found += files
    return found


def write_overlays(
    model: torch.nn.Module,
    config: ExperimentConfig,
    images: Sequence[Path],
    out: Path,
    device: torch.device,
    opacity: float = 0.5,
) -> int:
    """Writes each image blended with the colours of its predicted classes, as `out/NAME.png`; returns how many.

    `opacity` in 0..1 is the share of the colour. Raises DataError for a file that is no image.
    """
    import cv2
    import numpy as np
    import torch

    from segtune.data.augment import resize_to_fit
    from segtune.data.decode import palette, read_image
    from segtune.data.layouts import class_names
    from segtune.data.loader import normalize
    from segtune.training.evaluation import predict_labels

    out.mkdir(parents=True, exist_ok=True)
    colours = palette(len(class_names(config.data)))
    for path in images:
        rgb = read_image(path)
        small = torch.from_numpy(
            np.ascontiguousarray(resize_to_fit(rgb, config.data.resize).transpose(2, 0, 1))
        )
        with torch.no_grad():
            labels = (
                predict_labels([model(normalize(small[None].to(device)))], rgb.shape[:2])[0]
                .cpu()
                .numpy()
            )
        overlay = cv2.addWeighted(rgb, 1 - opacity, colours[labels], opacity, 0)
        cv2.imwrite(str(out / f"{path.stem}.png"), overlay[:, :, ::-1])
    return len(images)


def validation_images(config: ExperimentConfig) -> list[Path]:
    """Returns the image files of the validation split."""
    from segtune.data.layouts import open_split

    return [Path(pair.image) for pair in open_split(config.data, "val")]
