"""What a check of the machine finds: a sentence, how bad it is, and the remedy."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

State = Literal["ok", "warning", "problem"]  # a problem stops a search


@dataclass(frozen=True)
class Outcome:
    """What one check has found."""

    check: str  # name of the check, such as "disk"
    state: State
    text: str  # what is there, with numbers
    remedy: str = ""  # empty if the state is ok

    def dump(self) -> dict[str, Any]:
        """Return the outcome as plain JSON values."""
        return asdict(self)


def graded(
    check: str, text: str, *, problem: bool = False, warning: bool = False, remedy: str
) -> Outcome:
    """Return an outcome; `remedy` counts only if it is a problem or a warning."""
    state: State = "problem" if problem else "warning" if warning else "ok"
    return Outcome(check, state, text, "" if state == "ok" else remedy)


def worst(outcomes: Iterable[Outcome]) -> State:
    """Return the worst state."""
    states = {outcome.state for outcome in outcomes}
    return "problem" if "problem" in states else "warning" if "warning" in states else "ok"
