"""The record of a confirmation, as RUN/confirmation.json holds it, and its verdicts in words.

Reads and writes no file. Scores in the record are in 0..1, in sentences in per cent.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from segtune.checks.confirmation import (
    LEVEL,
    MAX_SEEDS,
    POWER,
    TEST,
    Comparison,
    compare,
    spread_of,
)
from segtune.tuning.confirm_study import ConfirmPlan, Retrained
from segtune.tuning.study import Study

FORMAT = 1
NO_COMPARISON = (
    "no comparison: the config itself has completed with fewer than two of the fresh seeds"
)


def confirmation_record(
    study: Study,
    plan: ConfirmPlan,
    retrained: Sequence[Retrained],
    earlier: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Return the record of the fresh training runs, as plain JSON values.

    `retrained` are the trials of the plan, the config itself first. `earlier` is the record before
    this one: if candidates or seeds were added since, this is a further look.
    """
    from segtune import __version__

    baseline, *candidates = retrained
    looks = _looks(plan, earlier)
    scores = [candidate.scores(plan.seeds) for candidate in candidates]
    comparisons = compare(baseline.scores(plan.seeds), scores, len(looks))
    rows = [_candidate(c, r, plan.seeds) for c, r in zip(candidates, comparisons, strict=True)]
    return {
        "format": FORMAT,
        "version": __version__,
        "written": round(time.time(), 3),
        "epochs": study.epochs,
        "proxy": study.search.proxy is not None,
        "seeds": list(plan.seeds),
        "looks": looks,
        "test": {"name": TEST, "level": LEVEL, "power": POWER, "noise": _noise(comparisons)},
        "baseline": _config(baseline, plan.seeds),
        "candidates": rows,
        "sentence": headline(rows),
    }


def _looks(plan: ConfirmPlan, earlier: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Return the trials and seeds of each test so far; the same ones again are no further look."""
    trials = [trial.id for trial in plan.candidates]
    look = {"trials": sorted(trials), "seeds": list(plan.seeds)}
    looks = list(earlier["looks"]) if earlier else []
    return looks if looks and looks[-1] == look else [*looks, look]


def _noise(comparisons: Sequence[Comparison]) -> float | None:
    return next((c.noise for c in comparisons if c.noise is not None), None)


def _config(config: Retrained, seeds: Sequence[int]) -> dict[str, Any]:
    scores = config.scores(seeds)
    spread = spread_of(scores)
    runs = {str(seed): config.runs[seed] for seed in seeds if seed in config.runs}
    return {
        "trial": config.trial.id,
        "search_miou": config.trial.miou,
        "scores": dict(zip(map(str, seeds), scores, strict=True)),
        "mean": spread.mean,
        "std": spread.std,
        "runs": {seed: f"confirm/trials/{run.trial.id}" for seed, run in runs.items()},
        "problems": {seed: run.problem for seed, run in runs.items() if run.problem},
    }


def _candidate(config: Retrained, result: Comparison, seeds: Sequence[int]) -> dict[str, Any]:
    row = _config(config, seeds) | {
        "differences": list(result.differences),
        "gain": result.gain,
        "margin": result.margin,
        "p": result.p,
        "outcome": result.outcome,
        "more_seeds": result.more_seeds,
    }
    return row | {"sentence": sentence(row, seeds)}


def headline(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the verdict on the search in one line.

    It is the sentence of the trial with the highest mIoU in the search. If another trial turned out
    better, its sentence follows.
    """
    winner = min(rows, key=lambda row: (-(row["search_miou"] or 0.0), row["trial"]))
    better = [row for row in rows if row["outcome"] == "better"]
    best = max(better, key=lambda row: row["gain"], default=winner)
    if best is winner:
        return winner["sentence"]
    return f"{winner['sentence']}; {best['sentence']}"


def sentence(row: Mapping[str, Any], seeds: Sequence[int]) -> str:
    """Return the verdict on one candidate in words."""
    name = f"trial {row['trial']}"
    if row["outcome"] == "no comparison":
        return NO_COMPARISON
    if row["outcome"] == "unhealthy":
        return f"{name} is not called better: {_problems(row, len(seeds))}"
    seen = f"{len(seeds)} fresh seeds, p {format_p(row['p'])}"
    margin = f"{100 * row['margin']:.1f}"
    if row["outcome"] == "within the noise":
        size = f"{100 * row['gain']:+.1f} ± {margin} mIoU"
        return f"{name} is within the noise of the config itself: {size} ({seen}){_advice(row)}"
    size = f"{100 * abs(row['gain']):.1f} ± {margin} mIoU"
    return f"{name} is {row['outcome']} than the config itself by {size} ({seen})"


def _advice(row: Mapping[str, Any]) -> str:
    if row["gain"] <= 0:
        return ""
    if row["more_seeds"] is None:
        return f"; a difference this small needs more than {MAX_SEEDS} seeds"
    return f"; if the difference is real, it needs about {row['more_seeds']} more seeds"


def _problems(row: Mapping[str, Any], num_seeds: int) -> str:
    """Return how many seeds have no score, and how the first of them ended."""
    missing = [seed for seed, score in row["scores"].items() if score is None]
    end = row["problems"].get(missing[0], "not trained")
    return f"{len(missing)} of {num_seeds} seeds did not complete; seed {missing[0]} ended {end}"


def format_p(p: float) -> str:
    """Return a p value with two digits, and a very small one as a bound."""
    return "< 0.001" if p < 0.001 else f"{p:.2g}"
