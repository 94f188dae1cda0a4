"""One Optuna study, in memory, in a journal file or in a database.

The only file that uses names of Optuna which its documentation does not promise. If the installed
version lacks one of them, the documented interface is used instead, and a warning says so once.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from segtune.errors import ClusterError
from segtune.runs.atomic import naming
from segtune.runs.pareto import MIOU
from segtune.runs.rundir import SearchDir
from segtune.runs.verdict import Verdict
from segtune.tuning.measured import NOTHING, Measured
from segtune.tuning.samplers import silence_optuna
from segtune.tuning.space import Space
from segtune.tuning.warm_start import TELLING_STATES, KnownTrial

log = logging.getLogger(__name__)

# Name of the constraint on unhealthy trials. To Optuna, a trial with a value above 0 is infeasible.
UNHEALTHY = "unhealthy"
ONLY_MIOU = (MIOU,)  # the objectives of a study without others
# User attribute of a study in a database: the folder of the search run that the study belongs to.
RUN_ATTRIBUTE = "run"
IDENTITY_ATTRIBUTE = "identity"  # the same of that folder, see `SearchDir.read_identity`
OTHER_STORAGE = (
    "set another search.storage, also at a resume: the run folder holds all results, and the study "
    "is filled from it"
)
# Undocumented attributes of optuna.Study and optuna.Trial that this file uses.
STUDY_NAMES = ("_storage", "_study_id")
TRIAL_NAMES = ("storage", "_trial_id")
NO_SAMPLER_STATE = "--resume does not restore the state of the samplers cmaes and nsga2"


def new_study(objectives: Sequence[str] = ONLY_MIOU, **options: Any) -> optuna.Study:
    """Return a new Optuna study; mIoU is to be high, every other objective is to be low."""
    maximize, minimize = StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE
    directions = [maximize if name == MIOU else minimize for name in objectives]
    return optuna.create_study(directions=directions, **options)


def recreate_study(
    run: SearchDir, url: str | None, objectives: Sequence[str] = ONLY_MIOU
) -> optuna.Study:
    """Delete the Optuna study of a search run, if it has one, and return an empty one in its place.

    Nothing is lost: the caller fills the study from the run folder. `url` is that of a database;
    None means the journal file of the run folder. Raise ClusterError if the database does not
    answer or cannot be written, or if it holds a study of this name that belongs to another search
    run.
    """
    silence_optuna()
    run.path.mkdir(parents=True, exist_ok=True)
    if url is None:
        for leftover in run.path.glob(f"{run.journal.name}*"):
            leftover.unlink()
        with naming(run.journal):
            storage = JournalStorage(JournalFileBackend(str(run.journal)))
            return _create_study(run, storage, objectives)
    url = _where_the_file_is(url, run)
    with _as_cluster_error(url):
        storage = optuna.storages.get_storage(url)
        _delete_study_of(run, storage, url)
        return _create_study(run, storage, objectives)


def _create_study(run: SearchDir, storage: BaseStorage, objectives: Sequence[str]) -> optuna.Study:
    study = new_study(objectives, storage=storage, study_name=run.path.name)
    study.set_user_attr(RUN_ATTRIBUTE, str(run.path))
    study.set_user_attr(IDENTITY_ATTRIBUTE, run.read_identity())
    return study


@contextlib.contextmanager
def _as_cluster_error(url: str) -> Iterator[None]:
    """Raise ClusterError that names the database if the block cannot use it."""
    from sqlalchemy.exc import ArgumentError, SQLAlchemyError

    try:
        yield
        return
    except (ArgumentError, UnicodeError):
        problem = (
            "this is not the URL of a database; "
            "examples: sqlite:///study.db, postgresql://user@host/name"
        )
    except ImportError as error:
        missing = getattr(error.__cause__, "name", None) or error
        problem = (
            f"the driver of this database is not installed ({missing}); "
            "for PostgreSQL: pip install 'segtune[postgres]'"
        )
    except (SQLAlchemyError, StorageInternalError) as error:
        cause = error.__cause__ if isinstance(error, StorageInternalError) else error
        reason = (str(cause or error).splitlines() or [""])[0]
        problem = f"the database does not answer, or cannot be written ({reason}); {OTHER_STORAGE}"
    except RuntimeError as error:
        if "version" not in str(error):
            raise
        problem = f"{str(error).splitlines()[0]}; {OTHER_STORAGE}"
    raise ClusterError(f"search.storage: {shown_url(url)}: {problem}")


def _where_the_file_is(url: str, run: SearchDir) -> str:
    """Return the URL of an SQLite file that was moved together with a run folder, or `url` itself.

    Raise ClusterError that names all places if the folder of the file does not exist.
    """
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        return url  # `get_storage` refuses it
    if parsed.get_backend_name() != "sqlite" or parsed.database in (None, "", ":memory:"):
        return url
    file = Path(parsed.database)
    hint = "" if set("%?").isdisjoint(url) else "; in a URL, % is written %25 and ? is written %3F"
    if "/" in url.partition("?")[2].partition("=")[0]:
        raise ClusterError(f"search.storage: {shown_url(url)}: names the file {file}{hint}")
    if file.is_dir():
        raise ClusterError(
            f"search.storage: {shown_url(url)}: {file} is a folder; name a file in it"
        )
    if file.absolute().parent.is_dir():
        return url
    beside = [run.path / file.name, run.path.parent / file.name]
    for moved in beside:
        if moved.is_file():
            log.warning("search.storage: there is no folder %s: using %s", file.parent, moved)
            return parsed.set(database=str(moved)).render_as_string(hide_password=False)
    raise ClusterError(
        f"search.storage: {shown_url(url)}: there is no folder {file.absolute().parent}, and no "
        f"{file.name} in {run.path} or {run.path.parent}; make the folder, or {OTHER_STORAGE}{hint}"
    )


def _delete_study_of(run: SearchDir, storage: BaseStorage, url: str) -> None:
    name = run.path.name
    if name not in optuna.get_all_study_names(storage):
        return
    attributes = optuna.load_study(study_name=name, storage=storage).user_attrs
    owner = attributes.get(RUN_ATTRIBUTE)
    if owner != str(run.path) and not _was_moved(run, attributes, url):
        raise ClusterError(
            f"search.storage: {shown_url(url)} already holds a study {name!r} (of "
            f"{owner or 'unknown origin'}); {OTHER_STORAGE}, or choose another --name "
            "for a new search run"
        )
    optuna.delete_study(study_name=name, storage=storage)


def _was_moved(run: SearchDir, attributes: Mapping[str, Any], url: str) -> bool:
    """Whether a study belongs to this search run, but its folder had another path then.

    A copy is not moved: the folder that it was copied from is still there. Studies of early
    versions have no identity. Their owner is then known only for a file of this machine.
    """
    owner = attributes.get(RUN_ATTRIBUTE)
    if owner is None:
        return False
    old = SearchDir(Path(owner))
    if old.study.is_file():
        return old.path.samefile(run.path)  # the same folder through a link or another mount
    identity = attributes.get(IDENTITY_ATTRIBUTE)
    if identity is None:
        return url.startswith("sqlite")
    return identity == run.read_identity()


def shown_url(url: str) -> str:
    """Return the URL of a database for a message, without its password."""
    shown = re.sub(r"(://[^/@:]*):.*@", r"\1:***@", url)
    return re.sub(r"(?i)(passw[a-z]*=)[^&]*", r"\1***", shown)


def to_frozen_trial(
    known: KnownTrial, space: Space, objectives: Sequence[str] = ONLY_MIOU
) -> FrozenTrial:
    """Return a finished trial in Optuna's form."""
    values = known.objective_values(objectives)
    unhealthy = {UNHEALTHY: 1.0} if known.state == "unhealthy" else {}
    return optuna.trial.create_trial(
        state=TrialState.PRUNED if values is None else TrialState.COMPLETE,
        values=values,
        params=known.params,
        distributions=space.distributions(known.params),
        # Optuna takes none in a study with several objectives.
        intermediate_values=known.mious if len(objectives) == 1 else None,
        constraints={**known.constraints, **unhealthy},
    )


