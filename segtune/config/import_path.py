"""Objects by import path, such as `my_pkg.data:pairs`: code of the user's own."""

from __future__ import annotations

import importlib
from typing import Any

from segtune.errors import ConfigError, nearest


def load_object(path: str, setting: str) -> Any:
    """Return the object at `package.module:name`. `setting` is named in messages.

    Raises ConfigError if the module or the name does not exist. An exception in the module itself
    is raised as it is.
    """
    module_name, _, name = path.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # a module that the user's module needs
        raise ConfigError(
            [
                f"{setting}: no module {error.name!r}; Python looks for it in the folders of "
                "PYTHONPATH: run with PYTHONPATH=FOLDER, where FOLDER contains "
                f"{module_name.split('.')[0]}"
            ]
        ) from None
    if not hasattr(module, name):
        raise ConfigError(
            [f"{setting}: {module_name} has no {name!r}{nearest(name, vars(module))}"]
        )
    return getattr(module, name)
