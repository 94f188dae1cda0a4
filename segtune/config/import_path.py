"""Objects of the user's own code, named in a config by import path: `my_pkg.models:build`.

Importing runs code, so only a config that the user passes may do it. A config that comes out of a
checkpoint may not: see `refuse_own_code`.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import re
import sys
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

from pydantic.fields import FieldInfo

from segtune.config.settings import Settings
from segtune.errors import CheckpointError, ConfigError, nearest

# `package.module:name`; the name may be an attribute of a class.
DOTTED = r"[^\W\d]\w*(?:\.[^\W\d]\w*)*"
IMPORT_PATH = re.compile(rf"(?P<module>{DOTTED}):(?P<name>{DOTTED})")
# The words before a colon that mean a library: `smp:Unet`.
LIBRARIES = ("smp",)
# `Field(json_schema_extra=OWN_CODE)`: the setting takes an import path. If its value has parts,
# such as a list of sections, every text in it may be one.
OWN_CODE: dict[str, Any] = {"own_code": True}


def is_import_path(text: object) -> bool:
    """Return whether a value has the form `package.module:name`; `smp:Unet` is not one."""
    if not isinstance(text, str):
        return False
    match = IMPORT_PATH.fullmatch(text)
    return match is not None and match["module"] not in LIBRARIES


def load_object(path: str, setting: str) -> Any:
    """Import `package.module:name` and return the object, which can be called.

    Python also looks in the current folder. `setting` is the name of the setting in messages.
    Raises ConfigError if there is no such module, if the module has no such name, or if the object
    cannot be called. Every error inside the user's module is raised as it is.
    """
    match = IMPORT_PATH.fullmatch(path)
    if match is None:
        raise _problem(setting, path, "expected package.module:name, as in my_pkg.models:build")
    found: Any = _import_module(match["module"], path, setting)
    place = match["module"]
    for name in match["name"].split("."):
        if not hasattr(found, name):
            near = nearest(name, [other for other in dir(found) if not other.startswith("_")])
            where = getattr(found, "__file__", None) or place
            raise _problem(setting, path, f"{place} has no {name!r}{near} ({where})")
        found = getattr(found, name)
        place = f"{place}.{name}"
    if not callable(found):
        text = f"is a {type(found).__name__}; expected a function or a class"
        raise _problem(setting, path, text)
    return found


def own_code(config: Settings) -> dict[str, str]:
    """Return {dotted name: import path} of the user's own code that a config names."""
    paths: dict[str, str] = {}
    for name, field in type(config).names().items():
        if _takes_own_code(field):
            for text in _texts(config.get(name)):
                paths.setdefault(name, text)
    return paths


def refuse_own_code(config: Settings, place: str) -> None:
    """Raise CheckpointError if a config that comes out of a checkpoint names the user's own code.

    `place` is the checkpoint in the message.
    """
    for name, path in own_code(config).items():
        raise CheckpointError(
            f"{place}: {name} is {path}, code of its own, which segtune does not import because a "
            "checkpoint says so; if you trust this code, pass the config of the training run: "
            "--config FILE"
        )


def _takes_own_code(field: FieldInfo) -> bool:
    extra = field.json_schema_extra
    return isinstance(extra, Mapping) and bool(extra.get("own_code"))


def _texts(value: Any) -> Iterator[str]:
    """Yield the import paths in a value of plain JSON."""
    if isinstance(value, str) and is_import_path(value):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _texts(part)
    elif isinstance(value, list):
        for part in value:
            yield from _texts(part)


def _import_module(name: str, path: str, setting: str) -> ModuleType:
    """Import a module; the current folder is searched last.

    A command that pip has installed has its own folder in sys.path instead of the current one.
    """
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    # The user may have written the module after this process listed the folder.
    importlib.invalidate_caches()
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        # Another module that is missing is missing inside the user's code.
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise
        missing = error.name
    parent = missing.rpartition(".")[0]
    folders = getattr(sys.modules.get(parent), "__path__", []) if parent else None
    last = missing.rpartition(".")[2]
    near = nearest(last, [module.name for module in pkgutil.iter_modules(folders)])
    kind = f"no module {last!r} in {parent}" if parent else f"no module or package {last!r}"
    raise _problem(
        setting,
        path,
        f"there is {kind}{near}; run segtune from the folder that holds the package (it is "
        f"{os.getcwd()} now), install the package with pip, or add its folder to PYTHONPATH",
    )


def _problem(setting: str, path: str, text: str) -> ConfigError:
    return ConfigError([f"{setting}: {path!r}: {text}"])
