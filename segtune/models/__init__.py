"""Networks from transformers and timm: images in, logits at a quarter of their size out."""

from segtune.models.build import build_model

__all__ = ["build_model"]
