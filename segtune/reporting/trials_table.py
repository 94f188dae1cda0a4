"""The trials of a search run as a table in the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from segtune.reporting.format import (
    format_miou,
    format_value,
    kind_of,
    measured_columns,
    short_names,
)
from segtune.runs.results import RUNNING, TrialResult, ranked

# Styles of rich; the page has colours of its own, see `charts.STATE_COLOURS`.
STATE_STYLES = {
    "completed": "green",
    "pruned": "yellow",
    "paused": "yellow",
    "unhealthy": "red",
    "failed": "red",
    "interrupted": "magenta",
    RUNNING: "cyan",
}
# Characters of a column besides its text: two blanks and a line.
AROUND_CELL = 3
# Longer values, such as lists of transforms, are folded.
MOST_OF_A_VALUE = 24


def trials_table(
    trials: Sequence[TrialResult],
    names: Sequence[str],
    epochs: int,
    width: int,
    limit: int | None = None,
) -> Table:
    """Return the trials by rank, at most `limit` of them, in a table of `width` characters.

    `names` are the searched settings. Those for which there is no room are named below the table.
    """
    order = ranked(trials)
    shown = order[:limit]
    fixed = _fixed_columns(shown, measured_columns(trials), epochs)
    settings = _setting_columns(shown, names)
    room = width - 1 - sum(_width(title, cells) for title, cells in fixed.items())
    kept = _that_fit(settings, room)
    table = Table(header_style="bold", expand=False)
    for title in fixed:
        table.add_column(title, justify="left" if title == "status" else "right", no_wrap=True)
    for title in kept:
        table.add_column(title, justify="right", max_width=MOST_OF_A_VALUE, overflow="fold")
    for row in zip(*fixed.values(), *(settings[title] for title in kept), strict=True):
        table.add_row(*row)
    missing = [title for title in settings if title not in kept]
    notes = [f"and {len(order) - len(shown)} more"] if len(order) > len(shown) else []
    if missing:
        notes.append(f"no room for {', '.join(missing)}: segtune status RUN --csv FILE has them")
    table.caption = "; ".join(notes) or None
    return table


def _fixed_columns(
    trials: Sequence[TrialResult], measured: Mapping, epochs: int
) -> dict[str, list[Text]]:
    """Return the cells of the columns that every table has, by title."""
    winning = [str(rank) if trial.may_win else "-" for rank, trial in enumerate(trials, 1)]
    return {
        "rank": [Text(rank) for rank in winning],
        "trial": [Text(trial.id + (" *" if trial.number == 0 else "")) for trial in trials],
        "mIoU": [Text(format_miou(trial.miou)) for trial in trials],
        **{
            title: [Text(show(trial.profile)) for trial in trials]
            for title, show in measured.items()
        },
        "epoch": [Text(f"{trial.epoch}/{epochs}") for trial in trials],
        "status": [_status(trial) for trial in trials],
    }


def _status(trial: TrialResult) -> Text:
    kind = kind_of(trial)
    text = f"{trial.state} ({kind})" if kind else trial.state
    return Text(text, style=STATE_STYLES.get(trial.state, ""))


def _setting_columns(trials: Sequence[TrialResult], names: Sequence[str]) -> dict[str, list[Text]]:
    """Return the values of the searched settings, by their short names."""
    return {
        title: [
            Text(format_value(trial.params[name]) if name in trial.params else "")
            for trial in trials
        ]
        for name, title in short_names(names).items()
    }


def _that_fit(columns: Mapping[str, Sequence[Text]], room: int) -> list[str]:
    """Return the titles of the columns that fit into `room` characters, each if it fits."""
    kept = []
    for title, cells in columns.items():
        needed = min(_width(title, cells), AROUND_CELL + MOST_OF_A_VALUE)
        if needed <= room:
            kept.append(title)
            room -= needed
    return kept


def _width(title: str, cells: Sequence[Text]) -> int:
    return AROUND_CELL + max([cell_len(title), *(cell.cell_len for cell in cells)])
