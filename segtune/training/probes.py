"""Two measurements per epoch: the gradient that the focal loss leaves, and the norm of the weights.

Judges nothing: `health.py` does.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from segtune.losses.labels import Mixing
from segtune.losses.segmentation import SegmentationLoss


def weight_norm(model: nn.Module) -> float:
    """Return the Euclidean norm over all parameters; not finite if one of them is not finite."""
    return float(torch.nn.utils.get_total_norm([p.detach() for p in model.parameters()]))


def gradient_left(
    loss: SegmentationLoss, logits: Tensor, target: Tensor, mixing: Mixing | None = None
) -> float:
    """Return the norm of the loss's gradient on the logits, relative to that with focal gamma 0.

    The factor (1 - p)^gamma of the focal loss reduces the gradient of easy pixels (Lin et al.
    2017). With a large gamma it can reduce the gradient of all pixels to almost nothing.

    Shapes as in `SegmentationLoss`. No gradient reaches the model. Returns 1 if the loss has no
    focal term, or if no pixel has a label.
    """
    focal = loss.config.focal
    if not focal.weight or not focal.gamma:
        return 1.0
    full_norm = _gradient_norm(loss.without_focusing(), logits, target, mixing)
    return _gradient_norm(loss, logits, target, mixing) / full_norm if full_norm else 1.0


def _gradient_norm(
    loss: SegmentationLoss, logits: Tensor, target: Tensor, mixing: Mixing | None
) -> float:
    leaf = logits.detach().float().requires_grad_()
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(loss(leaf, target, mixing)["total"], leaf)
    return float(gradient.norm())
