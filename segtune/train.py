"""`segtune train`: trains one config, in this process, under torchrun, or on a Ray worker group."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from segtune.cli import add_config_arguments, run_command
from segtune.config import ExperimentConfig, absolute_paths, load_config
from segtune.errors import RunError
from segtune.rundir import TrialDir
from segtune.verdict import Verdict

log = logging.getLogger("segtune.train")  # under `python -m` __name__ is __main__


@dataclass(frozen=True)
class TrainResult:
    """What a training run leaves behind."""

    best_miou: float  # in 0..1
    checkpoint: Path | None  # the weights of the best validation
    verdict: Verdict


def run_training(config: ExperimentConfig, out: str | Path, *, resume: bool = False, init_from: str | Path | None = None) -> TrainResult:
    """Trains a config in this process (or as one rank under torchrun) and returns the best validated mIoU.

    Raises RunError where `out` already holds a run and `resume` is not asked for, and SegtuneError for data, weights
    and checkpoints that do not fit. A run that ends unhealthy is a result, not an error: see `verdict`.
    """
    from segtune.distributed import Ranks, leave
    from segtune.trainer import Trainer

    trial = TrialDir(Path(out).absolute())
    check_folder(trial, resume)
    ranks = Ranks.join()
    try:
        trainer = Trainer(absolute_paths(config), trial, ranks, resume=resume, init_from=Path(init_from) if init_from else None)
        for report in trainer.epochs():
            if ranks.is_first:
                log.info("%s", epoch_line(report.row, config.schedule.epochs))
    except KeyboardInterrupt:
        if ranks.is_first:
            log.warning("interrupted; go on with: segtune train --config %s --out %s --resume", trial.config, out)
        raise
    finally:
        leave()
    return result_of(trial)


def check_folder(trial: TrialDir, resume: bool) -> None:
    """Raises RunError where a new run would overwrite an earlier one."""
    if not resume and (trial.epochs.exists() or any(trial.checkpoints.glob("*-*"))):
        raise RunError(f"{trial.path}: holds a run already; continue it with --resume, or choose another --out")


def result_of(trial: TrialDir) -> TrainResult:
    """Reads what a finished run has left in its folder."""
    from segtune import checkpoint

    verdict = trial.read_verdict() or Verdict(state="interrupted")
    return TrainResult(_best_miou(trial), checkpoint.best(trial.checkpoints), verdict)


def _best_miou(trial: TrialDir) -> float:
    return max((row["miou"] for row in trial.read_epochs() if row.get("miou") is not None), default=0.0)


def epoch_line(row: dict, epochs: int) -> str:
    """Returns one epoch as a line for the terminal."""
    terms = " ".join(f"{name} {row[name]:.4f}" for name in ("loss", "focal", "dice", "ce") if name in row)
    score = f"  mIoU {100 * row['miou']:.2f}  aAcc {100 * row['aacc']:.2f}" if "miou" in row else ""
    return f"epoch {row['epoch']}/{epochs}  {terms}  lr {row['lr']:.2e}  {row['seconds']:.1f} s{score}"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="segtune train", description="Train one config.")
    add_config_arguments(parser)
    parser.add_argument("--out", required=True, help="folder of the run; checkpoints, epochs.jsonl and verdict.json are written there")
    parser.add_argument(
        "--workers", type=int, default=1, help="ranks; two or more train with DDP on a Ray worker group (default: 1, this process)"
    )
    parser.add_argument("--address", help="Ray cluster for --workers 2 or more: auto or host:port; default: a local one")
    start = parser.add_mutually_exclusive_group()
    start.add_argument("--resume", action="store_true", help="continue the run in --out exactly where its last checkpoint is")
    start.add_argument("--init-from", metavar="CKPT", help="take the weights of a checkpoint, with a fresh optimiser and schedule")
    arguments = parser.parse_args(argv)
    return run_command(lambda: _train(arguments))


def _train(arguments: argparse.Namespace) -> int:
    config = load_config(arguments.config, arguments.set)
    if arguments.workers > 1:
        from segtune.cluster.trial import train_on_workers

        check_folder(TrialDir(Path(arguments.out).absolute()), arguments.resume)
        train_on_workers(
            absolute_paths(config), Path(arguments.out).absolute(), arguments.workers, address=arguments.address,
            resume=arguments.resume, init_from=arguments.init_from,
        )  # fmt: skip
        result = result_of(TrialDir(Path(arguments.out).absolute()))
    else:
        result = run_training(config, arguments.out, resume=arguments.resume, init_from=arguments.init_from)
    if result.verdict.state != "completed":
        log.error("%s: %s", result.verdict.state, result.verdict.reason)
        return 3
    log.info("best mIoU %.2f; checkpoint %s", 100 * result.best_miou, result.checkpoint)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
