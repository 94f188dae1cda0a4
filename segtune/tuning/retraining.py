"""What `segtune retrain` trains: the config of a trial at full length, with a fresh seed.

Trains nothing and judges nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from segtune.config.schema import CHANGEABLE_ON_RESUME, ExperimentConfig
from segtune.config.settings import Difference, differences
from segtune.config.yaml_io import parse_assignments
from segtune.errors import RunError
from segtune.runs.chosen_trial import choose_trial, part_of_best
from segtune.runs.results import TrialResult, read_trials
from segtune.runs.rundir import SearchDir
from segtune.tuning.confirm_study import FIRST_SEED, SEED
from segtune.tuning.proxy import epoch_changes
from segtune.tuning.study import Study
from segtune.tuning.study_reader import load_study


@dataclass(frozen=True)
class RetrainPlan:
    """A trial of a search run, and the config with which it is trained again."""

    trial: TrialResult
    part: SearchDir  # the search run that has the trial: after a proxy, perhaps RUN/full
    searched: ExperimentConfig  # what the trial trained, at the proxy's size if it was one
    config: ExperimentConfig  # what is trained now, at full length
    rescaled: list[Difference]  # from the full config, because of --epochs

    @property
    def changed(self) -> list[Difference]:
        """Settings in which the config differs from the trial's, without the seed.

        Settings that do not change the numbers of a training run are left out.
        """
        same = (SEED, *CHANGEABLE_ON_RESUME)
        return [d for d in differences(self.config, self.searched) if d.name not in same]


def plan_retraining(
    run: SearchDir,
    *,
    number: int | None = None,
    epochs: int | None = None,
    seed: int | None = None,
    overrides: Sequence[str] = (),
) -> RetrainPlan:
    """Return what to train: trial `number`, or the best, as the study's full config has it.

    A proxy is undone: the trial's values are set in the full config, so that a searched warmup is
    the one that the space names. With `epochs`, settings that count epochs change in proportion.
    `overrides`, such as `optim.lr=1e-4`, come last. `seed` is by default one that no training run
    of the search has used, because the score of the trial's own seed is known, and is the lucky
    one. Raise RunError if there is no such trial, and ConfigError if the config refuses a value.
    """
    study = load_study(run.study)
    trial, part = _where_it_ran_longest(run, number)
    full = study.config.override(trial.params)
    searched = study.trial_config(trial.params) if part.path == run.path else full
    config = full
    if epochs is not None:
        config = config.override(epoch_changes(full, epochs) | _warmup_steps(full, epochs))
    rescaled = differences(config, full)
    config = config.override({SEED: _fresh_seed(study, run) if seed is None else seed})
    if overrides:
        config = config.override(*parse_assignments(overrides))
    return RetrainPlan(trial, part, searched, config, rescaled)


def _where_it_ran_longest(run: SearchDir, number: int | None) -> tuple[TrialResult, SearchDir]:
    """Return the trial, and the part of the search that has its score at full length if any has.

    After a search on a proxy, some trials of the search were trained again in RUN/full.
    """
    trial = choose_trial(run, number, "retrains")
    if number is None:
        return trial, part_of_best(run)
    if not trial.healthy:
        ending = f"{trial.state}{f' ({trial.reason})' if trial.reason else ''}"
        raise RunError(
            f"{run.path}: trial {trial.id} is {ending}, and has no score to compare with; train "
            f"it with: segtune export {run.path} --trial {trial.number} --out FILE, then "
            "segtune train --config FILE --out DIR"
        )
    for longer in read_trials(run.full):
        if longer.params == trial.params and longer.healthy:
            return longer, run.full
    return trial, run


def _warmup_steps(config: ExperimentConfig, epochs: int) -> dict[str, Any]:
    """Return the change of a warmup that is set in steps."""
    steps = config.schedule.warmup_steps
    if steps is None:
        return {}
    return {"schedule.warmup_steps": round(steps * epochs / config.schedule.epochs)}


def _fresh_seed(study: Study, run: SearchDir) -> int:
    """Return the first seed that neither the search nor its confirmation has used."""
    parts = (run, run.confirm, run.full, run.full.confirm)
    used = {trial.params.get(SEED) for part in parts for trial in read_trials(part)}
    used.add(study.config.seed)
    return next(seed for seed in itertools.count(FIRST_SEED) if seed not in used)
