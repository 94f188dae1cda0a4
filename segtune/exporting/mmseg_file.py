"""A SegFormer as a checkpoint of mmsegmentation. mmsegmentation is not needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from segtune.config.schema import ExperimentConfig
from segtune.config.yaml_io import inline_yaml
from segtune.data.loader import IMAGENET_MEAN, IMAGENET_STD
from segtune.errors import RunError
from segtune.exporting.source import ExportSource
from segtune.exporting.targets import new_file
from segtune.models.mmseg_weights import mmseg_settings, to_mmseg
from segtune.models.segformer import SegFormer
from segtune.training.windows import Windows

# Its widths are no multiples of its attention heads, as mmseg's MixVisionTransformer has them.
OWN_MIT = "mit_nano"


def check_has_counterpart(config: ExperimentConfig) -> None:
    """Raise RunError for an architecture that mmseg does not have."""
    other = "use --onnx or --pt2, or --hf for a folder that segtune or transformers load"
    if config.model.name != "segformer":
        raise RunError(
            f"--mmseg: the model is {config.model.name}, but only segformer has a counterpart in "
            f"mmsegmentation with the same weights; {other}"
        )
    if config.model.encoder == OWN_MIT:
        raise RunError(
            f"--mmseg: {OWN_MIT} is segtune's own and has other widths than mmsegmentation's MiT "
            f"can have; mit_b0 to mit_b5 have a counterpart; {other}"
        )


def write_mmseg(source: ExportSource, path: Path) -> str:
    """Write `state_dict` and `meta` as mmseg reads them. Return one line on the result.

    `meta` has the classes and colours under the names of mmseg 0.x and 1.x, and `model`, the
    settings that the weights belong to.
    """
    check_has_counterpart(source.config)
    assert isinstance(source.model, SegFormer)
    classes, palette = list(source.classes), source.palette.tolist()
    meta = {
        "CLASSES": classes,
        "PALETTE": palette,
        "dataset_meta": {"classes": classes, "palette": palette},
        "model": _settings(source),
        "made_by": "segtune export",
    }
    weights = {name: value.clone() for name, value in to_mmseg(source.model).items()}
    with new_file(path) as copy:
        torch.save({"state_dict": weights, "meta": meta}, copy)
    eps = meta["model"]["backbone"]["norm_cfg"]["eps"]
    return (
        f"mmsegmentation, {len(weights)} tensors; the config needs decode_head.act_cfg=None and "
        f"backbone.norm_cfg=dict(type='LN', eps={inline_yaml(eps)}), see meta['model'] in the file"
    )


def _settings(source: ExportSource) -> dict[str, Any]:
    assert isinstance(source.model, SegFormer)
    settings = mmseg_settings(source.model)
    settings["data_preprocessor"] = {
        "type": "SegDataPreProcessor",
        "mean": list(IMAGENET_MEAN),
        "std": list(IMAGENET_STD),
        "bgr_to_rgb": True,
        "pad_val": 0,
        "seg_pad_val": source.config.data.ignore_index,
    }
    settings["decode_head"]["ignore_index"] = source.config.data.ignore_index
    if windows := Windows.of(source.config):
        settings["test_cfg"] = {
            "mode": "slide",
            "crop_size": list(windows.size),
            "stride": list(windows.stride),
        }
    return settings