class OptunaStudyLog:
    """One Optuna study under segtune's trial numbers.

    A trial begins with `ask` (the sampler draws its values) or with `begin` (its values are known).
    It reports its mIoU by epoch and ends with `tell`, or with `withdraw` if it does not take place.
    """

    def __init__(
        self, study: optuna.Study, space: Space, objectives: Sequence[str] = ONLY_MIOU
    ) -> None:
        self.study = study
        self.space = space
        self.objectives = objectives
        self.running: dict[int, optuna.Trial] = {}
        self.reported: dict[int, set[int]] = {}  # epochs by trial number

    def ask(self, number: int, sampler: optuna.samplers.BaseSampler) -> dict[str, Any]:
        """Begin a trial and return its values, drawn by `sampler`."""
        self.study.sampler = sampler
        self.running[number] = self.study.ask()
        return self.space(self.running[number])

    def begin(self, number: int, params: dict[str, Any]) -> None:
        """Begin a trial with known values."""
        distributions = self.space.distributions(params)
        self.running[number] = open_trial(self.study, params, distributions)

    def read_sampler_state(self, number: int) -> dict[str, Any]:
        """Return what the sampler has stored in a running trial, as plain JSON values.

        CMA-ES and NSGA-II keep their state in the trials that they draw.
        """
        return read_sampler_state(self.running[number])

    def restore_sampler_state(self, number: int, state: Mapping[str, Any]) -> None:
        """Store in a running trial what `read_sampler_state` returned."""
        restore_sampler_state(self.running[number], state)

    def withdraw(self, number: int) -> None:
        """End a trial that does not take place."""
        self.study.tell(self.running.pop(number), state=TrialState.FAIL)

    def report(self, number: int, epoch: int, miou: float) -> None:
        """Record the mIoU at an epoch, in 0..1. A second report of the same epoch is ignored.

        With several objectives, Optuna takes no report.
        """
        reported = self.reported.setdefault(number, set())
        if epoch not in reported and len(self.objectives) == 1:
            reported.add(epoch)
            self.running[number].report(miou, epoch)

    def tell(
        self,
        number: int,
        verdict: Verdict,
        mious: Mapping[int, float],
        measured: Measured = NOTHING,
    ) -> None:
        """End a trial according to its verdict; `mious` are all its validated mIoUs by epoch.

        completed: COMPLETE with the value of each objective. pruned or paused: PRUNED. unhealthy:
        PRUNED and infeasible. failed: FAIL. interrupted: the trial stays RUNNING, because it will
        be resumed.
        A trial that breaks a guard is infeasible, however it ended.
        """
        if verdict.state == "interrupted":
            return
        for epoch, miou in mious.items():
            self.report(number, epoch, miou)
        self.reported.pop(number, None)
        trial = self.running.pop(number)
        if verdict.reason:
            trial.set_user_attr("reason", verdict.reason)
        for name, excess in measured.constraints.items():
            trial.set_constraint(name, excess)
        has_no_score = verdict.state == "completed" and not mious
        if verdict.state not in TELLING_STATES or has_no_score:
            self.study.tell(trial, state=TrialState.FAIL)
            return
        known = KnownTrial.of({}, verdict.state, mious, measured)
        values = known.objective_values(self.objectives)
        if known.state == "unhealthy":
            # Samplers avoid infeasible points. The score of an unhealthy trial is not told, so that
            # the study's best value is that of a healthy trial.
            trial.set_constraint(UNHEALTHY, 1.0)
        if values is None:
            self.study.tell(trial, state=TrialState.PRUNED)
        else:
            self.study.tell(trial, values)


