"""`segtune config`: describe all settings, or show a config with every default filled in."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from segtune.cli import CommandParser, add_set_argument, run_command
from segtune.config.describe import describe, markdown
from segtune.config.schema import ExperimentConfig, load_config
from segtune.config.yaml_io import write_yaml
from segtune.tuning.search_config import SearchConfig

# All blocks of settings that a user writes, by the title under which they are described.
BLOCKS = {"Config": ExperimentConfig, "`search:` of a study": SearchConfig}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = argument_parser().parse_args(argv)
    return run_command(lambda: _config(arguments), arguments)


def argument_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = CommandParser(
        prog="segtune config",
        description="Describe all settings, or check a config and show it in full.",
    )
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument(
        "file", nargs="?", help="config file to check and show with every default filled in"
    )
    action.add_argument(
        "--describe",
        action="store_true",
        help="print all settings: what they take, their defaults and their meaning",
    )
    action.add_argument(
        "--markdown", action="store_true", help="print the same as Markdown (docs/config.md)"
    )
    add_set_argument(parser)
    return parser


def _config(arguments: argparse.Namespace) -> int:
    if arguments.markdown:
        print(markdown(BLOCKS))
    elif arguments.describe:
        _print_tables()
    else:
        print(write_yaml(load_config(arguments.file, arguments.set).dump()), end="")
    return 0


def _print_tables() -> None:
    from rich.table import Table

    from segtune.reporting.terminal import wide_console

    for title, settings in BLOCKS.items():
        table = Table("name", "takes", "default", "meaning", title=title, title_justify="left")
        for row in describe(settings):
            table.add_row(*row)
        wide_console().print(table, markup=False)


if __name__ == "__main__":
    raise SystemExit(main())
