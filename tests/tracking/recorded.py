"""Train and record, and read what TensorBoard shows."""

from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from segtune.config.schema import ExperimentConfig
from segtune.runs.rundir import TrialDir
from segtune.tracking.open import recorders
from segtune.training.distributed import Ranks
from segtune.training.trainer import Trainer


def train(config: ExperimentConfig, path: Path, *, last: int | None = None, how: str = "") -> None:
    """Train and record as `log.to` asks for; stop after epoch `last`, as if it were killed."""
    start = Trainer.resume if how == "resume" else Trainer.start
    options = {"overwrite": True} if how == "overwrite" else {}
    trainer = start(config, TrialDir(path), Ranks(), listeners=recorders(config.log), **options)
    for record in trainer.epochs():
        if record.epoch == last:
            break


def events(folder: Path) -> EventAccumulator:
    """Read the event files of a folder, with all points and images."""
    return EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0}).Reload()


def points(folder: Path, name: str) -> list[int]:
    """Return the positions of the points of a curve."""
    return [point.step for point in events(folder).Scalars(name)]
