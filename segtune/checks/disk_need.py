"""How much space the files of a search run take, and a search that does not fit. Writes nothing."""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass
from pathlib import Path

from segtune.checks.findings import percent
from segtune.errors import RunError
from segtune.runs.kept_checkpoints import GRACE_S
from segtune.runs.rundir import SearchDir
from segtune.tuning.study import Study

# Sizes of the files of a search run that do not depend on the network, measured in searches on the
# generated shapes: config, parameters, verdict and event files of a trial; an epoch's record and
# TensorBoard events, with one point over steps, and the same for one class; Ray's own files; the
# page of the report.
TRIAL_BYTES = 63_000
EPOCH_BYTES = 2_900
CLASS_BYTES = 90
RAY_BYTES = 40_000  # per trial
REPORT_BYTES = 2_000_000  # with its pictures
# A checkpoint is written beside the earlier ones before one of them is removed; and the forecast of
# the number of checkpoints is uncertain.
MARGIN = 0.2
# Checkpoints that a trial keeps to resume from (`training.checkpoint.NUM_LAST_KEPT`).
NUM_LAST_KEPT = 2
# Bundles for `segtune replay`, each about as large as a checkpoint: a search keeps one of each kind
# (`training.replay_bundle.KINDS`).
NUM_BUNDLES = 2


@dataclass(frozen=True)
class DiskNeed:
    """The space that a search run takes, in bytes."""

    checkpoints: int  # at the end
    checkpoints_peak: int  # at most, while trials run; with the bundles for `segtune replay`
    records: int  # everything else

    @property
    def at_the_end(self) -> int:
        """Bytes of the run folder after the last trial."""
        return self.checkpoints + self.records

    @property
    def peak(self) -> int:
        """The most bytes of the run folder, without a margin."""
        return self.checkpoints_peak + self.records


def disk_need(
    study: Study,
    *,
    checkpoint_bytes: float,
    largest_checkpoint: float,
    num_slots: int,
    num_classes: int,
    num_epochs: float,
    slot_s: float | None,
) -> DiskNeed:
    """Return the space that a search run takes.

    `checkpoint_bytes` is the size of a full checkpoint of an average trial. `num_epochs` are those
    of all trials. `slot_s` is how long a trial holds its slot on average, if it is known.
    """
    keep = study.config.checkpoint.keep_trials
    num_kept = study.num_trials
    if keep is not None and not study.search.has_front:  # any trial may be on the front
        num_kept = min(keep + 1, num_kept)  # trial 0 besides the best
    num_kept = min(study.num_trials, num_kept + study.max_paused)
    # A trial that has ended keeps its checkpoints for a while, see `KeptCheckpoints`.
    per_slot = 2 if slot_s is None else 1 + math.ceil(GRACE_S / max(slot_s, 0.1))
    num_peak = min(study.num_trials, num_kept + num_slots * per_slot)
    records = study.num_trials * (TRIAL_BYTES + RAY_BYTES) + REPORT_BYTES
    records += round(num_epochs * (EPOCH_BYTES + CLASS_BYTES * num_classes))
    return DiskNeed(
        checkpoints=round(num_kept * _trial_bytes(study, checkpoint_bytes)),
        checkpoints_peak=round(
            num_peak * _trial_bytes(study, largest_checkpoint) + NUM_BUNDLES * largest_checkpoint
        ),
        records=records,
    )


def _trial_bytes(study: Study, checkpoint_bytes: float) -> float:
    """Return the bytes of the checkpoints of one trial at its end."""
    config = study.trial_config({})
    num_last = math.ceil(config.schedule.epochs / config.checkpoint.every)
    if study.search.pauses:  # one more at each rung
        num_last += len(study.rungs())
    num_last = min(NUM_LAST_KEPT, num_last)
    # The best weights so far, and those that were the best at each of the last checkpoints.
    num_best = 1 + num_last if config.checkpoint.every > config.schedule.val_every else 2
    # AdamW holds two numbers per weight, SGD one; the average of the weights is one more.
    parts = (3 if config.optim.name == "adamw" else 2) + bool(config.optim.ema)
    return num_last * checkpoint_bytes + num_best * checkpoint_bytes / parts


def folder_bytes(folder: Path) -> int:
    """Return the bytes of all files in a folder. Files that vanish meanwhile are left out."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.lstat().st_size if path.is_file() else 0
        except OSError:
            continue
    return total


def search_bytes(run: SearchDir) -> int:
    """Return the bytes of a search run without those of the training runs inside it.

    These are the trials at full length after a proxy, the confirmation, and the retrained winner.
    """
    inside = (run.full.path, run.confirm.path, run.retrained.path)
    return folder_bytes(run.path) - sum(map(folder_bytes, inside))


def free_bytes(folder: Path) -> int:
    """Return the free space of the file system that holds a folder, which need not exist yet."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def refuse_full_disk(study: Study, run: SearchDir, need: DiskNeed) -> None:
    """Raise RunError if the disk of the run folder has less space than the search needs."""
    wanted = round(need.peak * (1 + MARGIN)) - search_bytes(run)
    free = free_bytes(run.path)
    if wanted <= free:
        return
    ways = ["use --out on another disk"]
    keep = study.config.checkpoint.keep_trials
    if not study.search.has_front and (keep is None or keep > 1):
        now = "all" if keep is None else str(keep)
        ways.append(f"keep the checkpoints of fewer trials (checkpoint.keep_trials=1, now {now})")
    if study.max_paused > len(study.rungs()):
        ways.append("let fewer trials wait (search.scheduler.asha.max_paused=1)")
    epochs = study.epochs
    if study.trial_config({}).checkpoint.every < epochs:
        ways.append(f"write one full checkpoint per trial (checkpoint.every={epochs})")
    raise RunError(
        f"{run.path}: the disk has {format_bytes(free)} free, and the search needs about "
        f"{format_bytes(wanted)} more: {format_bytes(need.checkpoints_peak)} of checkpoints while "
        f"trials run, {format_bytes(need.records)} of records and the report, and a margin of "
        f"{percent(MARGIN)}; {', or '.join(ways)}; --no-check starts the search in spite of this"
    )


def format_bytes(number: float) -> str:
    """Return a number of bytes with a unit: `38 MB`."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if number >= size:
            value = number / size
            return f"{value:.1f} {unit}" if value < 10 else f"{value:.0f} {unit}"
    return f"{number / 1e3:.0f} kB"
