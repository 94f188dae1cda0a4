"""Times of several calls side by side, and the table that shows them.

The calls take turns, so that a change in the machine's load affects all of them. A result is a
median over the rounds; a ratio is the median of the ratios of the rounds.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

Row = dict[str, object]  # a row of a table: column title -> cell


def seconds_of(work: Callable[[], object]) -> float:
    """Return the seconds that a call takes, including what it started on a GPU."""
    start = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def time_in_turns(
    works: Mapping[str, Callable[[], object]], repetitions: int
) -> dict[str, list[float]]:
    """Return for each name the seconds of its call in every round.

    One more round, before the first, warms up and does not count.
    """
    times: dict[str, list[float]] = {name: [] for name in works}
    for round_number in range(repetitions + 1):
        for name, work in works.items():
            seconds = seconds_of(work)
            if round_number > 0:
                times[name].append(seconds)
    return times


def speedup(slow: Sequence[float], fast: Sequence[float]) -> float:
    """Return how many times faster `fast` is than `slow`, as the median over the rounds.

    A busy moment of the machine affects one round, and so one ratio.
    """
    return statistics.median(a / b for a, b in zip(slow, fast, strict=True))


def show_table(title: str, rows: Sequence[Mapping[str, object]], out: Path | None) -> None:
    """Print the rows as a table, with their keys as column titles; also write JSON to `out`."""
    table = Table(*rows[0], title=title)
    for row in rows:
        table.add_row(*map(str, row.values()))
    Console(width=160).print(table)
    if out:
        out.write_text(json.dumps({"title": title, "rows": rows}, indent=1) + "\n")
