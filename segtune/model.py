"""`segtune model`: parameters, FLOPs, memory and speed of a config's model on this machine."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from segtune.cli import DONE, CommandParser, add_set_argument, path_argument, run_command
from segtune.config.import_path import is_import_path
from segtune.config.schema import ExperimentConfig, load_config
from segtune.errors import ConfigError

if TYPE_CHECKING:
    from segtune.training.model_profile import ModelProfile

MAX_CLASSES = 255  # labels of a byte, of which one is ignored


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = argument_parser().parse_args(argv)
    return run_command(lambda: _model(arguments), arguments)


def argument_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = CommandParser(
        prog="segtune model",
        description="Build a config's model with random weights and print its parameters, its "
        "FLOPs at data.crop, and its memory and speed in training steps and predictions on this "
        "machine. Reads no images.",
    )
    parser.add_argument("config", type=path_argument, metavar="CONFIG", help="config file (YAML)")
    parser.add_argument(
        "--num-classes",
        type=int,
        metavar="N",
        help="number of classes; default: those of data.classes",
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=5.0,
        metavar="S",
        help="how long training and predictions are measured, each (default: 5)",
    )
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON")
    add_set_argument(parser)
    return parser


def _model(arguments: argparse.Namespace) -> int:
    from segtune.data.layouts import class_names
    from segtune.training.memory import keep_freed_memory
    from segtune.training.model_profile import profile

    number = arguments.num_classes
    if number is not None and not 2 <= number <= MAX_CLASSES:
        raise ConfigError([f"--num-classes: allowed are 2 to {MAX_CLASSES}; got {number}"])
    config = load_config(arguments.config, arguments.set)
    num_classes = number or len(class_names(config.data))
    keep_freed_memory()  # as in training, which is measured
    result = profile(config, num_classes, arguments.seconds)
    if arguments.json:
        numbers = {**asdict(result), "parameters": result.parameters, "macs": result.macs}
        print(json.dumps(numbers, indent=1))
    else:
        print(_table(config, num_classes, result))
    return DONE


def _table(config: ExperimentConfig, num_classes: int, result: ModelProfile) -> str:
    """Return the numbers as lines of text."""
    size = f"{result.height} x {result.width}"
    frozen = f", {_millions(result.frozen_parameters)} not trained" * bool(result.frozen_parameters)
    parameters = (
        f"{_millions(result.parameters)} (encoder {_millions(result.encoder_parameters)}, heads "
        f"{_millions(result.head_parameters)}{frozen})"
    )
    rows = {
        "model": f"{_name(config)}, {num_classes} classes",
        "parameters": parameters,
        "FLOPs": f"{result.flops / 1e9:.2f} G for one image of {size} (2 per multiply-add)",
        "MACs": f"{result.macs / 1e9:.2f} G, which mmseg's get_flops prints as FLOPs",
        "device": f"{result.device}, {result.precision}",
        "training": _training(result),
        "inference": f"{result.inference_images_per_s:.2f} images/s, one image at a time",
    }
    return "\n".join(f"{name + ':':12}{value}" for name, value in rows.items())


def _name(config: ExperimentConfig) -> str:
    """Return the model and its encoder; a model of the user's own has no encoder by name."""
    model = config.model
    return model.name if is_import_path(model.name) else f"{model.name} with {model.encoder}"


def _training(result: ModelProfile) -> str:
    if result.train_images_per_s is None or result.train_memory is None:
        return (
            f"a batch of {result.batch_size} does not fit into memory; {result.num_fitting} images "
            "fit"
        )
    return (
        f"{result.train_images_per_s:.2f} images/s in batches of {result.batch_size}, peak memory "
        f"{result.train_memory / 2**30:.2f} GiB"
    )


def _millions(number: int) -> str:
    return f"{number / 1e6:.2f} M"


if __name__ == "__main__":
    raise SystemExit(main())
