"""Predict the labels of images with a model, and compare them with the true labels of a split.

Trains nothing and writes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor

from segtune.config.schema import ExperimentConfig
from segtune.data.loader import ValBatch, normalize
from segtune.losses.row_bands import RowUpsampler
from segtune.metrics import ConfusionMatrix
from segtune.runs.records import ValidationScores
from segtune.training.distributed import Ranks
from segtune.training.tta import AugmentedInference

# Logits at full width that exist at a time: 512 MB in float32. 150 classes of a validation image
# with 2048 x 512 pixels are 39 million values.
WIDE_VALUES = 1 << 27


def evaluate(
    model: torch.nn.Module,
    data: Iterable[ValBatch],
    ranks: Ranks,
    config: ExperimentConfig,
    num_classes: int,
    precision: torch.dtype,
    tta: AugmentedInference | None = None,
    on_batch: Callable[[ValBatch, Tensor], None] | None = None,
) -> ConfusionMatrix:
    """Return the confusion matrix over the images of all ranks, at the size of the labels.

    `data` yields the batches of this rank; all ranks together have each image once. `precision` is
    the dtype of autocast. `tta` None: the windows of `config.val`, or whole images. `on_batch`
    is called with each batch and its predicted labels [B, H, W]. Leaves the model in evaluation
    mode.
    """
    tta = tta or AugmentedInference.of(config)
    confusion = ConfusionMatrix(num_classes, config.data.ignore_index)
    confusion.matrix = confusion.matrix.to(ranks.device)
    for batch, labels, masks in predictions(model, data, ranks.device, num_classes, precision, tta):
        confusion.update(labels, masks)
        if on_batch:
            on_batch(batch, labels)
    ranks.sum(confusion.matrix)
    return confusion


def predictions(
    model: torch.nn.Module,
    data: Iterable[ValBatch],
    device: torch.device,
    num_classes: int,
    precision: torch.dtype,
    tta: AugmentedInference,
) -> Iterator[tuple[ValBatch, Tensor, Tensor]]:
    """Yield the batches with their predicted and true labels on `device`, int64 [B, H, W].

    A batch may be split into parts. Leaves the model in evaluation mode.
    """
    model.eval()
    for batch in _parts(data, tta, num_classes):
        masks = batch.masks.to(device, non_blocking=True).long()
        yield batch, _predict(model, batch, masks.shape[-2:], device, precision, tta), masks


# Images come in many sizes, and torch.compile would compile the network again for each size.
@torch.compiler.set_stance("force_eager")
@torch.no_grad()
def _predict(
    model: torch.nn.Module,
    batch: ValBatch,
    size: torch.Size,
    device: torch.device,
    precision: torch.dtype,
    tta: AugmentedInference,
) -> Tensor:
    images = normalize(batch.images.to(device, non_blocking=True))
    with torch.autocast(device.type, dtype=precision, enabled=precision is not torch.float32):
        logits = tta.logits(model, images)
    return predict_labels(logits, size)


def _parts(
    data: Iterable[ValBatch], tta: AugmentedInference, num_classes: int
) -> Iterator[ValBatch]:
    """Yield the batches, split into as many images as `tta` takes at once."""
    for batch in data:
        size = tta.images_at_once(len(batch.images), num_classes, batch.images.shape[-2:])
        for start in range(0, len(batch.images), size):
            part = slice(start, start + size)
            yield ValBatch(batch.images[part], batch.masks[part], batch.names[part])


def validation_scores(matrix: ConfusionMatrix, class_names: Sequence[str]) -> ValidationScores:
    """Return the scores of a validation from the confusion matrix of all ranks."""
    summary = matrix.summary()
    top_class, top_share = matrix.most_predicted()
    return ValidationScores(
        miou=float(summary["mIoU"]),
        constant_miou=matrix.constant_miou(),
        aacc=float(summary["aAcc"]),
        macc=float(summary["mAcc"]),
        mdice=float(summary["mDice"]),
        # JSON has no NaN.
        class_iou=tuple(
            None if math.isnan(iou) else round(float(iou), 6) for iou in summary["iou"]
        ),
        top_class=class_names[top_class],
        top_share=top_share,
    )


def predict_labels(logits: Sequence[Tensor], size: tuple[int, ...] | torch.Size) -> Tensor:
    """Return the most likely class of every pixel, int64 [B, H, W], at `size` (H, W).

    `logits` are one or more predictions [B, C, h, w] of the same images, of any h and w. They are
    upsampled bilinearly before the argmax, as in mmseg. If there are several, their softmax is
    averaged. Works in bands of rows: logits of full size do not fit into a cache, and with 150
    classes they hardly fit into memory.
    """
    upsamplers = _upsamplers(logits, size)
    labels = torch.empty(len(logits[0]), *size, dtype=torch.int64, device=logits[0].device)
    for sample in range(len(labels)):
        for rows, band in _label_bands(upsamplers, sample):
            labels[sample, rows] = band
    return labels


def label_bands(
    logits: Sequence[Tensor], size: tuple[int, ...] | torch.Size
) -> Iterator[tuple[slice, Tensor]]:
    """Yield the labels of one image in bands: which of the H rows, and int64 [rows, W].

    `logits` are predictions [1, C, h, w]. The bands together are `predict_labels`, which takes
    eight bytes per pixel: two gigabytes for an image of 20,000 x 15,000 pixels.
    """
    return _label_bands(_upsamplers(logits, size), 0)


def _upsamplers(logits: Sequence[Tensor], size: tuple[int, ...] | torch.Size) -> list[RowUpsampler]:
    return [RowUpsampler(prediction.float(), torch.Size(size)) for prediction in logits]


def _label_bands(upsamplers: Sequence[RowUpsampler], sample: int) -> Iterator[tuple[slice, Tensor]]:
    width = upsamplers[0].size[1]
    for bands in _groups_of_bands(upsamplers):
        whole = slice(bands[0].start, bands[-1].stop)
        sources = [upsampler.source_rows(whole) for upsampler in upsamplers]
        held = [
            upsampler.upsample_width(sample, source)
            for upsampler, source in zip(upsamplers, sources, strict=True)
        ]
        for rows in bands:
            parts = [
                upsampler.upsample_rows(full_width, rows, source.start)
                for upsampler, full_width, source in zip(upsamplers, held, sources, strict=True)
            ]
            scores = parts[0]
            if len(parts) > 1:
                scores = torch.stack([part.softmax(0) for part in parts]).sum(0)
            # `max` gives the same as `argmax` and is three times as fast along the first dimension.
            yield rows, scores.max(0).indices.view(-1, width)


def _groups_of_bands(upsamplers: Sequence[RowUpsampler]) -> list[list[slice]]:
    """Return the bands of an image in groups, all in one group unless the image is large.

    The logits of a group exist at full width, with at most WIDE_VALUES values.
    """
    bands = list(upsamplers[0].row_slices())
    height, width = upsamplers[0].size
    sources = max(upsampler.logits.shape[-2] for upsampler in upsamplers)
    values_per_source_row = width * sum(upsampler.logits.shape[1] for upsampler in upsamplers)
    num_source_rows = max(1, WIDE_VALUES // values_per_source_row - 2)
    rows_per_band = bands[0].stop - bands[0].start
    bands_per_group = max(1, num_source_rows * height // (sources * rows_per_band))
    return [bands[i : i + bands_per_group] for i in range(0, len(bands), bands_per_group)]


def autocast_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Return the dtype of autocast; `auto` is bfloat16 if the GPU has it, otherwise float32."""
    if precision == "auto":
        has_bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if has_bf16 else torch.float32
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
