"""Numbers, names and commands in words, for the terminal and for the page."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from segtune.runs.records import EpochRecord
from segtune.runs.results import RUNNING, TrialResult
from segtune.runs.rundir import SearchDir
from segtune.tuning.study import Study


def format_value(value: Any) -> str:
    """Returns a parameter's value as it is read best."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def short_names(names: Sequence[str]) -> dict[str, str]:
    """Returns each dotted name without what is not needed to tell it from the others."""
    found = {}
    for name in names:
        parts = name.split(".")
        tails = [".".join(parts[-n:]) for n in range(1, len(parts) + 1)]
        found[name] = next(
            t for t in tails if sum(other == t or other.endswith("." + t) for other in names) == 1
        )
    return found


def format_duration(seconds: float) -> str:
    """Return seconds as M:SS or H:MM:SS."""
    minutes, rest = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def num_ended(trials: Sequence[TrialResult]) -> int:
    """Returns how many trials will not go on."""
    return sum(t.state not in (RUNNING, "interrupted") for t in trials)


def next_steps(run: SearchDir, study: Study) -> dict[str, str]:
    """Returns where the config of a run's winner lies and the commands to go on with.

    Nothing where trials of a proxy have gone on to full length: best.yaml is then the winner of those.
    """
    if run.full.best.exists():
        return {}
    workers = (
        f" --workers {study.search.workers_per_trial}" if study.search.workers_per_trial > 1 else ""
    )
    return {
        "its config": str(run.best),
        "retrain it": f"python -m segtune.train --config {run.best} --out {run.path / 'retrain'}{workers}",
        "curves": f"tensorboard --logdir {run.trials}",
        "study": f"optuna-dashboard {hide_password(study.search.storage or str(run.journal))}",
    }


def hide_password(url: str) -> str:
    """Returns the URL of a database as it may be shown to others."""
    return re.sub(r"(://[^:/@]*):[^@]*@", r"\1:***@", url)


def epoch_line(record: EpochRecord, epochs: int) -> str:
    """Return one epoch as a line for the terminal; `epochs` is the length of the training run."""
    losses = " ".join(f"{name} {value:.4f}" for name, value in record.losses.items())
    line = f"epoch {record.epoch}/{epochs}  {losses}  lr {record.lr:.2e}  {record.seconds:.1f} s"
    if scores := record.validation:
        line += f"  mIoU {100 * scores.miou:.2f}  aAcc {100 * scores.aacc:.2f}"
    return line
