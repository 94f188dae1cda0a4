"""One Optuna study: in a journal or a database; all uses of Optuna's private names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import optuna
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from segtune.errors import ClusterError
from segtune.runs.rundir import SearchDir
from segtune.runs.verdict import Verdict
from segtune.tuning.samplers import silence_optuna
from segtune.tuning.space import Space
from segtune.tuning.warm_start import KnownTrial

# What the sampler has to keep away from; above 0 is infeasible.
UNHEALTHY = "unhealthy"
# Marks a study in a database as a run's own.
RUN_ATTRIBUTE = "run"


def sampler_state_of(trial: optuna.Trial) -> dict[str, Any]:
    """Returns what the sampler has noted in a trial that it has drawn, as CMA-ES does with its state. Plain JSON values."""
    return trial.storage.get_trial_system_attrs(trial._trial_id)


def restore_sampler_state(trial: optuna.Trial, notes: Mapping[str, Any]) -> None:
    """Gives a trial that is told again the notes that its sampler had made."""
    for name, value in notes.items():
        trial.storage.set_trial_system_attr(trial._trial_id, name, value)


def open_study(run: SearchDir, url: str | None) -> optuna.Study:
    """Returns an empty study under the run's name, in place of what an earlier session has left there.

    Raises ClusterError where the database does not answer, or holds somebody else's study of that name.
    """
    silence_optuna()
    run.path.mkdir(parents=True, exist_ok=True)
    if url is None:
        for leftover in run.path.glob(f"{run.journal.name}*"):
            leftover.unlink()
        storage: BaseStorage = JournalStorage(JournalFileBackend(str(run.journal)))
    else:
        storage = _database(url)
        _remove_own(storage, run, url)
    study = optuna.create_study(storage=storage, study_name=run.path.name, direction="maximize")
    study.set_user_attr(RUN_ATTRIBUTE, str(run.path))
    return study


def _database(url: str) -> BaseStorage:
    from sqlalchemy.exc import ArgumentError, SQLAlchemyError

    try:
        return optuna.storages.get_storage(url)
    except ArgumentError:
        why = "this is not the URL of a database; examples: sqlite:///study.db, postgresql://user@host/name"
    except ImportError as error:
        missing = getattr(error.__cause__, "name", None) or error
        why = f"the driver of this database is not installed ({missing}); for PostgreSQL: pip install 'segtune[postgres]'"
    except SQLAlchemyError as error:
        why = f"the database does not answer ({str(error).splitlines()[0]})"
    raise ClusterError(f"search.storage: {url.split('@')[-1]}: {why}")


def _remove_own(storage: BaseStorage, run: SearchDir, url: str) -> None:
    for found in storage.get_all_studies():
        if found.study_name == run.path.name:
            if (owner := found.user_attrs.get(RUN_ATTRIBUTE)) != str(run.path):
                raise ClusterError(
                    f"search.storage: {url.split('@')[-1]} holds a study {run.path.name!r} already (of {owner or 'unknown origin'}); choose another --name"
                )
            storage.delete_study(found._study_id)


def to_frozen_trial(known: KnownTrial, space: Space) -> FrozenTrial:
    """Returns a trial of an earlier run as Optuna keeps it."""
    completed = known.state == "completed"
    return optuna.trial.create_trial(
        state=TrialState.COMPLETE if completed else TrialState.PRUNED,
        value=max(known.mious.values()) if completed else None,
        params=known.params,
        distributions=space.distributions(known.params),
        intermediate_values=known.mious,
        constraints={UNHEALTHY: 1.0} if known.state == "unhealthy" else None,
    )


class OptunaStudyLog:
    """One Optuna study: trials are asked for, report their mIoU by epoch, and end with a verdict."""

    def __init__(self, study: optuna.Study, space: Space) -> None:
        self.study, self.space = study, space
        self.asked: dict[int, optuna.Trial] = {}
        self.reported: dict[int, set[int]] = {}

    def ask(
        self,
        number: int,
        sampler: optuna.samplers.BaseSampler | None,
        given: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Opens a trial and returns its values: those that are given, or what the sampler draws."""
        if given is not None:
            # A space that was widened since may have settings that a point of before had not: they had the config's own value.
            return self._open(number, self.space.complete(given))
        if sampler:
            self.study.sampler = sampler
        self.asked[number] = self.study.ask()
        return self.space(self.asked[number])

    def _open(self, number: int, params: dict[str, Any]) -> dict[str, Any]:
        """Opens a trial whose values are known. Optuna's own `ask` would go through all trials in search of one that waits."""
        self.study.sampler = optuna.samplers.RandomSampler(seed=0)  # no model need be fitted
        running = optuna.trial.create_trial(
            state=TrialState.RUNNING, params=params, distributions=self.space.distributions(params)
        )
        trial_id = self.study._storage.create_new_trial(self.study._study_id, running)
        self.asked[number] = optuna.Trial(self.study, trial_id)
        return params

    def withdraw(self, number: int) -> None:
        """Forgets a trial that was asked for and does not take place."""
        self.study.tell(self.asked.pop(number), state=TrialState.FAIL)

    def report(self, number: int, epoch: int, miou: float) -> None:
        """Notes an intermediate value, once."""
        told = self.reported.setdefault(number, set())
        if epoch not in told:
            told.add(epoch)
            self.asked[number].report(miou, epoch)

    def tell(self, number: int, verdict: Verdict, mious: Mapping[int, float]) -> None:
        """Ends a trial: full length COMPLETE, stopped PRUNED, unhealthy also infeasible, fault FAIL, interrupted goes on."""
        if verdict.state == "interrupted":
            return
        for epoch, miou in mious.items():
            self.report(number, epoch, miou)
        self.reported.pop(number, None)
        trial = self.asked.pop(number)
        if verdict.reason:
            trial.set_user_attr("reason", verdict.reason)
        match verdict.state:
            case "completed" if mious:
                self.study.tell(trial, max(mious.values()))
            case "unhealthy":
                # The sampler keeps away from what is infeasible; the best value of the study stays clean.
                trial.set_constraint(UNHEALTHY, 1.0)
                self.study.tell(trial, state=TrialState.PRUNED)
            case "pruned":
                self.study.tell(trial, state=TrialState.PRUNED)
            case _:
                self.study.tell(trial, state=TrialState.FAIL)
