"""`segtune COMMAND …`, the same program as `python -m segtune.COMMAND …`."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from segtune import __version__
from segtune.errors import nearest

COMMANDS = {
    "search": ("segtune.search", "search a space of configs"),
    "status": ("segtune.status", "show the trials of a run, also while it runs"),
    "report": (
        "segtune.report",
        "write the page of a run: winner, curves, workers' time, how trials ended",
    ),
    "stop": ("segtune.stop", "end a running search gracefully"),
    "export": ("segtune.export", "write the best config of a run"),
    "train": ("segtune.train", "train one config"),
    "evaluate": ("segtune.evaluate", "IoU and accuracy per class of a checkpoint"),
    "predict": ("segtune.predict", "colour overlays of a checkpoint's predictions"),
    "data": ("segtune.data_tools", "check a data set, or generate the shapes"),
    "config": ("segtune.config_tools", "describe every setting, or show a config resolved"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command named first; returns the exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help"):
        print("usage: segtune COMMAND [--help] …\n")
        for name, (_, meaning) in COMMANDS.items():
            print(f"  {name:10}{meaning}")
        return 0 if argv else 2
    if argv[0] == "--version":
        print(f"segtune {__version__}")
        return 0
    if argv[0] not in COMMANDS:
        print(
            f"error: {argv[0]}: no such command{nearest(argv[0], COMMANDS)}; allowed are {', '.join(COMMANDS)}",
            file=sys.stderr,
        )
        return 2
    return importlib.import_module(COMMANDS[argv[0]][0]).main(argv[1:])


if __name__ == "__main__":
    raise SystemExit(main())
