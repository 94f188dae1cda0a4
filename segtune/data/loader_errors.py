"""Errors of loader processes, passed to the rank as values.

A DataLoader raises an exception of its processes again with a traceback as its message. A damaged
file is not a bug, so the rank raises the DataError itself, with one line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch.utils.data import Dataset

from segtune.errors import DataError


class ErrorsAsValues(Dataset):
    """The samples of another data set; a sample that raises DataError is that error."""

    def __init__(self, samples: Dataset) -> None:
        """Take the data set that may raise."""
        self.samples = samples

    def __getitem__(self, index: Any) -> Any:
        try:
            return self.samples[index]
        except DataError as error:
            return error


@dataclass(frozen=True)
class CollateOrError:
    """Collates samples to a batch; if one of them is an error, the batch is that error."""

    collate: Callable[[list[Any]], Any]

    def __call__(self, samples: list[Any]) -> Any:
        """Return the batch of `samples`, or the first error among them."""
        for sample in samples:
            if isinstance(sample, DataError):
                return sample
        return self.collate(samples)


def raise_errors(batches: Iterator[Any]) -> Iterator[Any]:
    """Yield the batches; raise the first one that is a DataError."""
    for batch in batches:
        if isinstance(batch, DataError):
            raise batch
        yield batch
