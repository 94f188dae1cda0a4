"""From a model and images to labels, and to the confusion matrix of a split. Trains nothing and writes nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from segtune.config.schema import ExperimentConfig
from segtune.data.loader import ValBatch, normalize
from segtune.losses.row_bands import RowUpsampler
from segtune.metrics import ConfusionMatrix
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


def predict_labels(views: Sequence[Tensor], size: tuple[int, ...] | torch.Size) -> Tensor:
    """Returns the most likely class of every pixel, int64 [B, H, W], bilinear before the argmax as mmseg.

    `views` are logits [B, C, h, w] of the same images, of any sizes; with more than one, their softmax is averaged at full size.
    By bands of rows: logits of full size do not fit into a cache, and with 150 classes hardly into memory.
    """
    upsamplers = [RowUpsampler(logits.float(), torch.Size(size)) for logits in views]
    labels = torch.empty(len(views[0]), *size, dtype=torch.int64, device=views[0].device)
    for sample in range(len(labels)):
        full_widths = [upsampler.upsample_width(sample) for upsampler in upsamplers]
        for rows in upsamplers[0].row_slices():
            bands = [
                upsampler.upsample_rows(full_width, rows)
                for upsampler, full_width in zip(upsamplers, full_widths, strict=True)
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
