"""Measured once an epoch for `health.py`: has the loss still a gradient, and have the weights run away? Judges nothing."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from segtune.losses.segmentation import SegmentationLoss, build_loss


def weight_norm(model: nn.Module) -> float:
    """Returns the Euclidean norm over all parameters; not finite where one of them is not."""
    return float(torch.nn.utils.get_total_norm([p.detach() for p in model.parameters()]))


def gradient_left(loss: SegmentationLoss, logits: Tensor, target: Tensor) -> float:
    """Returns which share of the gradient the focal term's (1 - p)^gamma has left: the norm over the logits against gamma 0.

    Shapes as in `SegmentationLoss`; nothing reaches the model. 1 where there is no focal term, or no
    valid pixel to say anything. The factor was made to quieten easy pixels (Lin et al. 2017); with a large gamma it quietens all of them.
    """
    focal = loss.config.focal
    if not focal.weight or not focal.gamma:
        return 1.0
    plain = build_loss(
        loss.config.override({"focal.gamma": 0.0}), loss.num_classes, loss.ignore_index
    )
    norms = []
    for one in (loss, plain):
        free = logits.detach().float().requires_grad_()
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(one(free, target)["total"], free)
        norms.append(float(gradient.norm()))
    return norms[0] / norms[1] if norms[1] else 1.0
