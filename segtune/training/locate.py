"""Which checkpoint a path of the user stands for. Reads no weights."""

from __future__ import annotations

import logging
from pathlib import Path

from segtune.errors import CheckpointError, nearest
from segtune.runs.results import best_trial, read_trials
from segtune.runs.rundir import SearchDir, search_runs_in
from segtune.training import checkpoint

log = logging.getLogger(__name__)


def find_checkpoint(path: str | Path) -> Path:
    """Return the checkpoint that `path` stands for.

    `path` is a checkpoint or a file in it, or the folder of a training run or a trial, which stands
    for its best checkpoint, or the folder of a search run, which stands for its best trial. Raise
    CheckpointError that says what is there instead.
    """
    path = Path(path)
    if path.name in (checkpoint.WEIGHTS, checkpoint.MANIFEST, checkpoint.STATE):
        path = path.parent
    run = SearchDir(path)
    if run.study.is_file():
        return _of_best_trial(run)
    if not path.exists():
        siblings = [entry.name for entry in path.parent.glob("*")]
        raise CheckpointError(f"{path}: no such checkpoint{nearest(path.name, siblings)}")
    if path.is_file():
        raise CheckpointError(f"{path}: {_about_file(path)}")
    if runs := search_runs_in(path):
        raise CheckpointError(
            f"{path}: holds {len(runs)} search runs ({', '.join(runs)}), not a checkpoint; use one "
            f"of them, which stands for its best trial: {path / runs[0]}"
        )
    return checkpoint.find(path)


def _of_best_trial(run: SearchDir) -> Path:
    """Return the best checkpoint of the best trial; after a search on a proxy, at full length."""
    run = run.full if run.full.best.exists() else run
    trials = read_trials(run)
    best = best_trial(trials)
    if best is None or best.miou is None:
        states = ", ".join(f"{trial.id} {trial.state}" for trial in trials) or "none"
        raise CheckpointError(
            f"{run.path}: a search run without a validated healthy trial (trials: {states}); use "
            "the folder of one trial"
        )
    trial = run.trial(best.number)
    try:
        found = checkpoint.find(trial.path)
    except CheckpointError:
        raise CheckpointError(
            f"{run.path}: its best trial {best.id} has no checkpoint any more; use the folder of "
            "another trial"
        ) from None
    log.info("%s: best trial %s, mIoU %.2f: %s", run.path, best.id, 100 * best.miou, found)
    return found


def _about_file(path: Path) -> str:
    folder = path.parent
    if (folder / "checkpoints").is_dir():
        return f"a file of a training run, not a checkpoint; use its folder: {folder}"
    if (folder / "study.yaml").is_file():
        return f"a file of a search run, not a checkpoint; use its folder: {folder}"
    if path.suffix in (".pth", ".pt", ".ckpt", ".bin", ".safetensors"):
        return (
            "a file of weights, but a checkpoint of segtune is a folder with "
            f"{checkpoint.MANIFEST}; weights of other programs go to model.weights for training"
        )
    return f"a file, but a checkpoint is a folder with {checkpoint.MANIFEST}"
