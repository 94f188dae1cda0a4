"""From a model and images to labels, and to the confusion matrix of a split. Trains nothing and writes nothing."""

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
from segtune.training.tta import PLAIN, AugmentedInference


# Images come in many sizes, and a compiled network would be compiled anew for each.
@torch.compiler.set_stance("force_eager")
@torch.no_grad()
def evaluate(
    model: torch.nn.Module,
    data: Iterable[ValBatch],
    ranks: Ranks,
    config: ExperimentConfig,
    num_classes: int,
    precision: torch.dtype,
    views: AugmentedInference = PLAIN,
) -> ConfusionMatrix:
    """Returns the confusion matrix over all images of all ranks, each counted once, at the labels' own size."""
    model.eval()
    matrix = ConfusionMatrix(num_classes, config.data.ignore_index)
    matrix.matrix = matrix.matrix.to(ranks.device)
    for batch in data:
        images = normalize(batch.images.to(ranks.device, non_blocking=True))
        with torch.autocast(
            ranks.device.type, dtype=precision, enabled=precision is not torch.float32
        ):
            logits = views.logits(model, images)
        masks = batch.masks.to(ranks.device, non_blocking=True).long()
        matrix.update(predict_labels(logits, masks.shape[-2:]), masks)
    ranks.sum(matrix.matrix)
    return matrix


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


def predict_labels(views: Sequence[Tensor], size: tuple[int, ...] | torch.Size) -> Tensor:
    """Returns the most likely class of every pixel, int64 [B, H, W], bilinear before the argmax as mmseg.

    `views` are logits [B, C, h, w] of the same images, of any sizes; with more than one, their softmax is averaged at full size.
    By bands of rows: logits of full size do not fit into a cache, and with 150 classes hardly into memory.
    """
    stretches = [RowUpsampler(logits.float(), torch.Size(size)) for logits in views]
    labels = torch.empty(len(views[0]), *size, dtype=torch.int64, device=views[0].device)
    for sample in range(len(labels)):
        wides = [stretch.wide(sample) for stretch in stretches]
        for rows in stretches[0].slices():
            bands = [
                stretch.band(wide, rows) for stretch, wide in zip(stretches, wides, strict=True)
            ]
            scores = (
                bands[0]
                if len(bands) == 1
                else torch.stack([band.softmax(0) for band in bands]).sum(0)
            )
            # `max` finds the same as `argmax` and is three times as fast along the first dimension.
            labels[sample, rows] = scores.max(0).indices.view(-1, size[1])
    return labels


def precision_of(name: str, device: torch.device) -> torch.dtype:
    """Returns the dtype of autocast; auto is bf16 on a GPU that has it, otherwise float32."""
    if name == "auto":
        return (
            torch.bfloat16
            if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
            else torch.float32
        )
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[name]
