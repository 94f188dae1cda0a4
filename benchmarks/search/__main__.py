"""How soon a search finds a good config: segtune against its peers, on recorded learning curves.

    python -m benchmarks.search --lcbench DIR --out results.jsonl
    python -m benchmarks.search --tasks shapes --methods random "segtune gp" --seeds 5 --out FILE

Every method gets the same budget of epochs on the same virtual clock, and begins with the config
itself. Searches that the file already holds are not run again. Peers that are not installed with
segtune need an interpreter each: see methods/peer.py.
"""

import argparse
import json
from pathlib import Path

from benchmarks.search.methods.registry import METHODS, check_methods
from benchmarks.search.runs import Plan, check_task, finished, run_all, task_names
from segtune.errors import SegtuneError


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", nargs="+", metavar="NAME", help="default: all")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), metavar="NAME")
    parser.add_argument("--lcbench", type=Path, help="folder of LCBench (see lcbench.py)")
    parser.add_argument("--seeds", type=int, default=30)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--trainings", type=int, default=10, help="budget in full training runs")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    tasks = arguments.tasks or task_names(arguments.lcbench)
    try:
        check_methods(arguments.methods)
        for task in tasks:
            check_task(task, arguments.lcbench)
        if not tasks:
            raise SegtuneError("no task: give --lcbench DIR, or record curves (record_curves.py)")
    except SegtuneError as error:
        raise SystemExit(f"error: {error}") from None
    plans = [
        Plan(task, method, seed, arguments.workers, arguments.trainings)
        for seed in range(arguments.seeds)
        for task in tasks
        for method in arguments.methods
    ]
    done = finished(arguments.out)
    missing = [plan for plan in plans if plan not in done]
    for row in run_all(missing, arguments.lcbench, arguments.processes):
        with arguments.out.open("a") as file:
            file.write(json.dumps(row, separators=(",", ":")) + "\n")
        print(row["task"], row["method"], row["seed"], row["seconds"], flush=True)


if __name__ == "__main__":
    main()
