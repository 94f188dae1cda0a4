"""What another program has to do with an image before an exported network sees it."""

from __future__ import annotations

import json
from typing import Any

from segtune.data.loader import IMAGENET_MEAN, IMAGENET_STD
from segtune.exporting.source import ExportSource
from segtune.models.exportable import Sides

WHITE = 255
DETAILS = "segtune"  # the key of the JSON


def description(source: ExportSource, sides: Sides, output: str) -> dict[str, str]:
    """Return the metadata of an exported network: plain words, and all of it as JSON."""
    from segtune import __version__

    long_side, short_side = max(source.config.data.resize), min(source.config.data.resize)
    details: dict[str, Any] = {
        "version": __version__,
        "classes": list(source.classes),
        "palette": source.palette.tolist(),
        "mean": list(IMAGENET_MEAN),
        "std": list(IMAGENET_STD),
        "resize": {"long_side": long_side, "short_side": short_side},
        "sides": {"multiple_of": sides.step, "at_least": sides.smallest},
        "value_range": source.config.data.value_range,
        "output": output,
    }
    return {
        "input": "images: float32 [batch, 3, height, width], RGB, (value 0..255 - mean) / std",
        "output": OUTPUTS[output],
        "mean": ", ".join(map(str, IMAGENET_MEAN)),
        "std": ", ".join(map(str, IMAGENET_STD)),
        "classes": ", ".join(source.classes),
        "resize": f"scale to fit into {long_side} x {short_side} pixels (long side, short side), "
        "bilinear, aspect ratio kept",
        DETAILS: json.dumps(details),
    }


OUTPUTS = {
    "logits": "logits: float32 [batch, classes, h, w]; scale bilinearly (align_corners=False) to "
    "the size of the image before the argmax over the classes",
    "labels": "labels: int64 [batch, height, width], the class of each pixel of the input",
}


def image_processor(source: ExportSource) -> dict[str, Any]:
    """Return preprocessor_config.json of a folder for transformers.

    SegformerImageProcessor is also the image processor of transformers' UPerNet.
    """
    data = source.config.data
    return {
        "image_processor_type": "SegformerImageProcessor",
        "do_resize": True,
        # Fits the image into both sides and keeps its aspect ratio, as data.resize does.
        "size": {"shortest_edge": min(data.resize), "longest_edge": max(data.resize)},
        "resample": 2,  # bilinear, in Pillow's numbering
        "do_rescale": True,
        "rescale_factor": 1 / WHITE,
        "do_normalize": True,
        "image_mean": [mean / WHITE for mean in IMAGENET_MEAN],
        "image_std": [std / WHITE for std in IMAGENET_STD],
        # Acts on label images that are passed along for training, never on predictions.
        "do_reduce_labels": data.reduces_zero_label,
    }
