"""The errors that a user can cause, and their root. A bug in segtune is never one of these: it stays a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class SegtuneError(Exception):
    """Something the user can mend. Commands print the message without a traceback and exit with 2."""


class ConfigError(SegtuneError):
    """One or more settings are wrong. All of them are listed at once, each as place, law, value, way out."""

    def __init__(self, problems: Sequence[str]) -> None:
        """`problems`: one line each, at least one."""
        assert problems
        self.problems = tuple(problems)
        super().__init__(self.problems)

    def __str__(self) -> str:
        return "\n".join(self.problems)


class DataError(SegtuneError):
    """A data set is absent, incomplete or has labels that its config does not allow."""


class WeightsError(SegtuneError):
    """Pretrained weights are absent or belong to another architecture."""


class CheckpointError(SegtuneError):
    """A checkpoint is absent, damaged or belongs to another config."""


class RunError(SegtuneError):
    """A run folder is in use, absent, or does not fit what is asked of it."""


class ClusterError(SegtuneError):
    """The Ray cluster is unreachable, or smaller than one trial needs."""


def nearest(name: str, allowed: Iterable[str]) -> str:
    """Returns `; did you mean 'x'?` for the closest of `allowed`, or an empty string where none is close."""
    matches = difflib.get_close_matches(name, list(allowed), n=1, cutoff=0.5)
    return f"; did you mean '{matches[0]}'?" if matches else ""
