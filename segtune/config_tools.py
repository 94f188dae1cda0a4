"""`segtune config`: every setting with its range, default and meaning, or a config with everything filled in."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from segtune.cli import add_set_argument, run_command
from segtune.config.describe import describe
from segtune.config.schema import ExperimentConfig, load_config
from segtune.config.settings import Settings
from segtune.config.yaml_io import write_yaml
from segtune.tuning.study import SearchConfig


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="segtune config", description="Describe every setting, or show a config resolved."
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "file", nargs="?", help="config file to check and show with every default filled in"
    )
    what.add_argument(
        "--describe",
        action="store_true",
        help="print every setting: what it takes, its default, its meaning",
    )
    what.add_argument(
        "--markdown", action="store_true", help="the same as Markdown (docs/config.md)"
    )
    add_set_argument(parser)
    arguments = parser.parse_args(argv)
    return run_command(lambda: _config(arguments))


def _config(arguments: argparse.Namespace) -> int:
    if arguments.markdown:
        print(markdown())
    elif arguments.describe:
        from rich.console import Console
        from rich.table import Table

        for title, settings in (
            ("config", ExperimentConfig),
            ("search (in a study)", SearchConfig),
        ):
            table = Table("name", "takes", "default", "meaning", title=title, title_justify="left")
            for row in describe(settings):
                table.add_row(*row)
            Console().print(table, markup=False)
    else:
        print(write_yaml(load_config(arguments.file, arguments.set).dump()), end="")
    return 0


def markdown() -> str:
    """Returns docs/config.md, made from the schema."""

    def section(title: str, settings: type[Settings]) -> str:
        rows = [tuple(cell.replace("|", r"\|") for cell in row) for row in describe(settings)]
        return (
            f"## {title}\n\n| name | takes | default | meaning |\n| --- | --- | --- | --- |\n"
            + "\n".join(
                f"| `{name}` | {takes} | `{default}` | {meaning} |"
                for name, takes, default, meaning in rows
            )
        )

    head = "# Every setting\n\nMade by `segtune config --markdown`; a test keeps it current."
    return "\n\n".join(
        [head, section("Config", ExperimentConfig), section("`search:` of a study", SearchConfig)]
    )


if __name__ == "__main__":
    raise SystemExit(main())
