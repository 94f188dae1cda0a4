"""`segtune data check`: read a data set; print its classes and everything that is wrong with it."""

from __future__ import annotations

import argparse
import os
import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from segtune.cli import (
    add_json_argument,
    add_set_argument,
    is_quiet,
    prints_json,
    write_json,
)
from segtune.config.schema import load_config
from segtune.errors import DataError, first_of

if TYPE_CHECKING:
    from rich.table import Table

    from segtune.checks.audit import AuditReport
    from segtune.checks.label_findings import LabelFinding
    from segtune.data.pairs import Pair

# At most this many findings are printed; --json writes all.
MAX_FINDINGS = 50
MAX_VALUES = 8
WIDTH = 100
# The column of the texts under a finding.
INDENT = 10
QUOTED_SETTING = re.compile(r"--set '[^']*'")
NO_BREAK = "\0"  # no path or text has it


def add_parser(commands: Any) -> None:
    """Add `check` to the subcommands of `segtune data`."""
    parser = commands.add_parser(
        "check", help="read every image and mask; print class frequencies and all findings"
    )
    parser.add_argument("config", help="config file")
    add_json_argument(parser, "all counts, findings and duplicates")
    add_set_argument(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the report. Raises DataError, which is exit code 2, if there is an error in it."""
    from segtune.checks.audit import audit
    from segtune.reporting.terminal import wide_console

    config = load_config(arguments.config, arguments.set).data
    report = audit(config, None if is_quiet(arguments) else _with_progress)
    write_json(arguments, report.dump())
    if not prints_json(arguments):
        wide_console().print(_table(report), markup=False)
        print(
            f"{report.train.num_images} training and {report.val.num_images} validation images, "
            f"{len(report.classes)} classes"
        )
        for line in _lines(report):
            print(line)
    if arguments.json and not prints_json(arguments):
        print(f"report: {arguments.json}")
    if errors := report.of("error"):
        number = "1 error" if len(errors) == 1 else f"{len(errors)} errors"
        raise DataError(f"{number} in the data set {report.root}; the first: {errors[0]}")
    return 0


def _lines(report: AuditReport) -> Iterator[str]:
    """Yield the findings, errors first, and how many there are."""
    if report.findings:
        yield ""
    for finding in report.findings[:MAX_FINDINGS]:
        yield from _finding_lines(finding, report.root)
    if len(report.findings) > MAX_FINDINGS:
        yield f"… and {len(report.findings) - MAX_FINDINGS} more; --json FILE writes all"
    yield report.count_text()


def _finding_lines(finding: LabelFinding, root: str) -> Iterator[str]:
    key = f"{finding.key}: " if finding.key else ""
    yield from _wrapped(finding.severity, f"[{finding.rule}] {key}{finding.problem}")
    yield from _wrapped("  why", finding.reason)
    if finding.way_out:
        yield from _wrapped("  fix", finding.way_out)
    if finding.values:
        values = [f"{value} ({pixels} pixels)" for value, pixels in finding.values.items()]
        yield from _wrapped("  values", first_of(values, MAX_VALUES))
    if finding.count > 1 and finding.files:
        names = ", ".join(os.path.relpath(file, root) for file in finding.files)
        more = finding.count - len(finding.files)
        yield from _wrapped("  files", names + (f" and {more} more" if more else ""))
    yield ""


def _wrapped(head: str, text: str) -> list[str]:
    """Return lines of at most WIDTH columns; a path or a quoted setting is not broken."""
    # A setting such as --set 'data.label_map={255: 1}' has to be copied as a whole.
    unbroken = QUOTED_SETTING.sub(lambda match: match[0].replace(" ", NO_BREAK), text)
    lines = textwrap.wrap(
        unbroken,
        WIDTH,
        initial_indent=head.ljust(INDENT),
        subsequent_indent=" " * INDENT,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return [line.replace(NO_BREAK, " ") for line in lines]


def _table(report: AuditReport) -> Table:
    from rich.table import Table

    table = Table(
        *("label", "class", "train", "images", "val", "images"),
        title=f"share of pixels by class, {report.root}",
        title_justify="left",
    )
    rows = list(enumerate(report.classes))
    ignored = report.ignore_index
    if ignored < len(rows):
        rows[ignored] = (ignored, f"{report.classes[ignored]} (ignored)")
    else:
        rows.append((ignored, "(ignored)"))
    for label, name in rows:
        cells = [str(label), name]
        for split in (report.train, report.val):
            cells += [f"{100 * split.pixel_share(label):.2f} %", str(split.images[label])]
        table.add_row(*cells)
    return table


def _with_progress(split: str, pairs: Sequence[Pair]) -> Iterable[Pair]:
    """Yield the pairs of a split, with a progress bar on stderr if that is a terminal."""
    from segtune.reporting.progress import with_bar

    return with_bar(pairs, f"reading {split}")
