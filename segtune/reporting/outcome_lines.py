"""The outcomes of `segtune doctor` as lines for the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from segtune.checks.machine.outcome import Outcome

LABELS = {"ok": ("OK", "green"), "warning": ("warning", "yellow"), "problem": ("problem", "red")}
STATE_WIDTH, CHECK_WIDTH = 9, 16


def print_outcome_line(outcome: Outcome, console: Console) -> None:
    """Print an outcome on one line, and the remedy on a second one if it needs one."""
    label, style = LABELS[outcome.state]
    line = Text(label.ljust(STATE_WIDTH), style)
    line.append(f"{outcome.check:{CHECK_WIDTH}}{outcome.text}", "default")
    console.print(line, soft_wrap=True)
    if outcome.remedy:
        indent = " " * (STATE_WIDTH + CHECK_WIDTH)
        console.print(Text(f"{indent}remedy: {outcome.remedy}"), soft_wrap=True)
