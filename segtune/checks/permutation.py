"""Permutation tests for the trials of a search. Pure functions of arrays.

A sampler draws later trials near the best ones so far, so that the order of the trials is related
to every setting and to the score. Therefore values are only exchanged between trials that were
drawn at about the same time: within blocks of consecutive trials.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

NUM_PERMUTATIONS = 1999
# Trials of one block. With fewer, few permutations are left; with more, the sampler changes.
BLOCK = 10
# Columns of a design whose singular values are below this fraction of the largest are repetitions.
RANK_TOLERANCE = 1e-8


def permutations(num_trials: int, seed: int = 0) -> np.ndarray:
    """Return NUM_PERMUTATIONS orders of the trials [NUM_PERMUTATIONS, num_trials].

    Trials are in the order in which they were drawn, and stay within their block.
    """
    num_blocks = max(1, num_trials // BLOCK)
    blocks = np.arange(num_trials) * num_blocks // num_trials
    keys = np.random.default_rng(seed).random((NUM_PERMUTATIONS, num_trials))
    return np.argsort(keys + blocks, axis=1)


def p_value(observed: float, permuted: np.ndarray) -> float:
    """Return how often a permuted statistic reaches the observed one, which counts as well."""
    return float((1 + (permuted >= observed * (1 - 1e-12)).sum()) / (1 + len(permuted)))


@dataclass(frozen=True)
class Effect:
    """What a group of columns explains of the scores, beyond other columns."""

    p: float
    share: float  # of the variance; corrected for what noise explains, and at least 0


def partial_effect(
    scores: np.ndarray, others: np.ndarray, columns: np.ndarray, orders: np.ndarray
) -> Effect | None:
    """Test whether `columns` explain scores beyond `others`; None if that cannot be tested.

    Shapes: scores [n], others [n, q], columns [n, k], orders [B, n] of `permutations`. A constant
    is added to `others`. The statistic is the F ratio of the two linear models, and what is
    permuted are the residuals of the smaller model (Freedman and Lane 1983). The share is omega
    squared.
    """
    base = _basis(np.column_stack([np.ones(len(scores)), others]))
    added = _basis(columns - base @ (base.T @ columns), np.abs(columns).max(initial=1.0))
    freedom = len(scores) - base.shape[1] - added.shape[1]
    residuals = scores - base @ (base.T @ scores)
    if freedom < 1 or not added.shape[1] or np.allclose(residuals, 0):
        return None
    ratio, explained, noise = _f_ratio(residuals[None], base, added)
    permuted, _, _ = _f_ratio(residuals[orders], base, added)
    by_chance = added.shape[1] * noise[0] / freedom
    total = ((scores - scores.mean()) ** 2).sum()
    share = max(0.0, float((explained[0] - by_chance) / (total + noise[0] / freedom)))
    return Effect(p_value(float(ratio[0]), permuted), share)


def _basis(columns: np.ndarray, scale: float | None = None) -> np.ndarray:
    """Return orthonormal columns that span the same space.

    `scale` is the size of columns before something was subtracted from them: what is much smaller
    is a rounding error.
    """
    if not columns.shape[1]:
        return columns
    left, sizes, _ = np.linalg.svd(columns, full_matrices=False)
    largest = max(float(sizes.max(initial=0.0)), scale or 0.0)
    return left[:, sizes > RANK_TOLERANCE * largest]


def _f_ratio(
    residuals: np.ndarray, base: np.ndarray, added: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return F up to a factor, and the sums of squares of its parts, for each row [B, n]."""
    explained = ((residuals @ added) ** 2).sum(1)
    noise = (residuals**2).sum(1) - ((residuals @ base) ** 2).sum(1) - explained
    noise = np.maximum(noise, 1e-12 * (residuals**2).sum(1))
    return explained / noise, explained, noise
