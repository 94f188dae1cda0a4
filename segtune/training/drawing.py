"""Predictions as files: overlays of the classes' colours over images, and label images.

Computes no scores. `overlays.py` says how the files are named.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from segtune.config.data_config import DataConfig
from segtune.config.schema import ExperimentConfig
from segtune.data.crop import fit_scale, resize_to_fit
from segtune.data.images import read_image
from segtune.data.loader import normalize
from segtune.errors import DataError
from segtune.training.evaluation import label_bands
from segtune.training.label_images import (
    LABEL_IMAGE,
    colours_of_classes,
    describe_offset,
    label_dtype,
    write_label_image,
)
from segtune.training.overlays import InputImage, check_free, write_overlay
from segtune.training.prediction import names_in
from segtune.training.tta import AugmentedInference
from segtune.training.windows import MIN_SIDE, Windows

log = logging.getLogger(__name__)

# Pixels of a resized image that the network takes at once: 2048 x 1024, the size of Cityscapes. The
# first attention of SegFormer takes 4 / 4096 bytes per pixel squared, so 1 GB, and its softmax as
# much again.
WHOLE_PIXELS = 2048 * 1024
# Side of a window for larger images, in pixels of the resized image.
WINDOW = 1024


@dataclass(frozen=True)
class Outputs:
    """The folders that predictions are written into; None: this kind is not written."""

    overlays: Path | None
    labels: Path | None = None
    label_offset: int = 0  # added to the labels in label images

    def check_free(self, image: InputImage) -> None:
        """Raise DataError if a file of this image would replace a file of the user."""
        if self.overlays:
            check_free(self.overlays / image.overlay)
        if self.labels:
            check_free(self.labels / image.overlay, LABEL_IMAGE)

    def describe(self, num_images: int, config: DataConfig) -> Iterator[str]:
        """Yield a line for each kind of file: how many there are, and where."""
        if self.overlays:
            yield f"{num_images} overlays in {self.overlays}"
        if self.labels:
            numbering = describe_offset(config, self.label_offset)
            yield f"{num_images} label images in {self.labels}: {numbering}"


@dataclass(frozen=True)
class Drawing:
    """The prediction of one image; None: this kind was not asked for."""

    colours: np.ndarray  # of the classes, uint8 [C, 3] in RGB
    overlay: np.ndarray | None  # the image blended with these colours, uint8 [H, W, 3] in BGR
    labels: np.ndarray | None  # uint8 or uint16 [H, W], with the offset of `Outputs`


def write_predictions(
    model: torch.nn.Module,
    config: ExperimentConfig,
    images: Sequence[InputImage],
    outputs: Outputs,
    device: torch.device,
    *,
    window: int | None = None,
    views: AugmentedInference | None = None,
) -> Iterator[str]:
    """Write the overlay and the label image of each image into the folders of `outputs`.

    Yields a message for each image that is refused, or an empty text if its files are written, in
    the order of `images`. `window` is the side of coarse windows for images that are larger. None:
    the windows of `config.val`, or coarse windows of WINDOW pixels for images above WHOLE_PIXELS.
    `views` are flips and scales; default: none. Raise OSError if nothing can be written.
    """
    says_windows = True
    for image in images:
        try:
            outputs.check_free(image)
            rgb = read_image(image.path, config.data)
            windows = windows_for(rgb.shape[:2], config, window)
            if windows and windows.is_coarse and says_windows:
                side = windows.size[0]
                log.info("%s: predicted in windows of %d pixels; see --window", image.path, side)
                says_windows = False
            copies = replace(views or AugmentedInference(), windows=windows)
            _write(image, draw(model, config, rgb, device, outputs, copies), outputs)
            yield ""
        except DataError as error:
            yield _with_path(image.path, str(error))
        except (MemoryError, torch.OutOfMemoryError):
            yield f"{image.path}: does not fit into memory; try --window {WINDOW // 2}"


def _write(image: InputImage, drawing: Drawing, outputs: Outputs) -> None:
    if outputs.overlays and drawing.overlay is not None:
        write_overlay(outputs.overlays / image.overlay, drawing.overlay)
    if outputs.labels and drawing.labels is not None:
        target = outputs.labels / image.overlay
        write_label_image(target, drawing.labels, drawing.colours, outputs.label_offset)


def _with_path(path: Path, problem: str) -> str:
    return problem if problem.startswith(str(path)) else f"{path}: {problem}"


def windows_for(
    size: tuple[int, ...], config: ExperimentConfig, window: int | None = None
) -> Windows | None:
    """Return the windows for an image of (H, W), or None to predict it as a whole.

    `window` is as in `write_predictions`. The windows of `config.val` become coarse for images
    above WHOLE_PIXELS: a logit for each of their pixels and of 150 classes takes more than 1 GB.
    """
    scale = fit_scale(size[0], size[1], config.data.resize)
    height, width = size[0] * scale, size[1] * scale
    is_large = height * width > WHOLE_PIXELS
    if window is not None:
        return Windows.coarse(window) if max(height, width) > window else None
    if windows := Windows.of(config):
        return windows.as_coarse() if is_large else windows
    return Windows.coarse(WINDOW) if is_large else None


@torch.no_grad()
def draw(
    model: torch.nn.Module,
    config: ExperimentConfig,
    rgb: np.ndarray,
    device: torch.device,
    outputs: Outputs,
    views: AugmentedInference,
    opacity: float = 0.5,
) -> Drawing:
    """Return what `outputs` asks for of an image uint8 [H, W, 3], at its size.

    `opacity` in 0..1 is the share of the class colours. An overlay overwrites `rgb` if it is
    writable: a copy of an image of 300 million pixels takes 0.9 GB.
    """
    logits = _logits(model, _as_batch(rgb, config, device), views)
    num_classes = logits[0].shape[1]
    colours = colours_of_classes(config.data, names_in(config), num_classes)
    bgr_colours = np.ascontiguousarray(colours[:, ::-1])
    blended = stored = None
    if outputs.overlays:
        blended = rgb if rgb.flags.writeable else np.empty_like(rgb)
    if outputs.labels:
        stored = np.empty(rgb.shape[:2], label_dtype(num_classes, outputs.label_offset))
    for rows, band in label_bands(logits, rgb.shape[:2]):
        labels = band.cpu().numpy()
        if blended is not None:
            bgr = cv2.cvtColor(rgb[rows], cv2.COLOR_RGB2BGR)
            blended[rows] = cv2.addWeighted(bgr, 1 - opacity, bgr_colours[labels], opacity, 0)
        if stored is not None:
            stored[rows] = labels + outputs.label_offset
    return Drawing(colours, blended, stored)


@torch.no_grad()
def predicted_labels(
    model: torch.nn.Module, config: ExperimentConfig, rgb: np.ndarray, device: torch.device
) -> np.ndarray:
    """Return the predicted labels of an image uint8 [H, W, 3], uint8 or uint16 [H, W]."""
    views = AugmentedInference(windows=windows_for(rgb.shape[:2], config))
    logits = _logits(model, _as_batch(rgb, config, device), views)
    labels = np.empty(rgb.shape[:2], label_dtype(logits[0].shape[1], 0))
    for rows, band in label_bands(logits, rgb.shape[:2]):
        labels[rows] = band.cpu().numpy()
    return labels


def _as_batch(rgb: np.ndarray, config: ExperimentConfig, device: torch.device) -> Tensor:
    """Return an image at `data.resize` as a batch uint8 [1, 3, h, w]."""
    resized = resize_to_fit(rgb, config.data.resize).transpose(2, 0, 1)
    return torch.from_numpy(np.ascontiguousarray(resized))[None].to(device)


def _logits(model: torch.nn.Module, images: Tensor, views: AugmentedInference) -> list[Tensor]:
    """Return the logits [1, C, h, w] of each copy of images uint8 [1, 3, H, W]."""
    is_plain = not views.flip and views.scales == (1.0,)
    if views.windows is None or not is_plain or min(images.shape[-2:]) < MIN_SIDE:
        return views.logits(model, normalize(images))
    # A window is normalised when it is used: in float32, a large image takes four times the memory.
    return views.logits(lambda part: model(normalize(part)), images)
