"""Why a pair is refused, as data: the kind of problem, and the values that are in the mask.

The message is for the user. A check over a whole data set counts the kinds and the values.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from segtune.errors import DataError

Kind = Literal["unreadable", "label-values", "colour-mask", "lossy-mask", "size", "all-ignored"]
# A mask that numbers its objects has other values in each file. More than this many different
# values are not kept, so that memory does not grow with the data set.
MAX_VALUES = 1024
MAX_FILES = 5


class RefusedPair(DataError):
    """A pair with a problem of a known kind.

    `values` are the counts of all values in the mask file, and `wrong` those that are no labels;
    both are empty for other kinds than label-values.
    """

    def __init__(
        self,
        message: str,
        kind: Kind = "unreadable",
        values: Mapping[int, int] | None = None,
        wrong: frozenset[int] = frozenset(),
    ) -> None:
        """All but the message have defaults: exceptions of loader processes are rebuilt from it."""
        super().__init__(message)
        self.kind: Kind = kind
        self.values = dict(values or {})
        self.wrong = wrong


def value_counts(values: np.ndarray) -> dict[int, int]:
    """Return the counts of the values of a mask file, at most the MAX_VALUES most frequent."""
    distinct, counts = np.unique(values, return_counts=True)
    most = counts.argsort(kind="stable")[::-1][:MAX_VALUES]
    return dict(zip(distinct[most].tolist(), counts[most].tolist(), strict=True))


@dataclass
class RefusedFiles:
    """The files that are refused for one reason, with the message of the first one by name."""

    kind: Kind
    text: str
    count: int = 0
    files: list[str] = field(default_factory=list)  # the first MAX_FILES by name
    values: Counter[int] = field(default_factory=Counter)  # pixels of each value in these files
    wrong: set[int] = field(default_factory=set)  # those of the values that are no labels

    def add(self, file: str, text: str, error: RefusedPair | None = None) -> None:
        """Count a file. `error` has its values, if they are known."""
        self.count += 1
        if file and (not self.files or file < self.files[0]):
            self.text = text
        self.files = sorted({*self.files, file} - {""})[:MAX_FILES]
        if error:
            self.values.update(error.values)
            self.wrong |= error.wrong
            if len(self.values) > 2 * MAX_VALUES:
                self.values = Counter(dict(self.values.most_common(MAX_VALUES)))
                self.wrong &= self.values.keys()
