"""A real search: how long trials take to start, and what the workers' time is spent on.

    python -m benchmarks.utilisation --trials 16
    python -m benchmarks.utilisation --trials 8 --workers 2 \\
        --config configs/camvid_segformer_b0.yaml --set data.root=../shared/camvid
    python -m benchmarks.utilisation --run runs/loss_weights-1

Launch: from the draw of a trial to its first step. The first trial of each slot waits until its
process has started and has imported everything; later trials start in a process that already runs.
Busy: the fraction of the workers' time, from the start of the search to its end, that went into
training steps and validations. See `segtune/runs/timeline.py`.
"""

import argparse
import tempfile
from pathlib import Path

from benchmarks.timing import Row, show_table
from segtune.api import run_study
from segtune.runs.rundir import SearchDir
from segtune.runs.timeline import read_sessions, utilisation
from segtune.tuning.study_reader import load_study


def measure(run: SearchDir) -> Row:
    """Return the row of a search that has ended. Raise SystemExit if none has ended there."""
    spent = utilisation(run)
    if not spent:
        raise SystemExit(f"{run.path}: no search has ended here")
    sessions = read_sessions(run)
    return {
        "trials": len(run.trial_dirs()),
        "workers": f"{sessions[0].concurrent} x {sessions[0].workers}",
        "seconds": f"{sum(session.seconds for session in sessions):.0f}",
        "launch of the first, s": _seconds(spent.first_launch_s),
        "launch of the others, s (median)": _seconds(spent.later_launch_s),
        "at most": _seconds(spent.worst_launch_s),
        "busy": f"{100 * spent.busy_share:.0f} %",
        "idle at the end": f"{100 * spent.tail_share:.0f} %",
    }


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def search(arguments: argparse.Namespace) -> Row:
    """Run a new search in a temporary folder, and return its row."""
    limits = {"trials": arguments.trials, "workers_per_trial": arguments.workers}
    study = load_study(arguments.space, arguments.config, arguments.set, limits)
    with tempfile.TemporaryDirectory() as folder:
        run_study(study, folder, "search")
        return measure(SearchDir(Path(folder) / "search"))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--run", type=Path, help="the folder of a search that has ended, instead of a new search"
    )
    parser.add_argument("--space", default="configs/loss_weights.yaml", help="a study or a space")
    parser.add_argument("--config")
    parser.add_argument("--trials", type=int, default=16)
    parser.add_argument("--workers", type=int, default=1, help="workers per trial")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--out", type=Path, help="also write the table as JSON")
    arguments = parser.parse_args()
    if arguments.run:
        title = str(arguments.run)
        row = measure(SearchDir.open(arguments.run))
    else:
        title = arguments.config or arguments.space
        row = search(arguments)
    show_table(f"a search: {title}", [row], arguments.out)


if __name__ == "__main__":
    main()
