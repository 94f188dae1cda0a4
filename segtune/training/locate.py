"""Which checkpoint a path of the user stands for. Reads no weights."""

from __future__ import annotations

import logging
import shlex
from pathlib import Path

from segtune.errors import CheckpointError, nearest
from segtune.runs.chosen_trial import part_of_best
from segtune.runs.results import best_trial, read_trials
from segtune.runs.rundir import SearchDir, TrialDir, search_runs_in
from segtune.training.checkpoint import MANIFEST, STATE, WEIGHTS, newest_best

log = logging.getLogger(__name__)

EXPECTED = f"expected a folder with {MANIFEST}, or the folder of a training run with checkpoints/"
# How files of weights are named by other programs.
WEIGHTS_SUFFIXES = (".pth", ".pt", ".ckpt", ".bin", ".safetensors")


def find_checkpoint(path: str | Path) -> Path:
    """Return the checkpoint that `path` stands for.

    `path` is a checkpoint or a file in it. The folder of a training run or a trial stands for its
    best checkpoint, or for its newest last one if it has no best one yet. The folder of a search
    run stands for its best trial. Raise CheckpointError that describes any other path.
    """
    path = Path(path).expanduser()
    folder = path.parent if path.is_file() and path.name in (WEIGHTS, STATE, MANIFEST) else path
    if (folder / MANIFEST).is_file() or (folder / WEIGHTS).is_file():
        return folder
    for inner in (folder, folder / "checkpoints"):
        if found := newest_best(inner):
            return found
    if SearchDir(folder).study.is_file():
        return _of_best_trial(SearchDir(folder))
    raise CheckpointError(f"{path}: {_what_is_there(path)}")


def _of_best_trial(run: SearchDir) -> Path:
    """Return the best checkpoint of the best trial; after a search on a proxy, at full length."""
    run = part_of_best(run)
    trials = read_trials(run)
    best = best_trial(trials)
    if best is None or best.miou is None:
        states = ", ".join(f"{trial.id} {trial.state}" for trial in trials) or "none"
        raise CheckpointError(
            f"{run.path}: a search run without a validated healthy trial (trials: {states}); use "
            "the folder of one trial"
        )
    found = newest_best(run.trial(best.number).checkpoints)
    if found is None:
        raise CheckpointError(
            f"{run.path}: its best trial {best.id} has no checkpoint any more; use the folder of "
            "another trial"
        )
    log.info("%s: best trial %s, mIoU %.2f: %s", run.path, best.id, 100 * best.miou, found)
    return found


def _what_is_there(path: Path) -> str:
    if path.is_file():
        return _about_file(path)
    if not path.exists():
        siblings = path.parent.iterdir() if path.parent.is_dir() else ()
        return f"no checkpoint; {EXPECTED}{nearest(path.name, [entry.name for entry in siblings])}"
    if runs := search_runs_in(path):
        return (
            f"holds {len(runs)} search runs ({', '.join(runs)}), not a checkpoint; use one of "
            f"them, which stands for its best trial: {path / runs[0]}"
        )
    if TrialDir(path).params.is_file() and TrialDir(path).verdict.is_file():
        return (
            "its checkpoints are deleted: a search keeps those of its best trials "
            "(checkpoint.keep_trials) and of trial 0. Repeat the trial: segtune train --config "
            f"{shlex.quote(str(TrialDir(path).config))} --out DIR"
        )
    found = sorted(inner.parent.name for inner in path.glob("*/checkpoints"))
    hint = f"; training runs in this folder: {', '.join(found[:5])}" if found else ""
    return f"no checkpoint; {EXPECTED}{hint}"


def _about_file(path: Path) -> str:
    folder = path.parent
    if (folder / "checkpoints").is_dir():
        return f"a file of a training run, not a checkpoint; use its folder: {folder}"
    if (folder / "study.yaml").is_file():
        return f"a file of a search run, not a checkpoint; use its folder: {folder}"
    if path.suffix in WEIGHTS_SUFFIXES:
        return (
            f"a file of weights, but a checkpoint of segtune is a folder with {MANIFEST}. For "
            f"pretrained weights of the encoder, set model.weights: {path}"
        )
    return f"a file, but a checkpoint is a folder with {MANIFEST}"
