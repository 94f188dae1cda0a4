"""What the search benchmark has shown: regret, ranks, tests and costs of each method.

    python -m benchmarks.search.report results.jsonl --figures DIR
    python -m benchmarks.search.report results.jsonl --markdown --by-task

Every number of workers has tables of its own. A seed counts if every method has it on every task.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from benchmarks.search.figures import draw_anytime, draw_ranks, line_styles
from benchmarks.search.measures import (
    OURS,
    Anytime,
    RankComparison,
    Results,
    Search,
    anytime,
    arrange,
    compare_ranks,
    differences,
    epochs_or_budget,
    epochs_until,
    ranks,
    ratios_to_best_peer,
    regrets_at,
)
from benchmarks.timing import Row, show_table

REFERENCE = "segtune curves, pausing"  # what a search does by default
SHARES = {"1/8": 0.125, "1/4": 0.25, "1/2": 0.5, "1": 1.0}
RANKED_SHARES = {"1/4": 0.25, "1/2": 0.5, "1": 1.0}
CURVE_SHARES = np.linspace(0, 1, 401)
MIN_METHODS, MIN_TASKS = 3, 2  # of the Friedman test
SMALLEST_P = 1e-4

Table = tuple[str, list[Row]]  # title and rows


def tables(results: Results, reference: str | None, within: float, at: float) -> list[Table]:
    """Return all tables of one number of workers, except for the one by task."""
    shown: list[Table] = [
        ("mean regret (25-75 % of the seeds) after a share of the budget", regret_rows(results)),
        ("mean rank over tasks and seeds after a share of the budget", rank_rows(results)),
    ]
    base = reference_method(results.methods, reference)
    if base and len(results.methods) > 1:
        title = f"regret of {base} minus that of the others, after {_share(at)}"
        shown.append((title, difference_rows(results, base, at)))
    if can_compare_ranks(results):
        comparison = compare_ranks(_regrets(results, at))
        title = f"mean rank over tasks after {_share(at)}; {_tests(comparison)}"
        shown.append((title, comparison_rows(results.methods, comparison)))
    title = f"worker-epochs until the regret stays within {within:g}"
    shown.append((title, epoch_rows(results, within)))
    shown.append(("regret at the end, and the cost of a search", end_rows(results)))
    return [(f"{label(results)}: {title}", rows) for title, rows in shown]


def label(results: Results) -> str:
    """Return what the searches of a table have in common."""
    return (
        f"{results.workers} workers, {results.trainings} trainings, {len(results.tasks)} tasks, "
        f"{len(results.seeds)} seeds"
    )


def reference_method(methods: Sequence[str], wanted: str | None) -> str | None:
    """Return the method that the others are tested against, or None if there is none.

    It is the wanted one, else REFERENCE, else the first of segtune's by name. The best of them
    would be chosen by the results that it is tested on.
    """
    ours = sorted(method for method in methods if method.startswith(OURS))
    names = [name for name in (wanted, REFERENCE) if name in methods]
    return next(iter([*names, *ours]), None)


def can_compare_ranks(results: Results) -> bool:
    """Return whether there are enough methods and tasks for the Friedman test."""
    return len(results.methods) >= MIN_METHODS and len(results.tasks) >= MIN_TASKS


def regret_rows(results: Results) -> list[Row]:
    """Return the mean regret at shares of the budget, with its band."""
    curve = anytime(results, list(SHARES.values()))
    rows: list[Row] = []
    for i, method in enumerate(results.methods):
        row: Row = {"method": method}
        for j, share in enumerate(SHARES):
            band = f"{curve.low[i, j]:.3f}-{curve.high[i, j]:.3f}"
            row[share] = f"{curve.mean[i, j]:.3f} ({band})"
        rows.append(row)
    return rows


def rank_rows(results: Results) -> list[Row]:
    """Return the mean rank over tasks and seeds at shares of the budget."""
    regrets = results.values(lambda search: regrets_at(search, list(RANKED_SHARES.values())))
    means = ranks(regrets).mean((1, 2))  # [M, P]
    return [
        {"method": method, **dict(zip(RANKED_SHARES, _fixed(row), strict=True))}
        for method, row in zip(results.methods, means, strict=True)
    ]


def difference_rows(results: Results, reference: str, at: float) -> list[Row]:
    """Return the tests of the reference against each other method."""
    return [
        {
            "method": item.method,
            "difference (< 0: lower regret)": f"{item.difference:+.3f}",
            "p over tasks and seeds (Holm)": _p(item.p_pairs),
            "p over tasks (Holm)": _p(item.p_tasks),
        }
        for item in differences(results, _regrets(results, at), reference)
    ]


def comparison_rows(methods: Sequence[str], comparison: RankComparison) -> list[Row]:
    """Return the mean rank of each method over tasks, the best first."""
    order = np.argsort(comparison.mean_ranks, kind="stable")
    means = comparison.mean_ranks
    return [{"method": methods[i], "mean rank": f"{means[i]:.2f}"} for i in order]


def epoch_rows(results: Results, within: float) -> list[Row]:
    """Return the worker-epochs until a config within the tolerance is announced for good."""
    epochs = results.values(lambda search: epochs_or_budget(search, within))
    trainings = results.values(lambda s: epochs_or_budget(s, within) / s.full_epochs)
    arrived = results.values(lambda search: epochs_until(search, within) is not None)
    has_peer = bool(results.is_peer.any())
    peer, ratios = ratios_to_best_peer(epochs, results.is_peer) if has_peer else (0, np.empty(0))
    title = f"ratio to {results.methods[peer]}" if has_peer else "ratio"
    rows: list[Row] = []
    for i, method in enumerate(results.methods):
        low, middle, high = np.quantile(epochs[i], (0.25, 0.5, 0.75))
        row: Row = {
            "method": method,
            "median (quartiles)": f"{middle:.0f} ({low:.0f}-{high:.0f})",
            "full trainings": f"{np.median(trainings[i]):.2f}",
            "arrive": f"{arrived[i].mean():.0%}",
            title: f"{ratios[i]:.2f}" if has_peer else "-",
        }
        rows.append(row)
    return rows


def end_rows(results: Results) -> list[Row]:
    """Return what each method announced and drew by the end, and what the search cost.

    The gap between the regret of the announced config and that of the best config drawn is the
    price of early stopping and noise. The best one may have been drawn too late to be trained.
    """
    measures = {
        "announced": lambda s: s.regret(s.final_truth),
        "drawn": lambda s: s.regret(s.final_drawn),
        "better": lambda s: s.final_truth > s.itself,
        "trials": lambda s: s.num_trials,
        "busy": lambda s: s.busy_share,
        "seconds": lambda s: s.seconds,
    }
    means = {name: results.values(measure).mean((1, 2)) for name, measure in measures.items()}
    return [
        {
            "method": method,
            "regret": f"{means['announced'][i]:.3f}",
            "best drawn": f"{means['drawn'][i]:.3f}",
            "gap": f"{means['announced'][i] - means['drawn'][i]:.3f}",
            "better than itself": f"{means['better'][i]:.0%}",
            "trials": f"{means['trials'][i]:.1f}",
            "busy": f"{means['busy'][i]:.1%}",
            "CPU s": f"{means['seconds'][i]:.2f}",
            "ms per trial": f"{1000 * means['seconds'][i] / max(means['trials'][i], 1):.1f}",
        }
        for i, method in enumerate(results.methods)
    ]


def task_rows(results: Results, within: float) -> list[Row]:
    """Return the means over the seeds for each task and method, and the median of the epochs."""
    regrets = results.values(lambda search: regrets_at(search, list(RANKED_SHARES.values())))
    drawn = results.values(lambda search: search.regret(search.final_drawn)).mean(2)
    final_ranks = ranks(regrets[..., -1]).mean(2)
    epochs = np.median(results.values(lambda search: epochs_or_budget(search, within)), axis=2)
    arrived = results.values(lambda search: epochs_until(search, within) is not None).mean(2)
    means = regrets.mean(2)  # [M, T, P]
    return [
        {
            "task": task,
            "method": method,
            **dict(zip(RANKED_SHARES, _fixed(means[i, j], 3), strict=True)),
            "best drawn": f"{drawn[i, j]:.3f}",
            "rank": f"{final_ranks[i, j]:.2f}",
            "epochs": f"{epochs[i, j]:.0f}",
            "arrive": f"{arrived[i, j]:.0%}",
        }
        for j, task in enumerate(results.tasks)
        for i, method in enumerate(results.methods)
    ]


def _regrets(results: Results, at: float) -> np.ndarray:
    """Return the regret [M, T, S] at one share of the budget."""
    return results.values(lambda search: regrets_at(search, [at])[0])


def _share(at: float) -> str:
    return "the whole budget" if at == 1 else f"{at:g} of the budget"


def _tests(comparison: RankComparison) -> str:
    return (
        f"p of the Friedman test: {_p(comparison.p)}, "
        f"critical difference {comparison.critical_difference:.2f}"
    )


def _fixed(numbers: Iterable[float], digits: int = 2) -> list[str]:
    return [f"{number:.{digits}f}" for number in numbers]


def _p(p: float) -> str:
    return f"< {SMALLEST_P:.4f}" if p < SMALLEST_P else f"{p:.4f}"


def write_figures(groups: Sequence[Results], folder: Path, suffix: str, at: float) -> list[Path]:
    """Write two figures for each number of workers, and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    # A method has the same colour in all figures.
    styles = line_styles(sorted({method for results in groups for method in results.methods}))
    paths: list[Path] = []
    for results in groups:
        name = f"{results.workers}-workers-{results.trainings}-trainings.{suffix}"
        curve = anytime(results, CURVE_SHARES)
        curves = {
            method: Anytime(curve.mean[[i]], curve.low[[i]], curve.high[[i]])
            for i, method in enumerate(results.methods)
        }
        paths.append(folder / f"regret-{name}")
        draw_anytime(paths[-1], f"Regret: {label(results)}", CURVE_SHARES, curves, styles)
        if can_compare_ranks(results):
            comparison = compare_ranks(_regrets(results, at))
            title = f"Mean rank over tasks after {_share(at)}\n{label(results)}"
            title += f"\np of the Friedman test: {_p(comparison.p)}"
            paths.append(folder / f"ranks-{name}")
            draw_ranks(paths[-1], title, results.methods, comparison)
    return paths


