"""`segtune export RUN`: the best config as a file, and the trained model for other programs."""

from __future__ import annotations

import argparse
import logging
import shlex
from collections.abc import Sequence
from pathlib import Path

from segtune.cli import (
    DONE,
    CommandParser,
    add_set_argument,
    path_argument,
    run_command,
)
from segtune.config.yaml_io import parse_assignments
from segtune.errors import RunError

log = logging.getLogger("segtune.export")  # under `python -m` __name__ is __main__

DEFAULT_OUT = "best.yaml"
MODEL_FORMS = ("hf", "onnx", "pt2", "mmseg", "card")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = argument_parser()
    arguments = parser.parse_args(argv)
    has_model = any(getattr(arguments, form) for form in MODEL_FORMS)
    if arguments.full and has_model and not arguments.out:
        parser.error("argument --full: belongs to the config; add --out FILE")
    if arguments.onnx_output != "logits" and not arguments.onnx:
        parser.error("argument --onnx-output: add --onnx FILE")
    return run_command(lambda: _export(arguments, has_model=has_model), arguments)


def argument_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = CommandParser(
        prog="segtune export",
        description="Write the config of the best trial of a search run, at full length, or a "
        "trained model in a form that other programs load (docs/export.md). Each form of the model "
        "is compared with segtune's predictions before it is written.",
    )
    parser.add_argument(
        "run",
        type=path_argument,
        metavar="RUN",
        help="folder of the search run, for example runs/loss_weights-1; for the model also a "
        "training run, a trial or a checkpoint",
    )
    parser.add_argument(
        "--trial", type=int, metavar="N", help="export this trial instead of the best"
    )
    config = parser.add_argument_group("the config")
    config.add_argument(
        "--out",
        type=path_argument,
        metavar="FILE",
        help=f"file for the config (default: {DEFAULT_OUT}, but none with a form of the model)",
    )
    config.add_argument(
        "--full", action="store_true", help="write every setting, not only what is no default"
    )
    add_set_argument(parser)
    _add_model_arguments(parser)
    return parser


def _add_model_arguments(parser: argparse.ArgumentParser) -> None:
    model = parser.add_argument_group("the model")
    helps = {
        "hf": "folder that transformers.pipeline opens, with a model card; for an architecture "
        "that transformers lacks, a folder that segtune opens",
        "onnx": "ONNX file with free batch, height and width (extra: segtune[export])",
        "pt2": "program for torch.export.load, which needs neither segtune nor transformers",
        "mmseg": "checkpoint with the names of mmsegmentation; SegFormer only",
        "card": "model card (Markdown)",
    }
    for form, text in helps.items():
        metavar = "DIR" if form == "hf" else "FILE"
        model.add_argument(f"--{form}", type=path_argument, metavar=metavar, help=text)
    model.add_argument(
        "--onnx-output",
        choices=("logits", "labels"),
        default="logits",
        help="logits at the network's own size, or the label of each pixel (default: logits)",
    )
    model.add_argument(
        "--config", metavar="FILE", help="config of the model; default: that in the checkpoint"
    )
    model.add_argument(
        "--overwrite", action="store_true", help="replace an earlier export of the model"
    )


def _export(arguments: argparse.Namespace, *, has_model: bool) -> int:
    if arguments.out or not has_model:
        _export_config(arguments, Path(arguments.out or DEFAULT_OUT))
    if has_model:
        _export_model(arguments)
    return DONE


def _export_config(arguments: argparse.Namespace, out: Path) -> None:
    from segtune.checks.confirmed_best import confirmation_line
    from segtune.exporting.best_config import score_words, trial_config_text
    from segtune.reporting.format import why_not_again
    from segtune.runs.atomic import write_atomic
    from segtune.runs.chosen_trial import choose_trial, open_chosen, part_of_best
    from segtune.runs.results import read_trials
    from segtune.tuning.study_reader import load_study

    if out.is_dir():
        example = out / DEFAULT_OUT
        raise RunError(f"--out: {out} is a folder; expected a file, as in {example}")
    run, number = open_chosen(Path(arguments.run), arguments.trial, "export")
    trial = choose_trial(run, number, "exports")
    part = part_of_best(run) if number is None else run
    if not trial.may_win:
        log.warning("%s", why_not_again(trial))
    changes = parse_assignments(arguments.set) if arguments.set else None
    text = trial_config_text(
        *(load_study(part.study), part, trial, read_trials(part)),
        changes=changes,
        full=arguments.full,
    )
    write_atomic(out, text)
    print(f"{out}: trial {trial.id}, {score_words(trial)}")
    if number is None:  # the best trial
        print(f"confirmed: {confirmation_line(part, trial)}")
    print(f"train it: python -m segtune.train --config {shlex.quote(str(out))} --out DIR")


def _export_model(arguments: argparse.Namespace) -> None:
    from segtune.api_export import export_model
    from segtune.config.schema import load_config

    written = export_model(
        arguments.run,
        **{form: getattr(arguments, form) for form in MODEL_FORMS},
        onnx_output=arguments.onnx_output,
        trial=arguments.trial,
        config=load_config(arguments.config) if arguments.config else None,
        overrides=arguments.set,
        overwrite=arguments.overwrite,
    )
    for file in written:
        print(f"{file.path}: {file.sentence}")


if __name__ == "__main__":
    raise SystemExit(main())