def open_trial(
    study: optuna.Study, params: dict[str, Any], distributions: dict[str, BaseDistribution]
) -> optuna.Trial:
    """Return a new running trial of `study` with these values.

    The documented way, `enqueue_trial` and `ask`, reads all trials of the study to find the
    enqueued one. Inserting the running trial costs the same however many trials there are.
    """
    # Optuna calls the study's sampler whenever a trial begins. This sampler has no model to fit.
    study.sampler = optuna.samplers.RandomSampler(seed=0)
    if _has_names(study, STUDY_NAMES, "starting a trial takes longer in a large study"):
        running = optuna.trial.create_trial(
            state=TrialState.RUNNING, params=params, distributions=distributions
        )
        trial_id = study._storage.create_new_trial(study._study_id, running)
        return optuna.Trial(study, trial_id)
    study.enqueue_trial(params)
    return study.ask(distributions)


def read_sampler_state(trial: optuna.Trial) -> dict[str, Any]:
    """Return what the sampler has stored in a trial, as plain JSON values.

    CMA-ES and NSGA-II keep their state in the trials that they draw. Empty if there is no way to
    read it.
    """
    if not _has_names(trial, TRIAL_NAMES, NO_SAMPLER_STATE):
        return {}
    return trial.storage.get_trial_system_attrs(trial._trial_id)


def restore_sampler_state(trial: optuna.Trial, state: Mapping[str, Any]) -> None:
    """Store in a trial what `read_sampler_state` returned; nothing if there is no way to do so."""
    if not _has_names(trial, TRIAL_NAMES, NO_SAMPLER_STATE):
        return
    for name, value in state.items():
        trial.storage.set_trial_system_attr(trial._trial_id, name, value)


def _has_names(owner: optuna.Study | optuna.Trial, names: tuple[str, ...], effect: str) -> bool:
    """Whether `owner` has these attributes. If not, warn of the effect of doing without them."""
    missing = [name for name in names if not hasattr(owner, name)]
    if missing:
        _warn_once(f"{type(owner).__name__}.{missing[0]}", effect)
    return not missing


@functools.cache
def _warn_once(name: str, effect: str) -> None:
    log.warning(
        "optuna %s has no %s: segtune uses Optuna's documented interface instead; %s",
        optuna.__version__,
        name,
        effect,
    )
