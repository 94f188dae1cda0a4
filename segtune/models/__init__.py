"""Networks of transformers and timm: they map images to logits at a quarter of the image size."""

from segtune.models.build import build_model

__all__ = ["build_model"]
