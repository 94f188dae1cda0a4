"""How soon a search finds a good config: segtune against its peers, on recorded learning curves.

    python -m benchmarks.search --lcbench DIR --out results.jsonl
    python -m benchmarks.search --tasks shapes --methods "random,segtune gp" --seeds 5 --out FILE

Every method gets the same budget of epochs on the same virtual clock, and begins with the config
itself. Searches that the file already holds are not run again. Peers that are not installed with
segtune need an interpreter each: see methods/peer.py.
"""

import argparse
import json
import sys
from pathlib import Path

from benchmarks.search.methods.registry import METHODS, check_methods
from benchmarks.search.runs import Plan, finished, run_all, task_names
from segtune.errors import SegtuneError


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", help="names, separated by commas (default: all)")
    parser.add_argument(
        "--methods", help="names of METHODS or PEERS, separated by commas (default: all METHODS)"
    )
    parser.add_argument("--lcbench", type=Path, help="folder of LCBench (see lcbench.py)")
    parser.add_argument("--seeds", type=int, default=30)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--trainings", type=int, default=10, help="budget in full training runs")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    methods = arguments.methods.split(",") if arguments.methods else list(METHODS)
    try:
        check_methods(methods)
    except SegtuneError as error:
        sys.exit(str(error))
    tasks = arguments.tasks.split(",") if arguments.tasks else task_names(arguments.lcbench)
    plans = [
        Plan(task, method, seed, arguments.workers, arguments.trainings)
        for seed in range(arguments.seeds)
        for task in tasks
        for method in methods
    ]
    done = finished(arguments.out)
    missing = [plan for plan in plans if plan not in done]
    for row in run_all(missing, arguments.lcbench, arguments.processes):
        with arguments.out.open("a") as file:
            file.write(json.dumps(row, separators=(",", ":")) + "\n")
        print(row["task"], row["method"], row["seed"], row["seconds"], flush=True)


if __name__ == "__main__":
    main()
