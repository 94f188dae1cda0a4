"""The table of trials in terminals of several widths."""

from io import StringIO

import pytest
from rich.console import Console

from segtune.reporting.trials_table import trials_table
from segtune.runs.results import TrialResult

NAMES = ["optim.lr", "loss.focal.gamma", "augment.transforms", "model.name", "loss.dice.weight"]
TRIALS = [
    TrialResult(0, "completed", miou=0.4354, best_epoch=12, epoch=12, params={"optim.lr": 0.03}),
    TrialResult(1, "unhealthy", kind="collapsed", miou=0.1, epoch=4, params={"optim.lr": 0.5}),
    TrialResult(
        2,
        "running",
        epoch=3,
        params={"model.name": "[red]upernet", "augment.transforms": "x" * 60},
    ),
]


def printed(width: int, limit: int | None = None) -> list[str]:
    console = Console(file=StringIO(), width=width)
    console.print(trials_table(TRIALS, NAMES, 12, width, limit))
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined]


@pytest.mark.parametrize("width", [70, 80, 100, 160])
def test_table_fits_the_terminal_and_names_the_settings_that_do_not(width: int) -> None:
    lines = printed(width)
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    assert "unhealthy (collapsed)" in text
    table, _, caption = text.partition("no room for")
    for title in ("lr", "gamma", "transforms", "name", "weight"):
        assert (f" {title} " in table.splitlines()[1]) != (title in caption)


def test_narrow_terminal_keeps_short_settings_behind_a_long_one() -> None:
    head = printed(84)[1]
    assert " lr " in head
    assert "transforms" not in head
    assert " weight " in head


def test_long_value_is_folded_and_markup_is_text() -> None:
    text = "\n".join(printed(160))
    assert "│ " + "x" * 24 + " │" in text
    assert "[red]upernet" in text
    assert "no room" not in text


def test_limit_says_how_many_trials_are_left_out() -> None:
    assert any("and 2 more" in line for line in printed(160, limit=1))
