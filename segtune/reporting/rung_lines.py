"""What the rungs of a search are worth, in words and as a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from segtune.runs.rundir import SearchDir
from segtune.tuning.study import Study

if TYPE_CHECKING:
    from segtune.tuning.curves.worth import RungWorth

CAPTION = (
    "How well two orders of the trials at a rung agree with the order of their ends: by the score "
    "at the rung, and by the end that the model of learning curves expected there, without the "
    "later scores. The numbers are rank correlations (Spearman), from -1 to 1. Only trials that "
    "went on count: the others have no later score. The end of a trial that is not complete is the "
    "expected one by now."
)


@dataclass(frozen=True)
class RungLine:
    """What a rung is worth, and by what trials go on there."""

    worth: RungWorth
    order: str  # "score" or "expected end"

    @property
    def label(self) -> str:
        """The name of the rung."""
        return f"rung {self.worth.rung}"

    @property
    def sentence(self) -> str:
        """The worth in words, for the terminal."""
        return (
            f"the score ranks the {self.worth.num_trials} trials that went on with a correlation "
            f"of {self.worth.by_score:.2f} to their ends, the expected end with "
            f"{self.worth.by_expected:.2f}; trials go on by {self.order}"
        )

    @property
    def cells(self) -> tuple[str, ...]:
        """The row of the table in the report."""
        by_score, by_expected = f"{self.worth.by_score:.2f}", f"{self.worth.by_expected:.2f}"
        return (
            str(self.worth.rung),
            str(self.worth.num_trials),
            by_score,
            by_expected,
            self.order,
        )


def rung_lines(study: Study, run: SearchDir) -> Sequence[RungLine]:
    """Return a line for each rung that enough trials have gone beyond; most searches have few."""
    if not study.rungs():
        return []
    from segtune.checks.rung_worth import rung_worths  # imports numpy and SciPy

    return [RungLine(worth, _order(study, worth)) for worth in rung_worths(study, run)]


def _order(study: Study, worth: RungWorth) -> str:
    """Return by what trials go on at a rung, as the stopping rule of the study decides it."""
    is_expected = study.search.orders_by_expected_end and worth.is_expected_better
    return "expected end" if is_expected else "score"
