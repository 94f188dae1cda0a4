"""segtune: a search over segmentation configs that says why a trial died.

The few public names; those that need torch or Ray are imported when they are first asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from segtune.api import run_study, run_training
    from segtune.config.schema import load_config
    from segtune.tuning.study import load_study

__version__ = "0.1.0"

_PLACES = {
    "load_config": "segtune.config.schema",
    "load_study": "segtune.tuning.study",
    "run_training": "segtune.api",
    "run_study": "segtune.api",
}

__all__ = ["__version__", "load_config", "load_study", "run_study", "run_training"]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'segtune' has no attribute {name!r}")
    return getattr(importlib.import_module(_PLACES[name]), name)
