"""Objects of the user's own packages, by import path: `package.module:name`."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

from segtune.errors import ConfigError, nearest


def load_object(path: str, setting: str) -> Any:
    """Return the object that `path` (package.module:name) stands for.

    The current folder counts as a place for packages. Raises ConfigError that names `setting`.
    """
    module_name, colon, name = path.partition(":")
    if not (module_name and colon and name):
        raise ConfigError([f"{setting}: {path!r} is no import path; expected package.module:name"])
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ConfigError([f"{setting}: {path!r} cannot be imported: {error}"]) from error
    if not hasattr(module, name):
        raise ConfigError([f"{setting}: {module_name} has no {name!r}{nearest(name, dir(module))}"])
    return getattr(module, name)
