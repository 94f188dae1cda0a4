"""The softmax over classes and its gradient, exact also if a probability rounds to 1."""

from __future__ import annotations

import torch
from torch import Tensor


class Softmax:
    """The probabilities of P pixels, for losses on probabilities: Tversky and Lovász-Softmax.

    - `p`: the probabilities [C, P];
    - `top`: the class with the highest one, int64 [1, P];
    - `rest`: the sum of all others [P]. It is 1 - p of `top` with all its digits.
    """

    def __init__(self, logits: Tensor) -> None:
        """Shape: logits [C, P]."""
        top_logit, self.top = logits.max(0, keepdim=True)
        exps = torch.exp(logits - top_logit)
        others = exps.scatter(0, self.top, 0.0).sum(0)
        self.p = exps / (1 + others)
        self.rest = others / (1 + others)

    def missing(self, labels: Tensor) -> Tensor:
        """Return 1 - p [P] of each pixel's label, from `labels` [1, P]."""
        # Only the probability of `top` can be near 1, where 1 - p would lose its digits.
        return torch.where(labels == self.top, self.rest, 1 - self.p.gather(0, labels))[0]

    def gradient(self, grad_p: Tensor) -> Tensor:
        """Return the gradient [C, P] on the logits, from `grad_p` [C, P] on the probabilities.

        It is p * (grad_p - sum(p * grad_p)). For `top` with p near 1, the two terms of the
        difference are almost equal, so the sum is taken without `top`.
        """
        p_top, grad_top = self.p.gather(0, self.top), grad_p.gather(0, self.top)
        others = (self.p * grad_p).scatter_(0, self.top, 0.0).sum(0)
        result = self.p * (grad_p - (p_top * grad_top + others))
        return result.scatter_(0, self.top, p_top * (grad_top * self.rest - others))