def markdown(title: str, rows: Sequence[Row]) -> str:
    """Return a table in Markdown, with its title as a paragraph above."""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(list(row.values()) for row in rows)]
    text = "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)
    return f"**{title}**\n\n{text}\n"


def read(
    paths: Iterable[Path], methods: Sequence[str] | None, tasks: Sequence[str] | None
) -> list[Search]:
    """Return the searches of files of results, with these methods and tasks only.

    Raises ValueError if the files have no search of one of them.
    """
    lines = [line for path in paths for line in path.read_text().splitlines()]
    searches = [Search.from_row(json.loads(line)) for line in lines]
    _check_names("--methods", methods, {search.method for search in searches})
    _check_names("--tasks", tasks, {search.task for search in searches})
    return [
        search
        for search in searches
        if (not methods or search.method in methods) and (not tasks or search.task in tasks)
    ]


def _check_names(option: str, wanted: Sequence[str] | None, known: set[str]) -> None:
    unknown = [name for name in wanted or () if name not in known]
    if unknown:
        raise ValueError(f"{option}: no search of {unknown}; the results have {sorted(known)}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", type=Path, nargs="+", help="files of benchmarks.search")
    parser.add_argument("--methods", nargs="+", metavar="NAME", help="compare these only")
    parser.add_argument("--tasks", nargs="+", metavar="NAME", help="use these only")
    parser.add_argument("--reference", metavar="NAME", help=f"default: {REFERENCE}, if it is there")
    parser.add_argument("--within", type=float, default=0.05, help="tolerance of the regret")
    parser.add_argument("--at", type=float, default=1.0, help="share of the budget of the tests")
    parser.add_argument("--by-task", action="store_true", help="also print every task")
    parser.add_argument("--markdown", action="store_true", help="print tables in Markdown")
    parser.add_argument("--figures", type=Path, metavar="DIR", help="also write figures")
    parser.add_argument("--format", choices=("svg", "png"), default="svg", help="of the figures")
    return parser


def main(words: Sequence[str] | None = None) -> None:
    parser = _parser()
    arguments = parser.parse_args(words)
    wanted = [arguments.reference] if arguments.reference else None
    try:
        searches = read(arguments.results, arguments.methods, arguments.tasks)
        _check_names("--reference", wanted, {search.method for search in searches})
        groups = arrange(searches)
    except ValueError as error:
        parser.error(str(error))
    for results in groups:
        shown = tables(results, arguments.reference, arguments.within, arguments.at)
        if arguments.by_task:
            title = f"{label(results)}: each task"
            shown.append((title, task_rows(results, arguments.within)))
        for title, rows in shown:
            if arguments.markdown:
                print(markdown(title, rows))
            else:
                show_table(title, rows, None)
        if results.num_left_out:
            print(f"left out: {results.num_left_out} searches with seeds that others lack\n")
    if arguments.figures:
        for path in write_figures(groups, arguments.figures, arguments.format, arguments.at):
            print(path)


if __name__ == "__main__":
    main()
