"""`loss.balance: gradient`: terms that pull equally at the start, so that weights are shares.

The terms of a loss have gradients of very different size: at the start, that of a sigmoid focal
loss with gamma 2 is a few per cent of that of cross-entropy. Their weights then say little. Here
each term gets a factor with which its gradient on the parameters has the norm of cross-entropy's,
on one batch of the untrained network. (Chen et al. 2018, GradNorm, adapt such factors during
training; these are constant.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from segtune.config.schema import ExperimentConfig
from segtune.errors import ConfigError
from segtune.losses.segmentation import SegmentationLoss, build_loss

REFERENCE = "ce"
# A term whose gradient is a smaller fraction of the reference has none to scale.
SMALLEST_SHARE = 1e-6


def term_losses(config: ExperimentConfig, classes: Sequence[str]) -> dict[str, SegmentationLoss]:
    """Return a loss with weight 1 for each active term, and for the reference."""
    active = [name for name, weight in config.loss.weights.items() if weight]
    none = {f"{name}.weight": 0.0 for name in config.loss.weights}
    return {
        name: build_loss(
            config.loss.override({**none, f"{name}.weight": 1.0}),
            len(classes),
            config.data.ignore_index,
        )
        for name in dict.fromkeys([*active, REFERENCE])
    }


def balance_factors(norms: Mapping[str, float]) -> dict[str, float]:
    """Return the factor of each term, given the norms of the gradients of `term_losses`.

    Raises ConfigError if a term has no gradient at the start.
    """
    reference = norms[REFERENCE]
    without = [name for name, norm in norms.items() if not norm > SMALLEST_SHARE * reference]
    if without:
        raise ConfigError(
            [
                f"loss.balance: the gradient of {name} at the start is {norms[name]:.2g}, that of "
                f"cross-entropy {reference:.2g}; set its weight to 0, or loss.balance: none"
                for name in without
            ]
        )
    return {name: reference / norm for name, norm in norms.items()}


def balanced_loss(
    config: ExperimentConfig, classes: Sequence[str], factors: Mapping[str, float]
) -> SegmentationLoss:
    """Return the loss of a config with its weights times the factors."""
    weights: dict[str, Any] = {
        f"{name}.weight": weight * factors[name]
        for name, weight in config.loss.weights.items()
        if weight
    }
    return build_loss(config.loss.override(weights), len(classes), config.data.ignore_index)
