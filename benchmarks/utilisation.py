"""A real search, from its own files: how long a trial takes to its first step, and what share of the workers' time goes into training.

    python -m benchmarks.utilisation --trials 16
    python -m benchmarks.utilisation --trials 8 --workers 2 --config configs/camvid_segformer_b0.yaml --set data.root=../shared/camvid
    python -m benchmarks.utilisation --run runs/loss_weights-1 --concurrent 2

Launch: from the moment the sampler has drawn a trial to its first step. Busy: seconds in training steps and validations over the
seconds that the workers were there for, from the first draw to the last verdict. The first trials start in processes that have
to import everything; the others in theirs, unless they are groups.
"""

import argparse
import statistics
import tempfile
from pathlib import Path

from benchmarks.timing import show
from segtune.rundir import RunDir, TrialDir
from segtune.search import run_study
from segtune.study import load_study


def launch_s(trial: TrialDir) -> float | None:
    """Returns the seconds from the draw to the first step, None where there was no epoch."""
    rows = trial.read_epochs()
    return rows[0]["ended"] - rows[0]["seconds"] - trial.params.stat().st_mtime if rows else None


def measure(run: RunDir, concurrent: int, workers: int) -> dict[str, str]:
    """Returns the row of a search that has ended, of trials that were started once."""
    trials = run.trial_dirs()
    launches = [seconds for trial in trials if (seconds := launch_s(trial)) is not None]
    first, later = launches[:concurrent], launches[concurrent:] or launches
    begin = min(trial.params.stat().st_mtime for trial in trials)
    end = max(trial.verdict.stat().st_mtime for trial in trials)
    busy = sum(rows[-1]["seconds"] for trial in trials if (rows := trial.read_epochs()))
    return {
        "trials": str(len(trials)),
        "workers": f"{concurrent} x {workers}",
        "seconds": f"{end - begin:.0f}",
        "launch of the first, s": f"{statistics.median(first):.1f}",
        "launch of the others, s (median)": f"{statistics.median(later):.1f}",
        "at most": f"{max(later):.1f}",
        "busy": f"{100 * busy / (concurrent * (end - begin)):.0f} %",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="the folder of a search that has ended, instead of a new one")
    parser.add_argument("--space", default="configs/loss_weights.yaml")
    parser.add_argument("--config")
    parser.add_argument("--trials", type=int, default=16)
    parser.add_argument("--workers", type=int, default=1, help="workers per trial")
    parser.add_argument("--concurrent", type=int, help="trials at the same time; default: as many as two cores hold")
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--out", type=Path, help="also write the table as JSON")
    arguments = parser.parse_args()
    if arguments.run and not arguments.concurrent:
        parser.error("--run needs --concurrent: how many trials ran at the same time")
    concurrent = arguments.concurrent or max(1, 2 // arguments.workers)
    if arguments.run:
        row, what = measure(RunDir.open(arguments.run), concurrent, arguments.workers), str(arguments.run)
    else:
        placed = {"trials": arguments.trials, "workers_per_trial": arguments.workers, "max_concurrent": concurrent}
        study = load_study(arguments.space, arguments.config, arguments.set, placed)
        with tempfile.TemporaryDirectory() as folder:
            run_study(study, folder, "search")
            row, what = measure(RunDir(Path(folder) / "search"), concurrent, arguments.workers), arguments.config or arguments.space
    show(f"a search: {what}", [row], arguments.out)


if __name__ == "__main__":
    main()
