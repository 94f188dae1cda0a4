"""segtune: hyperparameter search for semantic segmentation that says why a trial ended.

The public names. Each is imported when it is first used, because torch and Ray take seconds.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from segtune.api import StudyResult, TrainResult, run_study, run_training
    from segtune.api_confirm import ConfirmResult, confirm_run
    from segtune.api_export import ExportedFile, export_model
    from segtune.api_predict import predict_labels
    from segtune.api_retrain import RetrainChanges, RetrainResult, retrain_run
    from segtune.config.schema import ExperimentConfig, load_config
    from segtune.runs.verdict import Verdict
    from segtune.tuning.study import Study
    from segtune.tuning.study_reader import load_study

__version__ = "0.1.0"

__all__ = [
    "ConfirmResult",
    "ExperimentConfig",
    "ExportedFile",
    "RetrainChanges",
    "RetrainResult",
    "Study",
    "StudyResult",
    "TrainResult",
    "Verdict",
    "__version__",
    "confirm_run",
    "export_model",
    "load_config",
    "load_study",
    "predict_labels",
    "retrain_run",
    "run_study",
    "run_training",
]

_MODULES = {
    "ConfirmResult": "segtune.api_confirm",
    "ExperimentConfig": "segtune.config.schema",
    "ExportedFile": "segtune.api_export",
    "RetrainChanges": "segtune.api_retrain",
    "RetrainResult": "segtune.api_retrain",
    "Study": "segtune.tuning.study",
    "StudyResult": "segtune.api",
    "TrainResult": "segtune.api",
    "Verdict": "segtune.runs.verdict",
    "confirm_run": "segtune.api_confirm",
    "export_model": "segtune.api_export",
    "load_config": "segtune.config.schema",
    "load_study": "segtune.tuning.study_reader",
    "predict_labels": "segtune.api_predict",
    "retrain_run": "segtune.api_retrain",
    "run_study": "segtune.api",
    "run_training": "segtune.api",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module 'segtune' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)
