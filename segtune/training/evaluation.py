"""From a model and images to labels, and to the confusion matrix of a split.

Trains nothing and writes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from segtune.config.schema import ExperimentConfig
from segtune.data.loader import ValBatch, normalize
from segtune.losses.row_bands import RowUpsampler
from segtune.metrics import ConfusionMatrix
from segtune.runs.records import ValidationScores
from segtune.training.distributed import Ranks
from segtune.training.tta import WHOLE_IMAGE, AugmentedInference


# Images come in many sizes, and torch.compile would compile the network again for each size.
@torch.compiler.set_stance("force_eager")
@torch.no_grad()
def evaluate(
    model: torch.nn.Module,
    data: Iterable[ValBatch],
    ranks: Ranks,
    config: ExperimentConfig,
    num_classes: int,
    precision: torch.dtype,
    tta: AugmentedInference = WHOLE_IMAGE,
) -> ConfusionMatrix:
    """Return the confusion matrix over the images of all ranks, at the size of the labels.

    `data` are the batches of this rank; over all ranks they hold each image once. `precision` is
    the dtype of autocast.
    """
    model.eval()
    confusion = ConfusionMatrix(num_classes, config.data.ignore_index)
    confusion.matrix = confusion.matrix.to(ranks.device)
    for batch in data:
        images = normalize(batch.images.to(ranks.device, non_blocking=True))
        with torch.autocast(
            ranks.device.type, dtype=precision, enabled=precision is not torch.float32
        ):
            logits = tta.logits(model, images)
        masks = batch.masks.to(ranks.device, non_blocking=True).long()
        confusion.update(predict_labels(logits, masks.shape[-2:]), masks)
    ranks.sum(confusion.matrix)
    return confusion


def validation_scores(matrix: ConfusionMatrix, class_names: Sequence[str]) -> ValidationScores:
    """Return the scores of a validation from the confusion matrix of all ranks."""
    summary = matrix.summary()
    top_class, top_share = matrix.most_predicted()
    return ValidationScores(
        miou=float(summary["mIoU"]),
        constant_miou=matrix.constant_miou(),
        aacc=float(summary["aAcc"]),
        macc=float(summary["mAcc"]),
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
    upsamplers = [RowUpsampler(prediction.float(), torch.Size(size)) for prediction in logits]
    labels = torch.empty(len(logits[0]), *size, dtype=torch.int64, device=logits[0].device)
    for sample in range(len(labels)):
        full_widths = [upsampler.upsample_width(sample) for upsampler in upsamplers]
        for rows in upsamplers[0].row_slices():
            bands = [
                u.upsample_rows(width, rows)
                for u, width in zip(upsamplers, full_widths, strict=True)
            ]
            scores = bands[0]
            if len(bands) > 1:
                scores = torch.stack([band.softmax(0) for band in bands]).sum(0)
            # `max` gives the same as `argmax` and is three times as fast along the first dimension.
            labels[sample, rows] = scores.max(0).indices.view(-1, size[1])
    return labels


def autocast_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Return the dtype of autocast; `auto` is bfloat16 if the GPU has it, otherwise float32."""
    if precision == "auto":
        has_bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if has_bf16 else torch.float32
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
