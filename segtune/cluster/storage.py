"""Where Optuna keeps a study, and how it draws: a journal in the run's folder or a database, and the samplers by name."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from segtune.errors import ClusterError
from segtune.rundir import RunDir
from segtune.space import Space
from segtune.study import SearchConfig
from segtune.warm_start import KnownTrial

# Trials drawn at random before TPE, CMA-ES and GP have a model (Bergstra et al. 2011; Optuna's default).
STARTUP_TRIALS = 10
# What the sampler has to keep away from; above 0 is infeasible.
UNHEALTHY = "unhealthy"
# Marks a study in a database as a run's own.
RUN_ATTRIBUTE = "run"


class SpaceTPE(optuna.samplers.TPESampler):
    """Multivariate TPE that is told which settings are always there; Optuna looks that up in all trials at every draw."""

    def __init__(self, space: Space, **options: Any) -> None:
        super().__init__(multivariate=True, **options)
        self.always = {d.name: d.distribution() for d in sorted(space.dimensions, key=lambda d: d.name) if not d.when}

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Returns the settings that are drawn together."""
        return self.always


def sampler_of(search: SearchConfig, space: Space, number: int) -> optuna.samplers.BaseSampler:
    """Returns the sampler of one trial. Its seed follows from the number, so a resumed search draws as an unbroken one."""
    seed = _seed(search.seed, number)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        match search.sampler:
            case "tpe":
                options: dict[str, Any] = {"seed": seed, "n_startup_trials": STARTUP_TRIALS, "constant_liar": search.constant_liar}
                return SpaceTPE(space, **options) if search.multivariate else optuna.samplers.TPESampler(multivariate=False, **options)
            case "cmaes":
                return optuna.samplers.CmaEsSampler(
                    seed=seed, n_startup_trials=STARTUP_TRIALS, consider_pruned_trials=True, warn_independent_sampling=False
                )
            case "gp":
                return optuna.samplers.GPSampler(seed=seed, n_startup_trials=STARTUP_TRIALS, warn_independent_sampling=False)
            case "random" | "grid":  # the points of a grid are given, see Study.points
                return optuna.samplers.RandomSampler(seed=seed)


@contextmanager
def rehearsed(search: SearchConfig, space: Space) -> Iterator[None]:
    """Has the sampler draw a point that nobody needs, beside the block.

    The first draw of the Gaussian process imports torch. In the middle of a search workers would wait for it, for seconds; while
    Ray starts, the machine waits anyway.
    """
    if search.sampler != "gp" or search.trials <= STARTUP_TRIALS:
        yield
        return
    _silence()
    thread = threading.Thread(target=_draw_from_model, args=(sampler_of(search, space, 0),), name="rehearsal")
    thread.start()
    try:
        yield
    finally:
        thread.join()  # a process that ends in the middle of an import may crash


def _draw_from_model(sampler: optuna.samplers.BaseSampler) -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    line: dict[str, BaseDistribution] = {"x": optuna.distributions.FloatDistribution(0.0, 1.0)}
    for _ in range(STARTUP_TRIALS):
        trial = study.ask(line)
        study.tell(trial, trial.params["x"])
    study.sampler = sampler
    study.ask(line)


def _silence() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # what it warns of, it mends itself; the table is on the terminal


def random_sampler(search: SearchConfig, number: int, attempt: int) -> optuna.samplers.BaseSampler:
    """Returns what draws a trial anew where the config has refused the point that its sampler drew."""
    return optuna.samplers.RandomSampler(seed=_seed(search.seed, number, attempt))


def _seed(*numbers: int) -> int:
    """Returns one number of 32 bits, which is what Optuna's generators take, out of several."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def notes_of(trial: optuna.Trial) -> dict[str, Any]:
    """Returns what the sampler has noted in a trial that it has drawn, as CMA-ES does with its state. Plain JSON values."""
    return trial.storage.get_trial_system_attrs(trial._trial_id)


def restore_notes(trial: optuna.Trial, notes: Mapping[str, Any]) -> None:
    """Gives a trial that is told again the notes that its sampler had made."""
    for name, value in notes.items():
        trial.storage.set_trial_system_attr(trial._trial_id, name, value)


def open_study(run: RunDir, url: str | None) -> optuna.Study:
    """Returns an empty study under the run's name, in place of what an earlier session has left there.

    Raises ClusterError where the database does not answer, or holds somebody else's study of that name.
    """
    _silence()
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


def _remove_own(storage: BaseStorage, run: RunDir, url: str) -> None:
    for found in storage.get_all_studies():
        if found.study_name == run.path.name:
            if (owner := found.user_attrs.get(RUN_ATTRIBUTE)) != str(run.path):
                raise ClusterError(
                    f"search.storage: {url.split('@')[-1]} holds a study {run.path.name!r} already (of {owner or 'unknown origin'}); choose another --name"
                )
            storage.delete_study(found._study_id)


def known_trial(known: KnownTrial, space: Space) -> FrozenTrial:
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
