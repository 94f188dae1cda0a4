"""A batch that the tests of the losses share."""

import pytest
import torch
from torch import Tensor

from segtune.losses import row_bands

NUM_CLASSES = 5


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    """Logits float64 [2, 5, 6, 7] and their labels [2, 6, 7]; two rows of the first are ignored."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, NUM_CLASSES, 6, 7, generator=generator, dtype=torch.float64) * 3
    target = torch.randint(0, NUM_CLASSES, (2, 6, 7), generator=generator)
    target[0, :2] = 255
    return logits, target


@pytest.fixture(params=[1, 3, 1000], ids=lambda num_rows: f"{num_rows} rows")
def rows_per_band(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a test with bands of one row, of three rows, and of the whole sample."""
    monkeypatch.setitem(row_bands.VALUES_PER_BAND, "cpu", NUM_CLASSES * 7 * request.param)
