"""`segtune init [DATA]`: a first config and a first study for a data set and this machine."""

from __future__ import annotations

import argparse
import logging
import os
import re
import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from segtune.cli import (
    DONE,
    USER_ERROR,
    CommandParser,
    add_set_argument,
    is_quiet,
    path_argument,
    run_command,
)
from segtune.errors import ConfigError, RunError

if TYPE_CHECKING:
    from segtune.data.pairs import Pair
    from segtune.first_config.machine import Machine
    from segtune.first_config.proposal import Answers, DataProposal

log = logging.getLogger("segtune.init")  # under `python -m` __name__ is __main__

# The labels of larger data sets are not all read at the end, because that takes minutes.
MAX_AUDITED = 500
SHAPES_ROOT = Path("data/shapes")
VAL_SHARE = 0.2
# Options that say something about the data or their model. The generated shapes leave no choice.
OF_DATA = ("classes", "zero", "value_255", "leave_out", "val_share", "seed", "weights")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 2 if the files have an error."""
    arguments = argument_parser().parse_args(argv)
    return run_command(lambda: _init(arguments), arguments)


def argument_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = CommandParser(
        prog="segtune init",
        description="Look at a data set, and write a commented config and a commented study that "
        "suit it and this machine. The data set is not changed. On a terminal, a question is asked "
        "where the data leave a choice; every answer is an option, too.",
    )
    parser.add_argument(
        "data",
        nargs="?",
        type=path_argument,
        metavar="DATA",
        help="folder with images and masks; default: generated shapes",
    )
    parser.add_argument(
        "--out",
        default=".",
        type=path_argument,
        metavar="DIR",
        help="folder for the files (default: the current folder); no file is replaced",
    )
    parser.add_argument("--name", help="beginning of the files' names; default: that of DATA")
    parser.add_argument("--yes", action="store_true", help="ask nothing: take all proposals")
    _add_answers(parser)
    add_set_argument(parser)
    parser.add_argument(
        "--no-check", action="store_true", help="do not check the data and the study at the end"
    )
    return parser


def _add_answers(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("answers")
    group.add_argument(
        "--classes",
        metavar="A,B,…",
        help="names of the classes, in the order of their labels",
    )
    meanings = ("class", "ignored")
    group.add_argument("--zero", choices=meanings, help="what the value 0 in the masks means")
    group.add_argument("--value-255", choices=meanings, help="what the value 255 means")
    group.add_argument(
        "--leave-out", choices=("yes", "no"), help="whether images that cannot be used are left out"
    )
    group.add_argument(
        "--val-share",
        type=float,
        metavar="F",
        help="fraction of the images for validation, if there is no split (default: 0.2)",
    )
    group.add_argument("--seed", type=int, metavar="N", help="seed of this split (default: 0)")
    group.add_argument(
        "--weights",
        type=path_argument,
        metavar="PATH",
        help="pretrained weights: a file, a folder, hub for those of the Hugging Face hub (needs a "
        "network), or none; default: those of the hub if an earlier download is on this machine",
    )
    group.add_argument(
        "--device", choices=("cpu", "gpu"), help="what to train on; default: a GPU if one is here"
    )


def _init(arguments: argparse.Namespace) -> int:
    from segtune.first_config.machine import Machine
    from segtune.first_config.proposal import propose_data, shapes_proposal, take_proposal

    _refuse_answers_without_data(arguments)
    stem = _stem(arguments)
    config_path, study_path = stem.with_name(f"{stem.name}.yaml"), _study_path(stem)
    lists = [stem.with_name(f"{stem.name}_{split}.txt") for split in ("train", "val")]
    _refuse_present([config_path, study_path, *(lists if arguments.data else ())])
    machine = Machine.here(arguments.device)
    if arguments.data:
        answers, ask = _answers(arguments), _ask if _asks(arguments) else take_proposal
        watch = None if is_quiet(arguments) else _with_progress
        data = propose_data(Path(arguments.data), stem, answers, ask, watch)
    else:
        data = shapes_proposal(SHAPES_ROOT.absolute())
    print("\n".join(data.lines))
    written = _write(arguments, data, machine, config_path, study_path)
    print(f"written: {', '.join(map(str, written))}")
    sound = arguments.no_check or _check(data, config_path, study_path)
    print("next:")
    for command in _next_commands(config_path, study_path):
        print(f"  {command}")
    return DONE if sound else USER_ERROR


def _refuse_answers_without_data(arguments: argparse.Namespace) -> None:
    chosen = [name for name in OF_DATA if getattr(arguments, name) is not None]
    if chosen and not arguments.data:
        raise ConfigError(
            [
                f"--{name.replace('_', '-')}: needs DATA, a folder with images and masks; leave it "
                "out for the generated shapes"
                for name in chosen
            ]
        )


def _asks(arguments: argparse.Namespace) -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty() and not arguments.yes


def _stem(arguments: argparse.Namespace) -> Path:
    """Return the path of the config without its suffix."""
    name = arguments.name
    if name is None:
        folder = Path(arguments.data).absolute().name if arguments.data else "shapes"
        name = re.sub(r"[^A-Za-z0-9._-]+", "_", folder).strip("._-") or "data"
    elif Path(name).name != name or name in (".", ".."):
        raise ConfigError([f"--name {name}: expected a name without a folder, such as cells"])
    return Path(arguments.out) / name


def _study_path(stem: Path) -> Path:
    return stem.with_name(f"{stem.name}_study.yaml")


def _refuse_present(paths: Iterable[Path]) -> None:
    present = [str(path) for path in paths if os.path.lexists(path)]
    if present:
        raise RunError(
            f"{', '.join(present)}: there already, and no file is replaced; choose another --name "
            "or --out, or remove it"
        )


def _answers(arguments: argparse.Namespace) -> Answers:
    from segtune.config.yaml_io import parse_assignments
    from segtune.first_config.labels import WHITE, ZERO
    from segtune.first_config.proposal import Answers

    val_share = VAL_SHARE if arguments.val_share is None else arguments.val_share
    if not 0 < val_share < 1:
        raise ConfigError([f"--val-share: allowed is a number between 0 and 1; got {val_share:g}"])
    meanings = {ZERO: arguments.zero, WHITE: arguments.value_255}
    classes = [name.strip() for name in (arguments.classes or "").split(",") if name.strip()]
    changes, _ = parse_assignments(arguments.set)
    of_data = {n.removeprefix("data."): v for n, v in changes.items() if n.startswith("data.")}
    return Answers(
        meanings={value: meaning for value, meaning in meanings.items() if meaning},
        classes=tuple(classes) or None,
        leave_out=None if arguments.leave_out is None else arguments.leave_out == "yes",
        val_share=val_share,
        seed=arguments.seed or 0,
        data=of_data,
    )


def _ask(question: str, proposal: str, options: tuple[str, ...]) -> str:
    """Ask on the terminal until the answer is one of the options; Enter takes the proposal.

    Raises ConfigError at the end of the input (Ctrl-D).
    """
    shown = "/".join(option.upper() if option == proposal else option for option in options)
    while True:
        try:
            answer = input(f"{question} [{shown}] ").strip().lower()
        except EOFError:
            problem = (
                "the input has ended; --yes takes all proposals, and every answer is an option"
            )
            raise ConfigError([f"no answer to '{question}': {problem}"]) from None
        fitting = [option for option in options if answer and option.startswith(answer)]
        if not answer or len(fitting) == 1:
            return fitting[0] if fitting else proposal


def _with_progress(pairs: Sequence[Pair]) -> Iterable[Pair]:
    from segtune.reporting.progress import with_bar

    return with_bar(pairs, "reading headers and masks")


def _weights(arguments: argparse.Namespace, encoder: str) -> str | None:
    """Return `model.weights`, and say why there are none."""
    from segtune.first_config.machine import HUB_ID, downloaded_weights

    if arguments.weights == "hub":
        return HUB_ID.format(encoder.replace("_", "-"))
    if arguments.weights not in (None, "none"):
        path = Path(arguments.weights).absolute()
        if not path.exists():
            raise ConfigError(
                [f"--weights {path}: no such file or folder; allowed are a path, hub and none"]
            )
        return str(path)
    found = None if arguments.weights else downloaded_weights(encoder)
    if found is None and arguments.weights is None:
        log.info(
            "weights: random, because no pretrained weights of %s are on this machine; --weights "
            "hub downloads them, --weights PATH takes a file",
            encoder,
        )
    return found


def _write(
    arguments: argparse.Namespace,
    data: DataProposal,
    machine: Machine,
    config_path: Path,
    study_path: Path,
) -> list[Path]:
    """Write the files; return their paths. Nothing is written if the config is not valid."""
    from segtune.config.schema import ExperimentConfig
    from segtune.config.yaml_io import parse_assignments, parse_yaml
    from segtune.first_config.proposal import config_text, study_text
    from segtune.first_config.training import encoder_for
    from segtune.runs.atomic import write_atomic

    is_generated = data.settings["layout"] == "shapes"
    weights = None if is_generated else _weights(arguments, encoder_for(machine))
    changes, source = parse_assignments(arguments.set)
    text = config_text(data, machine, weights, changes)
    config = ExperimentConfig.parse(parse_yaml(text, str(config_path))[0], source)
    files = {**data.lists, config_path: text}
    files[study_path] = study_text(config, config_path.name, machine)
    config_path.parent.mkdir(parents=True, exist_ok=True)
    for path, content in files.items():
        write_atomic(path, content)
    return list(files)


def _check(data: DataProposal, config_path: Path, study_path: Path) -> bool:
    """Print what the checks of the data and of the study find; return whether no error is in it."""
    from segtune.check import checked
    from segtune.checks.audit import audit
    from segtune.checks.findings import errors_of
    from segtune.config.schema import load_config
    from segtune.reporting.findings_table import summary
    from segtune.tuning.study_reader import load_study

    sound = True
    num_images = len(data.split.train) + len(data.split.val)
    if 0 < num_images <= MAX_AUDITED:
        report = audit(load_config(config_path).data)
        print("\n".join(["checked: " + report.summary()[0], *report.summary()[1:]]))
        sound = not report.of("error")
    sections = checked(load_study(study_path), steps=False, labels=False)
    print(f"checked: {study_path}: {summary(sections)}")
    findings = [finding for section in sections for finding in section.findings]
    for finding in findings:
        if finding.severity != "note":
            print(f"{finding.severity} {finding.rule}: {finding}")
    return sound and not errors_of(findings)


def _next_commands(config_path: Path, study_path: Path) -> list[str]:
    """Return the next three commands: look at the data, train for a moment, search."""
    config, study = str(config_path), str(study_path)
    return [
        shlex.join(["segtune", "data", "show", config]),
        shlex.join(["segtune", "train", "--config", config, "--out", f"runs/{config_path.stem}"]),
        shlex.join(["segtune", "search", "--space", study, "--dry-run"])
        + "   # then without --dry-run",
    ]


if __name__ == "__main__":
    raise SystemExit(main())
