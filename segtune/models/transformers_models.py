"""A network as the model of transformers that has the same weights, if there is one."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor
from transformers import (
    PreTrainedModel,
    TimmBackboneConfig,
    UperNetConfig,
    UperNetForSemanticSegmentation,
)
from transformers.utils import logging

from segtune.config.import_path import is_import_path
from segtune.config.model_config import ModelConfig
from segtune.models.segformer import SegFormer
from segtune.models.segmentation_model import SegmentationModel
from segtune.models.upernet import AUXILIARY_WEIGHT, UPerNet


def to_transformers(
    model: SegmentationModel, config: ModelConfig, classes: Sequence[str], ignore_index: int
) -> PreTrainedModel | None:
    """Return the model of transformers with the weights of `model`, in evaluation mode, or None.

    SegFormer is transformers' own model, and the result shares its weights. UPerNet is one if its
    encoder is of timm and returns maps [N, C, h, w] for images of any size; a Swin, a plain ViT or
    an encoder of the user's own has no counterpart. `classes` are the names in the order of labels.
    """
    if isinstance(model, SegFormer):
        found: PreTrainedModel = model.net
        found.config.semantic_loss_ignore_index = ignore_index
    elif isinstance(model, UPerNet) and _has_counterpart(model, config):
        found = _upernet(model, config, ignore_index)
    else:
        return None
    found.config.id2label = dict(enumerate(classes))
    found.config.label2id = {name: label for label, name in enumerate(classes)}
    return found.eval()


def _has_counterpart(model: UPerNet, config: ModelConfig) -> bool:
    is_own = is_import_path(config.encoder)
    maps = model.maps
    return not (is_own or model.neck is not None or maps.channels_last or maps.multiple > 1)


def _upernet(
    model: UPerNet, config: ModelConfig, ignore_index: int
) -> UperNetForSemanticSegmentation:
    backbone = TimmBackboneConfig(
        backbone=config.encoder,
        out_indices=list(model.maps.indices),  # pyright: ignore[reportCallIssue]
    )
    upernet = UperNetForSemanticSegmentation(
        UperNetConfig(
            backbone_config=backbone,
            hidden_size=model.decode_head.channels,
            auxiliary_channels=model.auxiliary_head.channels,
            auxiliary_loss_weight=AUXILIARY_WEIGHT,
            loss_ignore_index=ignore_index,
            num_labels=model.decode_head.classifier.out_channels,  # pyright: ignore[reportCallIssue]
        )
    )
    weights = {
        (
            f"backbone._backbone.{name[len('encoder.') :]}" if name.startswith("encoder.") else name
        ): v
        for name, v in model.state_dict().items()
    }
    upernet.load_state_dict(weights)  # strict: raises if a name or a shape differs
    return upernet


def save(model: PreTrainedModel, folder: Path) -> None:
    """Write the weights and config.json of a model of transformers, without a progress bar."""
    with _quiet():
        model.save_pretrained(folder)
    # safetensors lets only this user read its files, whatever the umask.
    for weights in folder.glob("*.safetensors"):
        shutil.copymode(folder / "config.json", weights)


@torch.no_grad()
def logits_of_folder(
    model: PreTrainedModel, folder: Path, images: Sequence[Tensor]
) -> list[Tensor]:
    """Return the logits of each batch of images, by the model that transformers reads from disk.

    `model` is of the class that the folder holds. Nothing is downloaded.
    """
    with _quiet():
        loaded = type(model).from_pretrained(folder, local_files_only=True).eval()
    return [loaded(pixel_values=batch).logits for batch in images]


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide the progress bars of transformers in the block."""
    was_shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_shown:
            logging.enable_progress_bar()
