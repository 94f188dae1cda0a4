"""The text of a config file and its syntax tree."""

from __future__ import annotations

import ast
import os
import re
from pathlib import Path

from segtune.config.characters import decode_text
from segtune.errors import ConfigError, nearest

MAX_BYTES = 1 << 20
DATA_SUFFIXES = (".yaml", ".yml", ".json")
DUMP_IT = (
    "let mmsegmentation resolve it, and import the result: "
    "python tools/misc/print_config.py {path} > dumped.py (in 0.x: tools/print_config.py)"
)
# mmengine fills these in before Python reads the file, in quotes or without.
# Source: mmengine/config/config.py, _substitute_env_variables.
ENVIRONMENT = re.compile(r"\{\{['\"]?\s*\$(\w+)\s*:\s*(\S*?)\s*['\"]?\}\}")
# The first line that print_config.py prints; the config follows.
PRINTED_TITLE = re.compile(r"\s*Config:[ \t]*\r?$", re.MULTILINE)


def parse(path: Path) -> ast.Module:
    """Return the syntax tree of a file. Raises ConfigError if it is absent or not Python."""
    if path.is_dir():
        raise ConfigError([f"{path}: is a folder; expected a config of mmsegmentation (.py)"])
    if not path.exists():
        near = nearest(path.name, [p.name for p in path.parent.glob("*.py")])
        raise ConfigError([f"{path}: no such file{near}"])
    if not path.is_file():
        raise ConfigError([f"{path}: is a pipe or a device; expected a config of mmsegmentation"])
    if is_data(path):
        raise ConfigError([f"{path}: expected Python; {DUMP_IT.format(path=path)}"])
    if path.stat().st_size > MAX_BYTES:
        raise ConfigError([f"{path}: larger than {MAX_BYTES} bytes; this is not a config"])
    try:
        text = decode_text(path.read_bytes(), str(path))
    except ValueError as error:  # its message begins with the path
        raise ConfigError([f"not readable as text: {error}"]) from None
    try:
        return ast.parse(_as_python(text))
    except SyntaxError as error:
        raise ConfigError([f"{path}:{error.lineno}: not readable as Python: {error.msg}"]) from None
    except (RecursionError, MemoryError):
        raise ConfigError([f"{path}: not readable as Python: nested too deeply"]) from None
    except ValueError as error:
        raise ConfigError([f"{path}: not readable as Python: {error}"]) from None


def is_data(path: Path) -> bool:
    """Whether a file is YAML or JSON, by its name."""
    return path.suffix in DATA_SUFFIXES


def _as_python(text: str) -> str:
    """Return the Python code of a config, or of the output of print_config.py; lines stay."""
    if title := PRINTED_TITLE.match(text):
        text = text[: title.start()] + "\n" * title[0].count("\n") + text[title.end() :]
    return ENVIRONMENT.sub(lambda match: os.environ.get(match[1], match[2]) or match[0], text)
