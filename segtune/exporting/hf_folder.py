"""A folder with a trained model: for transformers if it has the architecture, else for segtune."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from segtune.config.import_path import own_code
from segtune.config.short import short_text
from segtune.exporting.model_card import Card, card_text
from segtune.exporting.preprocessing import image_processor
from segtune.exporting.program import cases_for, check_difference
from segtune.exporting.public_config import public_config
from segtune.exporting.source import ExportSource
from segtune.exporting.targets import new_folder
from segtune.models.transformers_models import logits_of_folder, save, to_transformers
from segtune.training.checkpoint import write_folder
from segtune.training.windows import Windows

CARD = "README.md"
CONFIG = "config.yaml"


def write_hf(source: ExportSource, path: Path, card: Card) -> str:
    """Write a folder that transformers opens, or one that segtune opens. Return which, in a line.

    Raise RunError if the model that transformers reads from the folder predicts something else.
    """
    found = to_transformers(
        source.model, source.config.model, source.classes, source.config.data.ignore_index
    )
    if found is None:
        return _write_module(source, path, card)
    name = type(found).__name__
    with new_folder(path, name) as folder:
        save(found, folder)
        (folder / "preprocessor_config.json").write_text(_json(image_processor(source)))
        (folder / CARD).write_text(card_text(source, card, path.name, "transformers"))
        cases = cases_for(source)
        logits = logits_of_folder(found, folder, [case.images for case in cases])
        pairs = zip(logits, cases, strict=True)
        worst = max(_difference(ours, case.expected) for ours, case in pairs)
        words = check_difference(path, worst)
    return f"for transformers: {name}; {words}{_windows_note(source)}"


def _difference(theirs: Tensor, ours: Tensor) -> float:
    """Return the largest difference; some models of transformers scale logits to the image."""
    scaled = F.interpolate(ours, size=theirs.shape[-2:], mode="bilinear", align_corners=False)
    return float((theirs - scaled).abs().max())


def _windows_note(source: ExportSource) -> str:
    if Windows.of(source.config) is None:
        return ""
    return "; segtune predicts sliding windows (val.mode), transformers whole images"


def _write_module(source: ExportSource, path: Path, card: Card) -> str:
    """Write a checkpoint of segtune with its config and a card."""
    model = source.config.model
    with new_folder(path, "segtune") as folder:
        changes = {"data.classes": list(source.classes), "model.weights": None}
        config = public_config(source.config).override(changes)
        manifest: dict[str, Any] = asdict(source.manifest)
        manifest |= {"config": config.dump(), "classes": source.classes}
        write_folder(folder, source.model.state_dict(), None, manifest)
        head = f"# {model.name} with the encoder {model.encoder}; see {CARD}\n"
        (folder / CONFIG).write_text(head + short_text(config, {}))
        (folder / CARD).write_text(card_text(source, card, path.name, "segtune"))
    own = " and your own code" if own_code(source.config) else ""
    return (
        f"for segtune, because transformers has no {model.name} with {model.encoder}: weights, "
        f"{CONFIG} and {CARD}; it loads with segtune{own}, see {path / CARD}"
    )


def _json(content: object) -> str:
    return json.dumps(content, indent=2) + "\n"
