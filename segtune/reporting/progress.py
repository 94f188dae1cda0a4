"""A progress bar for work on many files, and one line for each file that is refused."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    track,
)

Item = TypeVar("Item")


def with_bar(items: Sequence[Item], label: str) -> Iterable[Item]:
    """Yield items, with a progress bar on stderr if that is a terminal. The bar then vanishes."""
    console = Console(stderr=True)
    return track(
        items, description=label, console=console, transient=True, disable=not console.is_terminal
    )


def follow(problems: Iterable[str], total: int, label: str, *, shows_bar: bool = True) -> int:
    """Run through `problems` and return how many are not empty.

    `problems` has an item for each of `total` files: an empty text if the file is done, otherwise
    why it is refused. The refusals are printed to stderr as they come, one line each. The bar is
    shown only on a terminal, and vanishes at the end.
    """
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    num_refused = 0
    with Progress(
        *columns,
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not (shows_bar and console.is_terminal),
    ) as progress:
        task = progress.add_task(label, total=total)
        for problem in problems:
            if problem:
                num_refused += 1
                print_refusal(problem, progress.console)
            progress.advance(task)
    return num_refused


def print_refusal(problem: str, console: Console | None = None) -> None:
    """Print why a file is refused, as one line on stderr."""
    line = f"refused: {printable(problem)}"
    if console is not None and console.is_terminal:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    else:
        print(line, file=sys.stderr)


def printable(text: str) -> str:
    """Return a text in one line, with escapes for what a terminal cannot print.

    A file name may hold line breaks, control characters and bytes that are no text.
    """
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
