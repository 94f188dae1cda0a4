"""Whether the trial that is named as the best of a search run was confirmed."""

from __future__ import annotations

import shlex

from segtune.checks.noise_floor import noise_words
from segtune.runs.results import TrialResult
from segtune.runs.rundir import SearchDir


def confirmation_line(run: SearchDir, winner: TrialResult) -> str:
    """Return whether the trial that is named as the best was confirmed, in one line.

    This is the verdict of `segtune confirm`, or the command if there is none. Raise RunError if its
    record cannot be read.
    """
    verdict, problem = confirmation_words(run, winner)
    if verdict:
        return verdict
    do = "repeat it" if run.confirmation.exists() else "confirm it"
    return f"no: {problem}; {do}: {shlex.join(['segtune', 'confirm', str(run.path)])}"


def confirmation_words(run: SearchDir, winner: TrialResult) -> tuple[str, str]:
    """Return the verdict of `segtune confirm` on the best trial, or why there is none."""
    record = run.read_confirmation()
    if record is None:
        noise = run.read_noise_floor()
        words = f"; {noise_words(noise)}" if noise else ""
        return "", f"one training run each, so a difference below the noise means nothing{words}"
    if winner.number == 0 or winner.id in {row["trial"] for row in record["candidates"]}:
        return record["sentence"], ""
    return "", f"trial {winner.id} became the best after the confirmation"
