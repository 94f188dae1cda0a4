"""After a search on a proxy: which trials train at full length, and whether the ranks agree."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from segtune.runs.results import TrialResult, ranked, read_trials
from segtune.runs.rundir import SearchDir
from segtune.tuning.search_config import NO_LIMITS
from segtune.tuning.study import Study


@dataclass(frozen=True)
class RankComparison:
    """How the ranks on the proxy agree with those at full length, over the trials that ran both."""

    correlation: float | None  # Spearman's, in -1..1; None: fewer than 3 trials, or all are equal
    trials: int
    trusted: bool  # False if the correlation is below search.proxy.warn_below

    @property
    def words(self) -> str:
        """The result in one line."""
        if self.correlation is None:
            return (
                f"proxy check: {self.trials} trials at full length are too few, or too equal, "
                "to compare their ranks"
            )
        result = (
            f"proxy check: rank correlation of proxy and full mIoU {self.correlation:.2f} "
            f"over {self.trials} trials"
        )
        if self.trusted:
            return result
        return (
            f"{result}: too low, the proxy's ranking is close to chance; "
            "make it longer (search.proxy.epochs) or larger"
        )


def select_for_full_length(trials: Sequence[TrialResult], carry: int) -> list[TrialResult]:
    """Return `carry` trials that may win, or all of them if there are fewer.

    Half are the best ones; the rest are spread evenly from the next best to the worst, so that the
    ranks can be compared. Trial 0 is left out, because it trains at full length in any case.
    """
    candidates = [trial for trial in ranked(trials) if trial.may_win and trial.number]
    num_best = (carry + 1) // 2
    best, others = candidates[:num_best], candidates[num_best:]
    num_rest = min(carry - len(best), len(others))
    return best + [others[(i + 1) * len(others) // num_rest - 1] for i in range(num_rest)]


def full_length_study(study: Study, run: SearchDir) -> Study:
    """Return the study that trains the config itself and the selected trials at full length.

    It stops no trial early. Trials that have been trained at full length before keep their numbers,
    so that a search that has got more trials since only adds to them.
    """
    assert study.search.proxy
    points = [trial.params for trial in read_trials(run.full) if trial.number]
    selected = select_for_full_length(read_trials(run), study.search.proxy.carry)
    points += [trial.params for trial in selected if trial.params not in points]
    changes: dict[str, Any] = {
        "known_good": points,
        "proxy": None,
        "scheduler": "none",
        "sampler": "random",
        "storage": None,
        **NO_LIMITS,
    }
    # After --extend, the config's own value of a new setting, with which the earlier trials were
    # trained, may lie outside the space.
    space = study.space.widened_to(points)
    full = replace(study, space=space, search=study.search.override(changes))
    return replace(full, search=full.search.override({"trials": len(full.points())}))


def check(study: Study, proxy_run: SearchDir, full_run: SearchDir) -> RankComparison:
    """Compare the ranks of the healthy trials that ran both on the proxy and at full length."""
    import numpy
    import pandas

    assert study.search.proxy
    scores = {"proxy": _scores(proxy_run), "full": _scores(full_run)}
    table = pandas.DataFrame({name: pandas.Series(column) for name, column in scores.items()})
    ranks = table.dropna().rank().to_numpy()
    # Spearman's correlation is Pearson's of the ranks; NaN if one column has equal ranks only.
    value = float(numpy.corrcoef(ranks.T)[0, 1]) if len(ranks) >= 3 else math.nan
    correlation = value if math.isfinite(value) else None
    trusted = correlation is None or correlation >= study.search.proxy.warn_below
    return RankComparison(correlation, len(ranks), trusted)


def _scores(run: SearchDir) -> dict[str, float | None]:
    """Return the best mIoU of the healthy trials by their values, which name the same point."""
    return {json.dumps(t.params, sort_keys=True): t.miou for t in read_trials(run) if t.healthy}
