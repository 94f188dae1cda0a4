"""Side by side: the same machine, the same minute, one after the other in turns. Medians of times, and the median of ratios."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table


def once(work: Callable[[], object]) -> float:
    """Returns the seconds that a call takes, what it has started on a GPU included."""
    start = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def in_turns(works: Mapping[str, Callable[[], object]], repetitions: int) -> dict[str, list[float]]:
    """Returns the seconds of each call by name, one list entry per round; a round before the first is not counted."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for round_ in range(repetitions + 1):
        for name, work in works.items():
            seconds = once(work)
            if round_:
                times[name].append(seconds)
    return times


def ratio(slow: Sequence[float], fast: Sequence[float]) -> float:
    """Returns how many times faster the second is: the median over the rounds, so that a busy moment counts once."""
    return statistics.median(a / b for a, b in zip(slow, fast, strict=True))


def show(title: str, rows: Sequence[Mapping[str, Any]], out: Path | None) -> None:
    """Prints rows as a table, their keys as its head, and writes them as JSON where that is asked for."""
    table = Table(*rows[0], title=title)
    for row in rows:
        table.add_row(*map(str, row.values()))
    Console(width=160).print(table)
    if out:
        out.write_text(json.dumps({"title": title, "rows": rows}, indent=1) + "\n")
