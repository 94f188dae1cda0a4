"""The edges of masks show by which turn or shift they are away from their images."""

from collections.abc import Callable

import cv2
import numpy as np
import pytest

from segtune.data.edge_fit import EdgeFit, Fit, fits_better


def scene(seed: int, height: int = 96, width: int = 128) -> tuple[np.ndarray, np.ndarray]:
    """Return an image of three boxes and a disc on noise, and its labels."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((height, width), np.uint8)
    for label in (1, 2, 3):
        x, y = rng.integers(4, width - 40), rng.integers(4, height - 30)
        labels[y : y + rng.integers(12, 26), x : x + rng.integers(12, 36)] = label
    cv2.circle(labels, (int(rng.integers(20, width - 20)), height // 3), 11, 4, -1)
    colours = rng.integers(0, 255, (5, 3))
    noise = rng.normal(0, 8, (height, width, 3))
    return np.clip(colours[labels] + noise, 0, 255).astype(np.uint8), labels


def fit_after(
    change: Callable[[np.ndarray], np.ndarray], height: int = 96, width: int = 128
) -> Fit:
    edges = EdgeFit()
    for seed in range(12):
        image, labels = scene(seed, height, width)
        edges.add(image, np.ascontiguousarray(change(labels)))
    fit = edges.best()
    assert fit
    assert edges.num_pairs == 12
    return fit


def test_masks_that_fit_have_no_turn_and_no_shift() -> None:
    fit = fit_after(lambda labels: labels)
    assert fit.turn == ""
    assert max(abs(fit.right), abs(fit.down)) <= 1 / 128
    assert fit.peak > 20


@pytest.mark.parametrize(
    ("change", "turn"),
    [
        (lambda labels: labels[:, ::-1], "mirrored left to right"),
        (lambda labels: labels[::-1], "upside down"),
        (lambda labels: labels[::-1, ::-1], "turned by 180 degrees"),
    ],
)
def test_the_turn_that_repairs_the_masks_is_named(
    change: Callable[[np.ndarray], np.ndarray], turn: str
) -> None:
    fit = fit_after(change)
    assert fit.turn == turn
    assert fit.peak > 20


@pytest.mark.parametrize(
    ("quarters", "turn"),
    [(1, "turned by 90 degrees clockwise"), (-1, "turned by 90 degrees anticlockwise")],
)
def test_square_masks_may_be_turned_by_90_degrees(quarters: int, turn: str) -> None:
    # np.rot90 turns anticlockwise.
    assert fit_after(lambda labels: np.rot90(labels, quarters), 96, 96).turn == turn


def test_the_shift_that_repairs_the_masks_is_a_share_of_the_sides() -> None:
    # Moved to the right by 6 of 128 columns and up by 9 of 96 rows.
    fit = fit_after(lambda labels: np.roll(labels, (-9, 6), (0, 1)))
    assert fit.turn == ""
    assert fit.right == pytest.approx(-6 / 128, abs=1 / 128)
    assert fit.down == pytest.approx(9 / 96, abs=1 / 96)


def test_a_mask_without_edges_is_left_out() -> None:
    edges = EdgeFit()
    edges.add(scene(0)[0], np.zeros((96, 128), np.uint8))
    assert (edges.num_pairs, edges.best()) == (0, None)


def test_a_mask_fits_its_image_better_than_the_turned_one() -> None:
    image, labels = scene(3)
    turned = np.ascontiguousarray(image[::-1, ::-1])
    assert fits_better(labels, image, turned) is True
    assert fits_better(labels, turned, image) is False
    assert fits_better(np.zeros_like(labels), image, turned) is None
