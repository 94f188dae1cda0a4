"""`segtune plot RUN…`: curves of several training runs in one figure, and their times."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from segtune.cli import DONE, CommandParser, path_argument, run_command
from segtune.errors import ConfigError, RunError
from segtune.runs.atomic import write_atomic

DEFAULT_OUT = "curves.png"
DESCRIPTION = """\
Draw curves of training runs into one figure, with one panel for each key, and print their times and
best values. RUN is the folder of a training run, of a trial, or of a search run, which stands for
its best trial. RUN may also be a work_dir of mmengine, its vis_data/scalars.json, or a *.log.json
of mmsegmentation 0.x, so that old runs stand beside new ones. Scores are drawn in per cent.
"""
KEYS_HELP = """\
what to draw (default: loss miou): loss, a term of it such as loss.focal, lr, grad_norm, miou, macc,
aacc, iou.CLASS, step_seconds, and every other name in a log, such as decode.loss_ce. An unknown key
prints the keys that the runs have.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = argument_parser().parse_args(argv)
    return run_command(lambda: _plot(arguments), arguments)


def argument_parser() -> argparse.ArgumentParser:
    """Return the parser of the command's arguments."""
    parser = CommandParser(prog="segtune plot", description=DESCRIPTION)
    add = parser.add_argument
    add("runs", nargs="*", type=path_argument, metavar="RUN", help="a training run, see above")
    add("--keys", nargs="+", default=["loss", "miou"], metavar="KEY", help=KEYS_HELP)
    add(
        "--out",
        default=DEFAULT_OUT,
        type=path_argument,
        metavar="FILE",
        help="figure to write, by its suffix a picture (.png, .svg, .pdf) or a page that needs no "
        f"network (.html); default: {DEFAULT_OUT}",
    )
    add("--title", default="", metavar="TEXT", help="title above the figure")
    add("--names", nargs="+", metavar="NAME", help="a name for each curve, in the order of RUN")
    add(
        "--x",
        choices=("epoch", "step", "time"),
        help="horizontal axis; time is that of training. Default: epoch, or step if a log has no "
        "epochs",
    )
    add(
        "--trials",
        nargs="+",
        default=[],
        metavar="TRIAL",
        help="trials of a search run to draw: best (default), all, or numbers such as 0007",
    )
    add(
        "--json",
        action="store_true",
        help="print the numbers as JSON instead of tables; scores are in 0..1",
    )
    return parser


def _plot(arguments: argparse.Namespace) -> int:
    from segtune.reporting.curve_layout import choose_axis, figure_format, find_keys, make_figure
    from segtune.reporting.curve_sources import read_runs

    _check_runs(arguments)
    out = Path(arguments.out)
    file_format = figure_format(out)
    runs = read_runs([Path(path) for path in arguments.runs], arguments.trials)
    if arguments.names:
        if len(arguments.names) != len(runs):
            drawn = ", ".join(run.name for run in runs)
            problem = f"{len(arguments.names)} names for {len(runs)} curves: {drawn}"
            raise ConfigError([f"--names: {problem}; give one name for each"])
        runs = [replace(run, name=name) for run, name in zip(runs, arguments.names, strict=True)]
    keys = find_keys([key for word in arguments.keys for key in word.split(",") if key], runs)
    axis = choose_axis(runs, arguments.x)
    figure = make_figure(runs, keys, axis, arguments.title)
    if file_format == "html":
        from segtune.reporting.curve_html import curves_page

        content: str | bytes = curves_page(figure, runs, keys)
    else:
        from segtune.reporting.curve_png import draw_png

        content = draw_png(figure, file_format)
    write_atomic(out, content)
    _print(arguments, runs, keys, axis)
    return DONE


def _check_runs(arguments: argparse.Namespace) -> None:
    """Raise RunError if there is no RUN; options with several words may have taken it."""
    if arguments.runs:
        return
    for option in ("keys", "names", "trials"):
        words = getattr(arguments, option) or []
        if taken := [word for word in words if Path(word).exists()]:
            raise RunError(
                f"no RUN: --{option} has taken {' '.join(taken)}; put the runs first, as in: "
                f"segtune plot {taken[0]} --{option} …"
            )
    raise RunError(
        "no RUN: name at least one training run, for example: segtune plot runs/first --keys loss"
    )


def _print(arguments: argparse.Namespace, runs: Sequence, keys: Sequence[str], axis: str) -> None:
    from segtune.reporting.curve_table import print_numbers, to_json
    from segtune.reporting.terminal import print_lines, wide_console

    if arguments.json:
        rows = {"figure": arguments.out, "x": axis, "runs": to_json(runs, keys)}
        print(json.dumps(rows, indent=1, allow_nan=False))
        return
    console = wide_console()
    print_numbers(runs, keys, console)
    print_lines(console, f"figure: {arguments.out}")


if __name__ == "__main__":
    raise SystemExit(main())
