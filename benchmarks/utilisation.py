"""A real search: how long a trial takes to its first step, and what share of the workers' time goes into training (segtune/utilisation.py).

    python -m benchmarks.utilisation --trials 16
    python -m benchmarks.utilisation --trials 8 --workers 2 --config configs/camvid_segformer_b0.yaml --set data.root=../shared/camvid
    python -m benchmarks.utilisation --run runs/loss_weights-1

Launch: from the moment the sampler has drawn a trial to its first step. Busy: seconds in training steps and validations over the
seconds that the workers were there for, from the start of the search to its end. The first trials start in processes that have
to start and import everything; the others in theirs.
"""

import argparse
import tempfile
from pathlib import Path

from benchmarks.timing import show
from segtune.api import run_study
from segtune.runs.rundir import SearchDir
from segtune.runs.timeline import read_sessions, utilisation
from segtune.tuning.study import load_study


def measure(run: SearchDir) -> dict[str, str]:
    """Returns the row of a search that has ended."""
    used, sessions = utilisation(run), read_sessions(run)
    if not used:
        raise SystemExit(f"{run.path}: no search has ended here")
    return {
        "trials": str(len(run.trial_dirs())),
        "workers": f"{sessions[0].concurrent} x {sessions[0].workers}",
        "seconds": f"{sum(session.ended - session.began for session in sessions):.0f}",
        "launch of the first, s": _seconds(used.first_launch_s),
        "launch of the others, s (median)": _seconds(used.later_launch_s),
        "at most": _seconds(used.worst_launch_s),
        "busy": f"{100 * used.busy_share:.0f} %",
        "empty at the end": f"{100 * used.tail_share:.0f} %",
    }


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--run", type=Path, help="the folder of a search that has ended, instead of a new one"
    )
    parser.add_argument("--space", default="configs/loss_weights.yaml")
    parser.add_argument("--config")
    parser.add_argument("--trials", type=int, default=16)
    parser.add_argument("--workers", type=int, default=1, help="workers per trial")
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--out", type=Path, help="also write the table as JSON")
    arguments = parser.parse_args()
    if arguments.run:
        row, what = measure(SearchDir.open(arguments.run)), str(arguments.run)
    else:
        placed = {"trials": arguments.trials, "workers_per_trial": arguments.workers}
        study = load_study(arguments.space, arguments.config, arguments.set, placed)
        with tempfile.TemporaryDirectory() as folder:
            run_study(study, folder, "search")
            row, what = (
                measure(SearchDir(Path(folder) / "search")),
                arguments.config or arguments.space,
            )
    show(f"a search: {what}", [row], arguments.out)


if __name__ == "__main__":
    main()
