"""From a model and images to labels, and to the confusion matrix of a split. Trains nothing and writes nothing."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from segtune.config import ExperimentConfig
from segtune.data.loader import ValBatch, normalize
from segtune.distributed import Ranks
from segtune.metrics import ConfusionMatrix


@torch.no_grad()
def evaluate(
    model: torch.nn.Module, data: Iterable[ValBatch], ranks: Ranks, config: ExperimentConfig, num_classes: int, precision: torch.dtype
) -> ConfusionMatrix:
    """Returns the confusion matrix over all images of all ranks, each counted once, at the labels' own size."""
    model.eval()
    matrix = ConfusionMatrix(num_classes, config.data.ignore_index)
    matrix.matrix = matrix.matrix.to(ranks.device)
    for batch in data:
        images = normalize(batch.images.to(ranks.device, non_blocking=True))
        with torch.autocast(ranks.device.type, dtype=precision, enabled=precision is not torch.float32):
            logits = model(images)
        masks = batch.masks.to(ranks.device, non_blocking=True).long()
        matrix.update(predict_labels(logits, masks.shape[-2:]), masks)
    ranks.sum(matrix.matrix)
    return matrix


def predict_labels(logits: Tensor, size: tuple[int, ...] | torch.Size) -> Tensor:
    """Returns the most likely class of every pixel: logits [B, C, h, w] to int64 [B, H, W], bilinear before the argmax as mmseg."""
    return F.interpolate(logits.float(), size=tuple(size), mode="bilinear", align_corners=False).argmax(dim=1)


def precision_of(name: str, device: torch.device) -> torch.dtype:
    """Returns the dtype of autocast; auto is bf16 on a GPU that has it, otherwise float32."""
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float32
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[name]
