"""Small grey copies of images, and pairs of images that are nearly equal by them.

An image that was resized, compressed again or mirrored has other pixels and the same fingerprint,
up to a few bits. docs/your-data.md has the measured rates.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

# Height of the copy; it is one pixel wider, so that each row has SIDE differences.
SIDE = 16
# Both limits hold for copies of CamVid's images: JPEG at quality 30, half and double size, noise of
# 5 grey levels (at most 15 bits and 0.0001), brightness x 1.2 (15 bits, 0.004). Of its 37,067 pairs
# of a training and a validation image, none is below 77 bits or 0.07.
MAX_BITS = 32  # of SIDE * SIDE
MAX_DISTANCE = 0.01
# Smaller images are not halved: each pixel of the copy is a mean of 16 pixels or more.
MIN_HALVED = 8 * SIDE


class NearPair(NamedTuple):
    """The indices of two nearly equal images, and how far apart they are."""

    first: int
    second: int
    bits: int  # of SIDE * SIDE, that differ
    distance: float  # 1 minus the correlation of the grey copies, from 0
    is_mirrored: bool


def fingerprint(image: np.ndarray) -> np.ndarray:
    """Return a grey copy of an image, uint8 [SIDE, SIDE + 1]."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    # Halving is several times as fast per pixel as a mean over other areas.
    while min(grey.shape) >= MIN_HALVED:
        half = (grey.shape[1] // 2, grey.shape[0] // 2)
        grey = cv2.resize(grey, half, interpolation=cv2.INTER_LINEAR)
    return cv2.resize(grey, (SIDE + 1, SIDE), interpolation=cv2.INTER_AREA)


def near_pairs(first: Sequence[np.ndarray], second: Sequence[np.ndarray]) -> list[NearPair]:
    """Return, for each fingerprint of `first` that has one, the nearest one of `second`.

    A pair is near if at most MAX_BITS bits of its difference hashes (dHash, Krawetz 2013) differ
    and the grey copies correlate. The bits alone are not enough: images that are black except for
    one object differ in few bits.
    """
    if not first or not second:
        return []
    ours, theirs = np.stack(first), np.stack(second)
    found: dict[int, NearPair] = {}
    for is_mirrored in (False, True):
        turned = ours[:, :, ::-1] if is_mirrored else ours
        for match in cv2.BFMatcher(cv2.NORM_HAMMING).match(_bits(turned), _bits(theirs)):
            index, other, bits = match.queryIdx, match.trainIdx, int(match.distance)
            if bits > MAX_BITS or (index in found and found[index].bits <= bits):
                continue
            distance = _distance(turned[index], theirs[other])
            if distance <= MAX_DISTANCE:
                found[index] = NearPair(index, other, bits, distance, is_mirrored)
    return [found[index] for index in sorted(found)]


def _bits(copies: np.ndarray) -> np.ndarray:
    """Return whether each pixel is brighter than the one on its left, uint8 [N, SIDE² / 8]."""
    is_brighter = copies[:, :, 1:] > copies[:, :, :-1]
    return np.packbits(is_brighter.reshape(len(copies), -1), axis=1)


def _distance(first: np.ndarray, second: np.ndarray) -> float:
    """Return 1 minus Pearson's correlation; 1 if one of the two has a single grey level."""
    ours, theirs = (copy.astype(np.float64) - copy.mean() for copy in (first, second))
    norm = np.linalg.norm(ours) * np.linalg.norm(theirs)
    return float(1 - (ours * theirs).sum() / norm) if norm else 1.0
