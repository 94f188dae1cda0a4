"""Whether the edges of masks lie on the edges of their images, or do after a turn or a shift.

A mask that is mirrored, turned or shifted has the right size and the right labels, and trains a
wrong model without any message. Its edges show it.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

# Pairs are compared at this size, so that a shift is a share of the sides.
SIDE = 256
# Slow changes, such as sky above and road below, are removed: they fit a mirrored mask as well.
WINDOW = 33
# Shifts are looked for up to an eighth of the sides.
MAX_SHIFT = SIDE // 8
# Turns of the mask, in the order of EXIF's orientations 1 to 4: none, mirrored, by 180 degrees,
# upside down. Then these four after a swap of rows and columns, only for square pairs.
TURNS = (
    *("", "mirrored left to right", "turned by 180 degrees", "upside down"),
    *("transposed", "turned by 90 degrees clockwise", "transposed across the other diagonal"),
    "turned by 90 degrees anticlockwise",
)


class Fit(NamedTuple):
    """Where the edges of all masks together fit best."""

    turn: str  # of TURNS; empty if the masks fit as they are
    right: float  # share of the width by which the masks have to move to the right
    down: float  # share of the height by which they have to move down
    peak: float  # height of the best place in standard deviations over all places
    here: float  # the same of the masks with this turn and without a shift
    runner_up: float  # the best place after any other turn


class EdgeFit:
    """Sums the correlation of image edges and mask edges over pairs, for all turns and shifts."""

    def __init__(self) -> None:
        self.num_pairs = 0
        self._are_square = True
        self._sums = np.zeros((len(TURNS), SIDE, SIDE // 2 + 1), np.complex128)

    def add(self, image: np.ndarray, labels: np.ndarray) -> None:
        """Add an image [H, W, 3] and its labels [H, W]; a pair without edges is left out."""
        edges, borders = image_edges(image), label_edges(labels)
        if edges is None or borders is None:
            return
        self.num_pairs += 1
        self._are_square &= labels.shape[0] == labels.shape[1]
        spectrum = np.fft.rfft2(edges)
        for index, turned in enumerate(_turns(borders, self._are_square)):
            self._sums[index] += spectrum * np.conj(np.fft.rfft2(turned))

    def best(self) -> Fit | None:
        """Return the best turn and shift; None without pairs."""
        if not self.num_pairs:
            return None
        turns = TURNS if self._are_square else TURNS[:4]
        fits = sorted(map(self._fit, range(len(turns))), key=lambda fit: fit.peak)
        return fits[-1]._replace(runner_up=fits[-2].peak)

    def _fit(self, index: int) -> Fit:
        surface = np.fft.fftshift(np.fft.irfft2(self._sums[index], (SIDE, SIDE)))
        first, last = SIDE // 2 - MAX_SHIFT, SIDE // 2 + MAX_SHIFT + 1
        window = surface[first:last, first:last]
        row, column = np.unravel_index(window.argmax(), window.shape)
        shift = (int(place) - MAX_SHIFT for place in (column, row))
        right, down = (pixels / SIDE for pixels in shift)
        deviation = max(float(surface.std()), 1e-12)
        here = window[MAX_SHIFT, MAX_SHIFT] / deviation
        return Fit(TURNS[index], right, down, window.max() / deviation, here, runner_up=0.0)


def fits_better(labels: np.ndarray, image: np.ndarray, other: np.ndarray) -> bool | None:
    """Return whether the edges of a mask lie on those of `image` rather than on those of `other`.

    All three are resized to one size. Returns None if one of them has no edges.
    """
    borders, edges, others = label_edges(labels), image_edges(image), image_edges(other)
    if borders is None or edges is None or others is None:
        return None
    return bool((borders * edges).sum() > (borders * others).sum())


def image_edges(image: np.ndarray) -> np.ndarray | None:
    """Return how strong the edges of an image are, float32 [SIDE, SIDE]; None if it has none."""
    grey = cv2.resize(
        cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (SIDE, SIDE), interpolation=cv2.INTER_AREA
    )
    across, down = (cv2.Sobel(grey, cv2.CV_32F, x, 1 - x) for x in (1, 0))
    return _normalised(np.log1p(cv2.magnitude(across, down)))


def label_edges(labels: np.ndarray) -> np.ndarray | None:
    """Return where labels change, float32 [SIDE, SIDE]; None if they do not change."""
    small = cv2.resize(labels, (SIDE, SIDE), interpolation=cv2.INTER_NEAREST)
    borders = np.zeros((SIDE, SIDE), np.float32)
    for changes, before, after in (
        (small[1:] != small[:-1], borders[:-1], borders[1:]),
        (small[:, 1:] != small[:, :-1], borders[:, :-1], borders[:, 1:]),
    ):
        before[changes] = 1
        after[changes] = 1
    return _normalised(borders)


def _normalised(edges: np.ndarray) -> np.ndarray | None:
    edges = edges - cv2.blur(edges, (WINDOW, WINDOW))
    deviation = edges.std()
    return (edges - edges.mean()) / deviation if deviation > 1e-6 else None


def _turns(borders: np.ndarray, are_square: bool) -> list[np.ndarray]:
    swapped = [borders.T] if are_square else []
    return [
        turned
        for array in (borders, *swapped)
        for turned in (array, array[:, ::-1], array[::-1, ::-1], array[::-1])
    ]
