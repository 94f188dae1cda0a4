"""After a search on a proxy: some trials at full length, and whether the proxy had ranked them as they come out."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from segtune.runs.results import TrialResult, ranked, read_trials
from segtune.runs.rundir import SearchDir
from segtune.tuning.study import Study


@dataclass(frozen=True)
class RankComparison:
    """Trials that ran on the proxy and at full length."""

    correlation: (
        float | None
    )  # Spearman's, in -1..1; None for fewer than three trials or where all are equal
    trials: int
    trusted: bool

    @property
    def words(self) -> str:
        """Returns the result in one line."""
        if self.correlation is None:
            return f"proxy check: {self.trials} trials at full length are too few, or too equal, to compare their ranks"
        told = f"proxy check: rank correlation of proxy and full mIoU {self.correlation:.2f} over {self.trials} trials"
        return (
            told
            if self.trusted
            else f"{told}: too low, the proxy ranks by chance; make it longer (search.proxy.epochs) or larger"
        )


def select_for_full_length(trials: Sequence[TrialResult], carry: int) -> list[TrialResult]:
    """Returns the best half of what is to be carried, and for the check the rest evenly from best to worst; trial 0 comes anyway."""
    order = [t for t in ranked(trials) if t.healthy and t.number]
    best, others = order[: (carry + 1) // 2], order[(carry + 1) // 2 :]
    rest = min(carry - len(best), len(others))
    return best + [others[(i + 1) * len(others) // rest - 1] for i in range(rest)]


def full_length_study(study: Study, run: SearchDir) -> Study:
    """Returns the study of the full length: the config itself and the trials that are carried, without stopping any.

    What has been carried before stays in its place: a search that was given more trials since adds to it.
    """
    assert study.search.proxy
    points = [t.params for t in read_trials(run.full)]
    points += [
        t.params
        for t in select_for_full_length(read_trials(run), study.search.proxy.carry)
        if t.params not in points
    ]
    changes: dict[str, Any] = {
        "known_good": points,
        "proxy": None,
        "scheduler": "none",
        "sampler": "random",
        "storage": None,
    }
    full = replace(study, search=study.search.override(changes))
    return replace(full, search=full.search.override({"trials": len(full.points())}))


def check(study: Study, proxy_run: SearchDir, full_run: SearchDir) -> RankComparison:
    """Compares the ranks of the trials that ran both ways."""
    import numpy
    import pandas

    assert study.search.proxy
    scores = [
        {json.dumps(t.params, sort_keys=True): t.miou for t in read_trials(run) if t.healthy}
        for run in (proxy_run, full_run)
    ]
    table = pandas.DataFrame(
        {"proxy": pandas.Series(scores[0]), "full": pandas.Series(scores[1])}
    ).dropna()
    value = float(numpy.corrcoef(table.rank().to_numpy().T)[0, 1]) if len(table) >= 3 else math.nan
    correlation = value if math.isfinite(value) else None
    return RankComparison(
        correlation, len(table), correlation is None or correlation >= study.search.proxy.warn_below
    )
