"""`segtune COMMAND …`, the same program as `python -m segtune.COMMAND …`."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from segtune import __version__
from segtune.errors import nearest

COMMANDS = {
    "init": ("segtune.init", "write a first config and a first study for a data set"),
    "doctor": ("segtune.doctor", "check this machine: packages, GPUs, disks, limits, Ray"),
    "search": ("segtune.search", "search a space of configs"),
    "check": ("segtune.check", "check a study before it is searched"),
    "status": ("segtune.status", "show the trials of a search run, also while it is running"),
    "plot": (
        "segtune.plot",
        "draw curves of training runs, also of mmengine's logs, and their times",
    ),
    "confirm": ("segtune.confirm", "train the best trials again with fresh seeds, and compare"),
    "retrain": (
        "segtune.retrain",
        "train the winner of a search at full length, and compare",
    ),
    "replay": ("segtune.replay", "repeat the step at which a trial died, and try remedies"),
    "report": ("segtune.report", "write the HTML page of a search run"),
    "compare": ("segtune.compare", "compare several search runs in a table and on a page"),
    "stop": ("segtune.stop", "stop a running search; it can be resumed"),
    "export": ("segtune.export", "write the best config, or the trained model for other programs"),
    "train": ("segtune.train", "train one config"),
    "evaluate": ("segtune.evaluate", "print a checkpoint's scores per class: IoU, Dice, F-score"),
    "predict": ("segtune.predict", "write a checkpoint's predictions: overlays and labels"),
    "model": ("segtune.model", "print a model's parameters, FLOPs, memory and speed"),
    "data": ("segtune.data_tools", "check, generate or convert a data set"),
    "import": ("segtune.import_config", "convert a config of mmsegmentation"),
    "config": ("segtune.config_tools", "describe all settings, or show a config in full"),
    "completion": ("segtune.completion", "print a script that completes commands in a shell"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that is named first and return its exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help"):
        print("usage: segtune COMMAND [--help] …\n")
        for name, (_, meaning) in COMMANDS.items():
            print(f"  {name:12}{meaning}")
        return 0 if argv else 2
    if argv[0] == "--version":
        print(f"segtune {__version__}")
        return 0
    if argv[0] not in COMMANDS:
        problem = f"{argv[0]}: no such command{nearest(argv[0], COMMANDS)}"
        print(f"error: {problem}; allowed are {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    module, _ = COMMANDS[argv[0]]
    return importlib.import_module(module).main(argv[1:])


if __name__ == "__main__":
    raise SystemExit(main())
