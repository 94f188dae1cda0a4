"""Loss terms for segmentation: focal, Dice and cross-entropy on logits, and their weighted sum."""

from segtune.losses.segmentation import SegmentationLoss, build_loss

__all__ = ["SegmentationLoss", "build_loss"]
