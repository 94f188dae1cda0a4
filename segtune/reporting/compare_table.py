"""Several searches in the terminal: a table, and why their scores may not be comparable."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from segtune.reporting.compared_searches import ComparedSearch, differing_settings, warnings_of
from segtune.reporting.terminal import print_lines

# More differing settings than this are left to the page.
MAX_DIFFERING = 8


def print_comparison(searches: Sequence[ComparedSearch], console: Console) -> None:
    """Print a row for each search, the verdicts on their winners, and the settings that differ."""
    table = Table(header_style="bold", expand=False)
    for title in searches[0].cells:
        table.add_column(title, justify="left" if title == "search" else "right")
    for search in searches:
        table.add_row(*map(Text, search.cells.values()))
    console.print(table)
    print_lines(console, *(f"{search.name} confirmed: {search.confirmed}" for search in searches))
    differing = differing_settings(searches)
    for name, values in differing[:MAX_DIFFERING]:
        print_lines(console, f"{name}: {' | '.join(values)}")
    if len(differing) > MAX_DIFFERING:
        more = len(differing) - MAX_DIFFERING
        print_lines(console, f"{more} more settings differ, see the page")
    print_lines(console, *warnings_of(searches))
