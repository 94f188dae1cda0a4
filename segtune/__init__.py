"""segtune: a search over segmentation configs that says why a trial died.

The few public names; those that need torch or Ray are imported when they are first asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from segtune.config import load_config
    from segtune.search import run_study
    from segtune.study import load_study
    from segtune.train import run_training

__version__ = "0.1.0"

_PLACES = {
    "load_config": "segtune.config",
    "load_study": "segtune.study",
    "run_training": "segtune.train",
    "run_study": "segtune.search",
}

__all__ = ["__version__", "load_config", "load_study", "run_study", "run_training"]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'segtune' has no attribute {name!r}")
    return getattr(importlib.import_module(_PLACES[name]), name)
