"""`segtune completion SHELL`: a script that completes commands, options, files and settings."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Iterator, Sequence
from typing import Any

from segtune.cli import DONE, CommandParser, assignment, path_argument, run_command
from segtune.errors import ConfigError

SHELLS = ("bash", "zsh", "fish")
# How an option or a positional argument is shown if it is a folder.
FOLDERS = ("DIR", "RUN", "TRIAL", "DATA")
SETTINGS = "_segtune_settings"
# A name of a setting ends in `=`, behind which the user goes on.
NO_BLANK_BEHIND_NAMES = """
_segtune_complete() {
  _shtab_segtune "$@"
  [[ "${COMPREPLY[0]}" == *= ]] && compopt -o nospace 2>/dev/null
  return 0
}
complete -o bashdefault -F _segtune_complete segtune
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = argument_parser().parse_args(argv)
    return run_command(lambda: _completion(arguments.shell), arguments)


def argument_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = CommandParser(
        prog="segtune completion",
        description="Print a script for a shell. It completes commands, options, files, and the "
        "names of settings behind --set. For bash: source <(segtune completion bash)",
    )
    parser.add_argument("shell", choices=SHELLS, help="the shell that reads the script")
    return parser


def _completion(shell: str) -> int:
    try:
        import shtab
    except ImportError:
        raise ConfigError(
            ['completion needs the package shtab: pip install "segtune[completion]"']
        ) from None
    names = " ".join(f"{name}=" for name in _setting_names())
    preamble = {
        "bash": f'{SETTINGS}() {{ compgen -W "{names}" -- "$1"; }}',
        "zsh": f"{SETTINGS}() {{ compadd -S '' -- {names} }}",
    }
    of_settings = {"bash": SETTINGS, "zsh": SETTINGS, "fish": f"(string split ' ' '{names}')"}
    parser = _whole_parser()
    for action in _actions(parser):
        if action.type is assignment:
            kind: Any = of_settings
        elif action.choices or not _is_path(action):
            continue
        else:
            kind = shtab.DIRECTORY if action.metavar in FOLDERS else shtab.FILE
        vars(action)["complete"] = kind  # where shtab looks for it
    print(shtab.complete(parser, shell, preamble=preamble.get(shell, "")))
    if shell == "bash":
        print(NO_BLANK_BEHIND_NAMES)
    return DONE


def _whole_parser() -> argparse.ArgumentParser:
    """Return a parser of `segtune` with a subcommand for each command."""
    from segtune.__main__ import COMMANDS

    whole = argparse.ArgumentParser(prog="segtune")
    whole.add_argument("--version", action="store_true", help="print the version")
    commands = whole.add_subparsers(dest="command")
    for name, (module, meaning) in COMMANDS.items():
        parser = importlib.import_module(module).argument_parser()
        commands.add_parser(name, parents=[parser], add_help=False, help=meaning)
    return whole


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Yield the options and arguments of a parser and of its subcommands."""
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for sub in action.choices.values():
                yield from _actions(sub)


def _is_path(action: argparse.Action) -> bool:
    return action.type is path_argument or action.dest in ("config", "file", "study")


def _setting_names() -> list[str]:
    from segtune.config.describe import describe
    from segtune.config.schema import ExperimentConfig

    return [setting.name for setting in describe(ExperimentConfig)]


if __name__ == "__main__":
    raise SystemExit(main())
