"""Errors that a user can cause and repair.

A bug in segtune is never one of these: it stays a traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class SegtuneError(Exception):
    """An error that the user can repair. Commands print its message and exit with code 2."""


class ConfigError(SegtuneError):
    """Wrong settings, all listed at once: place, what is wrong, what is allowed, nearest name."""

    def __init__(self, problems: Sequence[str]) -> None:
        """Take one line for each problem; at least one."""
        assert problems
        self.problems = tuple(problems)
        super().__init__(self.problems)

    def __str__(self) -> str:
        return "\n".join(self.problems)


class DataError(SegtuneError):
    """A data set is missing or incomplete, or has labels that its config does not allow."""


class WeightsError(SegtuneError):
    """Pretrained weights are missing or belong to another architecture."""


class CheckpointError(SegtuneError):
    """A checkpoint is missing or damaged, or belongs to another config."""


class RunError(SegtuneError):
    """A run folder is missing or in use, or does not fit the command."""


class ClusterError(SegtuneError):
    """The Ray cluster cannot be reached, or is smaller than one trial needs."""


def nearest(name: str, allowed: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` with the closest name in `allowed`, or "" if none is close."""
    matches = difflib.get_close_matches(name, list(allowed), n=1, cutoff=0.5)
    return f"; did you mean '{matches[0]}'?" if matches else ""
