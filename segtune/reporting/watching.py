"""`segtune status --watch`: a search run as it goes on, from any machine that sees its folder."""

from __future__ import annotations

import time
from contextlib import nullcontext

from rich.console import Console

from segtune.reporting.terminal import labelled, live_table, print_lines
from segtune.runs.activity import Activity, read_activity
from segtune.runs.rundir import SearchDir
from segtune.tuning.study import Study


def watch(
    study: Study, run: SearchDir, console: Console, refresh_s: float, *, quiet: bool = False
) -> None:
    """Show a search run until its driver has ended; return at once if none is at work.

    With `quiet`, only wait. Raise KeyboardInterrupt at Ctrl-C; this does not stop the search.
    """
    activity = read_activity(run)
    if not activity.running:
        return
    shown = live_table(study, run, console, began=activity.began, refresh_s=refresh_s)
    with nullcontext() if quiet else shown:
        if not quiet:  # from here on, each trial that ends is shown
            print_lines(console, labelled("watching", f"{run.path}, {_driver(activity)}"))
        while read_activity(run).running:
            time.sleep(refresh_s)


def _driver(activity: Activity) -> str:
    since = time.strftime("%H:%M", time.localtime(activity.began))
    return f"process {activity.pid} on {activity.host} since {since}; Ctrl-C ends the watch only"
