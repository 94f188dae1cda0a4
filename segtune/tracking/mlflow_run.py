"""A training run in MLflow (extra `mlflow`): on a server, or in a database file on this disk."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np

from segtune.config.log_config import SQLITE, LogConfig
from segtune.config.settings import values_by_name
from segtune.runs.environment import without_passwords
from segtune.runs.rundir import search_of
from segtune.runs.verdict import Verdict
from segtune.tracking.tracker import Axis, TrackedRun, Tracker, as_hyperparameter

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

log = logging.getLogger(__name__)

NAME = "mlflow"
URI_VARIABLE = "MLFLOW_TRACKING_URI"
# By default, MLflow tries for four minutes to reach a server.
RETRIES_VARIABLE = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"
NUM_RETRIES = 3
# MLflow's limits on one call, and on the length of a value.
MAX_PARAMS = 100
MAX_VALUE = 500
# MLflow refuses other characters in the names of curves and images.
NOT_ALLOWED = re.compile(r"[^\w\-. /]", re.ASCII)


class MlflowRun(Tracker):
    """Passes a training run on to MLflow, as one run of an experiment.

    Points over epochs have the epoch as their step, all others the optimiser step.
    """

    def begin(self, run: TrackedRun) -> None:
        """Begin a run, or continue it after a resume. Tags name the search and the trial."""
        from mlflow.tracking import MlflowClient

        quiet()
        uri, artifacts = tracking_places(run.config.log, run.out.path)
        self._client = MlflowClient(tracking_uri=uri)
        self._experiment = _experiment(self._client, run.config.log.project, artifacts)
        self._id = run.tracker_id(NAME) or self._create(run)
        self._client.update_run(self._id, status="RUNNING")
        run.keep_tracker_id(NAME, self._id)
        project, place = run.config.log.project, without_passwords(uri)
        log.info("mlflow: run %s of experiment %s in %s", self._id, project, place)

    def _create(self, run: TrackedRun) -> str:
        from mlflow.entities import Param

        tags = {"segtune.folder": str(run.out.path)}
        if run.group:
            tags |= {"segtune.search": run.group, "segtune.trial": run.name}
        name = f"{run.group}/{run.name}" if run.group else run.name
        created = self._client.create_run(self._experiment, tags=tags, run_name=name)
        values = values_by_name(run.settings) | dict(run.hyperparameters)
        params = [
            Param(name, str(as_hyperparameter(value))[:MAX_VALUE]) for name, value in values.items()
        ]
        for start in range(0, len(params), MAX_PARAMS):
            self._client.log_batch(created.info.run_id, params=params[start : start + MAX_PARAMS])
        return created.info.run_id

    def add(self, values: Mapping[str, float], axis: Axis, position: int) -> None:
        """Add a point of several curves."""
        from mlflow.entities import Metric

        now_ms = int(time.time() * 1000)
        points = [Metric(plain(name), value, now_ms, position) for name, value in values.items()]
        self._client.log_batch(self._id, metrics=points)

    def add_images(self, images: Mapping[str, np.ndarray], epoch: int) -> None:
        """Add images by name."""
        for name, image in images.items():
            self._client.log_image(self._id, image, key=plain(name), step=epoch)

    def end(self, summary: Mapping[str, float], verdict: Verdict | None) -> None:
        """Add the final values, and say how the training run ended."""
        for name, value in summary.items():
            self._client.log_metric(self._id, plain(name), value)
        if verdict:
            self._client.set_tag(self._id, "segtune.state", verdict.state)
            self._client.set_tag(self._id, "segtune.reason", verdict.reason)
        ends = {"completed": "FINISHED", None: "KILLED"}
        self._client.set_terminated(self._id, ends.get(verdict and verdict.state, "FAILED"))


def quiet() -> None:
    """Keep MLflow from announcing new tables and retries, and from trying for minutes."""
    os.environ.setdefault(RETRIES_VARIABLE, str(NUM_RETRIES))
    for library in ("mlflow", "alembic", "urllib3.connectionpool"):
        logging.getLogger(library).setLevel(logging.ERROR)


def tracking_places(config: LogConfig, folder: Path) -> tuple[str, str | None]:
    """Return the tracking URI and the URI of the images; None: as MLflow's server decides.

    The first is `log.mlflow_uri` or that of the environment, otherwise a database in `folder`, the
    folder of a training run or of its search run. A database file is created if there is none.
    """
    while search := search_of(folder):  # a trial of `segtune confirm` belongs to two search runs
        folder = search.path
    chosen = config.mlflow_uri or os.environ.get(URI_VARIABLE)
    uri = chosen or f"{SQLITE}{folder / 'mlflow.db'}"
    if not uri.startswith(SQLITE):
        return uri, None
    database = Path(uri.removeprefix(SQLITE)).absolute()
    if not database.exists():
        _create_database(database)
    # MLflow's default for the images is the working directory, which a worker of Ray loses.
    return f"{SQLITE}{database}", (database.parent / "mlartifacts").as_uri()


def _create_database(path: Path) -> None:
    """Create an empty database for MLflow, which takes seconds. It appears at once.

    Two processes that create the tables of one file at the same time damage it.
    """
    from mlflow.tracking import MlflowClient

    path.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".mlflow-", dir=path.parent) as folder:
        temporary = Path(folder) / path.name
        MlflowClient(tracking_uri=f"{SQLITE}{temporary}").search_experiments()
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)


def plain(name: str) -> str:
    """Return the name of a curve with the characters that MLflow takes."""
    return NOT_ALLOWED.sub("_", name)


def _experiment(client: MlflowClient, name: str, artifacts: str | None) -> str:
    """Return the id of the experiment of this name, created if there is none."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return client.create_experiment(name, artifacts)
        except MlflowException:  # another trial has just created it
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    return found.experiment_id
