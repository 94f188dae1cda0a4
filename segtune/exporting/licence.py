"""The licence of the pretrained weights that a model began with, as far as it is known."""

from __future__ import annotations

from pathlib import Path

from segtune.config.model_config import ModelConfig
from segtune.models.timm_encoder import timm_licence

UNKNOWN = "unknown: check"
NVIDIA = "nvidia/"  # the owner of the MiT weights on the Hugging Face hub
OTHER = "other"  # the hub's word for a licence that is not in its list


def licence_of(config: ModelConfig) -> tuple[str, str]:
    """Return the licence of the pretrained weights as the hub calls it, and in words."""
    if config.weights is None:
        return "", "The encoder began with random weights: no licence of others."
    source = config.weights
    name = source if source.count("/") == 1 and not Path(source).exists() else Path(source).name
    if config.name == "segformer" and source.startswith(NVIDIA):
        return OTHER, f"Pretrained encoder {source}: NVIDIA's licence, for non-commercial use."
    is_of_timm = config.name == "upernet" and "/" not in source and not Path(source).exists()
    licence = timm_licence(config.encoder) if is_of_timm else ""
    if licence:
        return licence, f"Pretrained encoder {config.encoder} of timm: {licence}."
    hint = ". NVIDIA's MiT weights are for non-commercial use" if config.name == "segformer" else ""
    return "unknown", f"Pretrained encoder from {name}: {UNKNOWN}{hint}."
