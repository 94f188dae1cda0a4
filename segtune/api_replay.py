"""Replay the step at which a training run died, and try remedies.

Parses no command line and prints nothing, like `api.py`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from segtune.config.yaml_io import parse_assignments
from segtune.errors import ConfigError, RunError
from segtune.runs.environment import Environment, read_environments
from segtune.runs.replay_record import ReplayRecord
from segtune.runs.rundir import SearchDir, TrialDir, search_of

log = logging.getLogger(__name__)

# Settings of these sections can be tried on the weights of the bundle.
SECTIONS = ("optim.", "loss.")


def find_trial(path: str | Path, trial: str | None = None) -> TrialDir:
    """Return the training run that `path` and `trial` mean; it has a bundle.

    `path` is the folder of a training run or a trial, or that of a search run, in which `trial` is
    a number. Raises RunError that names the trials that can be replayed.
    """
    folder = Path(path)
    if folder.name == "replay" and TrialDir(folder.parent).replay.is_dir():
        folder = folder.parent
    if SearchDir(folder).study.is_file():
        return _trial_of_search(SearchDir(folder), trial)
    if trial is not None:
        raise RunError(f"--trial {trial}: {path} is no search run; leave --trial out")
    trial_dir = TrialDir(folder)
    if not trial_dir.replay.is_dir():
        raise RunError(f"{path}: {_why_no_bundle(trial_dir)}")
    return trial_dir


def replay_trial(
    trial: TrialDir,
    *,
    changes: Sequence[str] = (),
    progress: Callable[[str], None] = lambda text: None,
) -> ReplayRecord:
    """Replay the bundle of a training run in this process and try remedies; return all numbers.

    `changes` are settings (`optim.lr=1e-4`) that are tried together as one more remedy. `progress`
    receives what begins. Raises SegtuneError if the bundle is damaged, its data set is absent, or a
    setting cannot be tried.
    """
    from segtune.training.distributed import Ranks
    from segtune.training.remedies import conclude, remedies, set_words
    from segtune.training.replay_bundle import read_bundle
    from segtune.training.replay_step import Replay

    bundle = read_bundle(trial.replay)
    if bundle is None:
        raise RunError(f"{trial.path}: {_why_no_bundle(trial)}")
    # The factors of loss.balance belong to the terms that the training run had.
    own = _own_settings(changes, ("optim.",) if bundle.loss_factors else SECTIONS)
    replay = Replay(bundle, Ranks.join())
    replay.config.override(own)  # before the step: a mistake is reported at once
    manifest = bundle.manifest
    progress(f"step {manifest.step} on {replay.ranks.device}")
    record = replay.reproduce(trial.path)
    ways = [{}, *remedies(replay.config, manifest.precision, has_bf16=_has_bf16())]
    tried = []
    if record.origin is None or record.origin.phase != "weights":
        for settings in [*ways, own] if own else ways:
            progress(set_words(settings) or "the same settings")
            tried.append(replay.try_settings(settings))
    conclusion, advised = conclude(replay.config, manifest.kind, tried)
    return replace(
        record,
        differences=[*record.differences, *_other_environment(trial)],
        remedies=tried,
        conclusion=conclusion,
        settings=advised,
    )


def _own_settings(changes: Sequence[str], sections: tuple[str, ...]) -> dict[str, object]:
    settings, _ = parse_assignments(changes)
    others = [name for name in settings if not name.startswith(sections)]
    if others:
        allowed = " and ".join(f"{section}*" for section in sections)
        raise ConfigError(
            [
                f"--set {name}: cannot be tried on the weights of a bundle; allowed are {allowed}"
                for name in others
            ]
        )
    return settings


def _trial_of_search(run: SearchDir, trial: str | None) -> TrialDir:
    ids = [other.id for other in run.trial_dirs() if other.replay.is_dir()]
    listed = f"trials with a bundle: {', '.join(ids) or 'none'}"
    if trial is None:
        raise RunError(f"{run.path}: a search run; choose a trial with --trial ID ({listed})")
    if not trial.isdecimal() or (trial_dir := run.trial(int(trial))).id not in ids:
        raise RunError(f"--trial {trial}: {run.path} has no such trial to replay ({listed})")
    return trial_dir


def _why_no_bundle(trial: TrialDir) -> str:
    if not trial.path.is_dir():
        return "no such folder; expected the folder of a training run or a trial"
    verdict = trial.read_verdict()
    ending = f"it ended as {verdict.state} {verdict.kind}".rstrip() if verdict else "it has no end"
    text = f"nothing to replay, because {ending}; only non-finite and diverged leave a bundle"
    run = search_of(trial.path)
    if run is None or verdict is None or verdict.state != "unhealthy":
        return text
    ids = [other.id for other in run.trial_dirs() if other.replay.is_dir()]
    return f"{text}, and in a search the first trial of each kind does: {', '.join(ids) or 'none'}"


def _has_bf16() -> bool:
    import torch

    return not torch.cuda.is_available() or torch.cuda.is_bf16_supported(including_emulation=False)


def _other_environment(trial: TrialDir) -> list[str]:
    """Return what differs between this machine and that of the training run."""
    run = search_of(trial.path)
    sessions = read_environments(run.environment if run else trial.environment)
    return [*Environment.of_this_process({}).differences(sessions[-1])] if sessions else []
