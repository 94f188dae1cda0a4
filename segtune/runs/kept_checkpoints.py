"""Which checkpoints a search keeps: those of its best trials, and of trials that may go on."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable, Sequence

from segtune.runs.pareto import MIOU, pareto_front
from segtune.runs.results import TrialResult, ranked
from segtune.runs.rundir import SearchDir

# Ends that stand. An interrupted trial goes on at a resume, a failed one may be started again, and
# a paused one may be the next in a free slot: they need their last checkpoint.
FINAL = ("completed", "pruned", "unhealthy")


# Workers of a stopped trial train on until they notice it, and may write another checkpoint.
GRACE_S = 30.0


class KeptCheckpoints:
    """Deletes the checkpoints of ended trials that are not among the best of a search run.

    Neither a resume nor a warm start needs them: both read records only.
    """

    def __init__(
        self,
        run: SearchDir,
        keep: int | None,
        trials: Iterable[TrialResult],
        objectives: Sequence[str] = (MIOU,),
    ) -> None:
        """`keep` is the number of best trials; None: all. `trials` are those so far.

        With several objectives, the trials of the Pareto front are kept, too. Trial 0 is kept if it
        is healthy: the report compares its predictions with those of the best trial.
        """
        self._run = run
        self._keep = keep
        self._objectives = objectives
        self._best: list[TrialResult] = []
        self._ended: dict[int, TrialResult] = {}  # by trial number; with several objectives only
        self._dropped: dict[int, float] = {}  # {trial: since when, on the monotonic clock}
        self._paused: set[int] = set()  # trials that were paused at their last end
        for trial in trials:
            self.ended(trial)

    def ended(self, trial: TrialResult) -> None:
        """Take the result of a trial that has ended."""
        if self._keep is None or trial.state not in (*FINAL, "paused"):
            return
        (self._paused.add if trial.state == "paused" else self._paused.discard)(trial.number)
        candidates = ranked([*(t for t in self._best if t.number != trial.number), trial])
        self._best = [t for t in candidates if t.may_win][: self._keep]
        if len(self._objectives) > 1:
            # Among all trials: another one with the same network changes the median latency.
            self._ended[trial.number] = trial
            front = pareto_front(self._ended.values(), self._objectives)
            self._best += [t for t in front if t not in self._best]
        for kept in self._best:
            self._dropped.pop(kept.number, None)
        for other in candidates:
            if other not in self._best and not (other.number == 0 and other.healthy):
                self._dropped[other.number] = time.monotonic()

    def sweep(self, grace_s: float = GRACE_S) -> None:
        """Delete the checkpoints of the trials that have been dropped for `grace_s` seconds.

        Those of a trial that was paused are deleted only if the search has given it up since.
        """
        now = time.monotonic()
        for number in [n for n, since in self._dropped.items() if now - since >= grace_s]:
            trial = self._run.trial(number)
            verdict = trial.read_verdict() if number in self._paused else None
            if number in self._paused and not (verdict and verdict.state in FINAL):
                continue  # it still waits, or it runs again
            shutil.rmtree(trial.checkpoints, ignore_errors=True)
            del self._dropped[number]
