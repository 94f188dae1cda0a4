"""Lovász-Softmax on logits at the size of the labels, with its gradient in closed form.

The values and gradients are those of `formulas.lovasz_softmax`. It sorts the pixels by their error,
so it does not work in bands: it needs the probabilities of all pixels at once, and three copies of
them while it runs. Only the gradient on the logits is kept for the backward pass.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from segtune.losses.labels import Labelling
from segtune.losses.softmax import Softmax
from segtune.models.bilinear import resize


class LovaszLoss(torch.autograd.Function):
    """The Lovász-Softmax loss [] of one labelling of a batch.

    With shares, a pixel counts in the Jaccard index with its sample's share, and the loss is
    multiplied by the mean share. So if all shares are equal, it is the share times the loss.
    """

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, logits: Tensor, labelling: Labelling, per_image: bool, ignore_index: int
    ) -> Tensor:
        """Compute the value and the gradient on the logits.

        Shapes: logits float [N, C, h, w]; the labels of `labelling` are int64 [N, H, W]. Reads from
        the device which classes are present, for which the host waits.
        """
        with torch.enable_grad():
            leaf = logits.detach().requires_grad_()
            full = upsample(leaf, labelling.target.shape[-2:])
        value, grad_full = _of_batch(full.detach(), labelling, per_image, ignore_index)
        (gradient,) = torch.autograd.grad(full, leaf, grad_full)
        ctx.save_for_backward(gradient)
        return value.to(logits)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, grad_value: Tensor
    ) -> tuple[Tensor | None, ...]:
        """Return the gradient on the logits: that of the forward pass times `grad_value`."""
        return grad_value * ctx.saved_tensors[0], None, None, None


def upsample(logits: Tensor, size: torch.Size) -> Tensor:
    """Return logits [N, C, h, w] at `size` (H, W); its gradient is deterministic on a GPU."""
    if logits.shape[-2:] == size:
        return logits.view_as(logits)
    return resize(logits.permute(0, 2, 3, 1), size).permute(0, 3, 1, 2)


def _of_batch(
    logits: Tensor, labelling: Labelling, per_image: bool, ignore_index: int
) -> tuple[Tensor, Tensor]:
    """Return the loss [] of a labelling in float64, and its gradient [N, C, H, W] on the logits."""
    num_samples, num_classes = logits.shape[:2]
    gradient = torch.empty_like(logits)
    value = torch.zeros((), dtype=torch.float64, device=logits.device)
    size = 1 if per_image else num_samples
    for start in range(0, num_samples, size):
        group = slice(start, start + size)
        target = labelling.target[group]
        weights = (target != ignore_index).to(logits)
        factor: Tensor | float = size / num_samples
        if labelling.share is not None:
            share = labelling.share[group].to(logits)
            weights = weights * share[:, None, None]
            factor = factor * share.mean()
        pixels = logits[group].transpose(0, 1).reshape(num_classes, -1)
        labels = target.where(weights > 0, 0).flatten()
        loss, grad = lovasz_of_pixels(pixels, labels, weights.flatten())
        value += factor * loss
        grad = (factor * grad).view(num_classes, -1, *logits.shape[-2:])
        gradient[group] = grad.transpose(0, 1)
    return value, gradient


def lovasz_of_pixels(logits: Tensor, labels: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return the loss [] in float64 of P pixels, and its gradient [C, P] on the logits.

    Shapes: logits [C, P]; labels int64 [P] in 0..C-1; weights [P], 0 for an ignored pixel. It is
    the mean over the classes that are present, or 0 if there is none.
    """
    softmax = Softmax(logits)
    label_errors = softmax.missing(labels[None])
    sums = weights.new_zeros(len(logits)).index_add_(0, labels, weights)
    present = sums.nonzero()[:, 0].tolist()
    grad_p = torch.zeros_like(logits)
    value = torch.zeros((), dtype=torch.float64, device=logits.device)
    for label in present:
        is_label = labels == label
        errors, order = torch.where(is_label, label_errors, softmax.p[label]).sort(
            descending=True, stable=True
        )
        slopes = _slopes(is_label[order], weights[order].double()) / len(present)
        value += errors.double() @ slopes
        # The error of a pixel of this class falls with p, that of every other pixel grows.
        grad_p[label, order] = slopes.where(~is_label[order], -slopes).to(grad_p)
    return value, softmax.gradient(grad_p)


def _slopes(is_label: Tensor, weights: Tensor) -> Tensor:
    """Return by how much the Jaccard loss grows with each pixel [P], in the order of the errors.

    The loss is 1 - intersection / union if this pixel and all before it are predicted wrongly.
    Differences of such losses would lose all digits of a large image, so the growth is written out:
    a pixel of the class leaves the union as it is, and every other pixel the intersection.
    """
    of_label = weights * is_label
    others = weights - of_label
    total = of_label.sum()
    intersection = total - of_label.cumsum(0)
    union = total + others.cumsum(0)
    return of_label / union + intersection * others / (union * (union - others))
