"""`segtune check`: what would go wrong in a search, found in seconds and before it starts."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence

from segtune.checks.findings import Section, errors_of, relaxed
from segtune.cli import (
    DONE,
    USER_ERROR,
    CommandParser,
    add_json_argument,
    add_set_argument,
    path_argument,
    prints_json,
    run_command,
    write_json,
)
from segtune.reporting.findings_table import print_sections, summary
from segtune.reporting.terminal import wide_console
from segtune.tuning.study import Study
from segtune.tuning.study_reader import load_study

# Options that are settings of the study's search block, as those of `segtune search`.
SEARCH_SETTINGS = ("trials", "workers_per_trial", "seed")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 2 if the study has an error."""
    arguments = argument_parser().parse_args(argv)
    return run_command(lambda: _check(arguments), arguments)


def argument_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = CommandParser(
        prog="segtune check",
        description="Check a study before it is searched: settings that change nothing, values "
        "that cannot work, and wrong labels. Takes a few real steps, and trains nothing else.",
    )
    parser.add_argument(
        "study",
        type=path_argument,
        metavar="STUDY",
        help="study file (config, space and search), or a file with only a space",
    )
    parser.add_argument(
        "--config",
        type=path_argument,
        metavar="FILE",
        help="config to search around; default: the study's, or configs/shapes_segformer_b0.yaml",
    )
    parser.add_argument("--trials", type=int, metavar="N", help="number of trials in total")
    parser.add_argument("--workers-per-trial", type=int, metavar="N", help="ranks of one trial")
    parser.add_argument("--seed", type=int, metavar="N", help="seed of the draws")
    add_set_argument(parser)
    parser.add_argument(
        "--no-steps", action="store_true", help="take no real steps at the corners of the space"
    )
    parser.add_argument(
        "--no-labels", action="store_true", help="do not read all images and masks of the data set"
    )
    parser.add_argument(
        "--address",
        help="take the steps on a worker of this Ray cluster: auto or host:port; default: in this "
        "process, or on a local Ray if a trial has several workers",
    )
    add_json_argument(parser, "all findings")
    return parser


def _check(arguments: argparse.Namespace) -> int:
    values = {name: getattr(arguments, name) for name in SEARCH_SETTINGS}
    changes = {name: value for name, value in values.items() if value is not None}
    study = load_study(arguments.study, arguments.config, arguments.set, changes)
    import torch

    torch.set_num_threads(1)  # everything is small: more threads would wait for one another
    sections = checked(
        study,
        steps=not arguments.no_steps,
        labels=not arguments.no_labels,
        address=arguments.address,
    )
    write_json(arguments, _tree(arguments.study, sections))
    if not prints_json(arguments):
        print_sections(sections, wide_console())
        print(_last_line(arguments, sections))
    findings = [finding for section in sections for finding in section.findings]
    return USER_ERROR if errors_of(findings) else DONE


def _last_line(arguments: argparse.Namespace, sections: Sequence[Section]) -> str:
    """Return how many findings there are, and what to do next."""
    if errors_of([finding for section in sections for finding in section.findings]):
        return f"{summary(sections)}: repair the errors before the search"
    command = ["segtune", "search", "--space", arguments.study]
    command += ["--config", arguments.config] if arguments.config else []
    for name in SEARCH_SETTINGS:
        value = getattr(arguments, name)
        command += [] if value is None else [f"--{name.replace('_', '-')}", str(value)]
    command += [word for assignment in arguments.set for word in ("--set", assignment)]
    command += ["--address", arguments.address] if arguments.address else []
    return f"{summary(sections)}; to search it: {shlex.join(command)}"


def checked(
    study: Study, *, steps: bool = True, labels: bool = True, address: str | None = None
) -> list[Section]:
    """Return the findings of every check, each as a section.

    Without `steps` no real steps are taken, without `labels` not all images and masks are read.
    `address` is the Ray cluster that takes the steps, see `_corners`.
    """
    from segtune.checks.data_sizes import data_sizes
    from segtune.checks.drawn_trials import NUM_DRAWS
    from segtune.checks.label_section import label_section
    from segtune.checks.liveness import liveness, liveness_findings
    from segtune.checks.space_rules import RULES, space_findings

    sizes = data_sizes(study.config)
    live = liveness(study, sizes)
    rows = [result.dump() for result in live]
    images = f"images of {study.config.data.root}"
    if not sizes.is_here:
        images = f"generated shapes for images, because {study.config.data.root} is not here"
    about = f"what two values of each setting make, with {images}"
    rules = f"{len(RULES)} rules, applied to {NUM_DRAWS} random trials"
    sections = [
        Section("space", rules, space_findings(study, sizes)),
        Section("liveness", about, liveness_findings(live), rows),
    ]
    if steps and study.search.corner_steps:
        sections.append(_corners(study, sizes.is_here, address))
    if labels:
        sections.append(label_section(study.config.data, sizes.is_here))
    return sections


def _corners(study: Study, is_here: bool, address: str | None) -> Section:
    """Take the corner steps: in this process, or on Ray's workers if there is an `address`.

    If a trial has several workers, a local Ray is started for them. `is_here` says whether this
    machine has the data set.
    """
    data = study.config.data
    if address or study.search.workers_per_trial > 1:
        from segtune.cluster.corner_tasks import corner_report_on

        report = corner_report_on(study, address)
    elif is_here or data.layout == "shapes":
        from segtune.checks.measured_steps import corner_report_here

        report = corner_report_here(study)
    else:
        way_out = "--address takes the steps on a worker that has it"
        return Section("corners", f"no steps: {data.root} is not on this machine; {way_out}", [])
    # The workers of the search may have weights that this machine lacks.
    findings = report.findings if address else relaxed(report.findings, "corner-weights")
    return Section("corners", report.about(), findings, report.rows())


def _tree(study: str, sections: Sequence[Section]) -> dict[str, object]:
    """Return everything that was found, as plain JSON values."""
    return {
        "study": study,
        "findings": [
            {"check": section.name, **finding.dump()}
            for section in sections
            for finding in section.findings
        ],
        "details": {section.name: list(section.details) for section in sections},
    }


if __name__ == "__main__":
    raise SystemExit(main())
