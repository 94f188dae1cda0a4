"""What a trial costs the driver: sampler and scheduler over 10,000 trials of fake training, with every file that a search writes.

python -m benchmarks.search_overhead --trials 10000
"""

import argparse
import resource
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import optuna
from rich.console import Console
from rich.table import Table

from benchmarks.tasks import CONFIG, SPACE
from segtune.cluster.tune_scheduler import StoppingRuleScheduler
from segtune.cluster.tune_searcher import StudySearcher
from segtune.runs.rundir import SearchDir
from segtune.runs.verdict import Verdict
from segtune.tuning.stopping import stopping_rule
from segtune.tuning.study import load_study

EPOCHS = 9


def fake_score(params: dict, epoch: int) -> float:
    """A smooth hill over the rate and the Dice weight, climbed over the epochs."""
    hill = 1 / (1 + abs(np.log10(params["optim.lr"]) + 3) + 0.1 * params["loss.dice.weight"])
    return float(hill * (1 - 0.5 ** (epoch + 1)))


class Driver:
    """Plays the part of Tune for one trial after another and takes the time."""

    def __init__(self, folder: Path, trials: int, sampler: str) -> None:
        study = load_study(
            SPACE, CONFIG, [f"schedule.epochs={EPOCHS}"], {"trials": trials, "sampler": sampler}
        )
        self.run = SearchDir(folder / "run")
        self.sampler = StudySearcher.from_run(study, self.run)
        self.scheduler = StoppingRuleScheduler(stopping_rule(study))

    def trial(self, index: int) -> tuple[float, float, float]:
        """Returns the seconds of suggest, of results and end, and of what the trial's own process writes."""
        name, start = str(index), time.perf_counter()
        drawn = self.sampler.suggest(name)
        suggested, told, written = time.perf_counter() - start, 0.0, 0.0
        folder, state = self.run.trial(drawn["number"]), "completed"
        for epoch in range(1, EPOCHS + 1):
            row = {
                "epoch": epoch,
                "step": epoch,
                "miou": fake_score(drawn["params"], epoch),
                "seconds": 1.0,
            }
            start = time.perf_counter()
            folder.append_epoch(row)
            middle = time.perf_counter()
            self.sampler.on_trial_result(name, row)
            decision = self.scheduler.on_trial_result(None, SimpleNamespace(config=drawn), row)  # pyright: ignore[reportArgumentType]
            written, told = written + middle - start, told + time.perf_counter() - middle
            if decision == "STOP":
                state = "pruned"
                break
        if state == "completed":
            folder.write_verdict(Verdict(state="completed", epoch=EPOCHS))
        start = time.perf_counter()
        self.sampler.on_trial_complete(name, row)
        return suggested, told + time.perf_counter() - start, written


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--sampler", default="tpe")
    parser.add_argument("--window", type=int, default=100, help="trials of which a median is taken")
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    shown = Table(
        "trial",
        "suggest, ms",
        "results and end, ms",
        "both, ms",
        "p95, ms",
        "the trial's files, ms",
        "memory, MiB",
    )
    with tempfile.TemporaryDirectory() as folder:
        driver, times = Driver(Path(folder), arguments.trials, arguments.sampler), []
        for index in range(arguments.trials):
            times.append(driver.trial(index))
            if index + 1 in {arguments.window, 1000, 5000, arguments.trials}:
                last = 1000 * np.array(times[-arguments.window :])
                both = last[:, 0] + last[:, 1]
                memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
                numbers = [
                    *np.median(last[:, :2], axis=0),
                    np.median(both),
                    np.percentile(both, 95),
                    np.median(last[:, 2]),
                    memory,
                ]
                shown.add_row(str(index + 1), *(f"{n:.1f}" for n in numbers))
                print(shown.rows[-1] and f"{index + 1}: {np.median(both):.1f} ms", flush=True)
    Console(width=140).print(shown)


if __name__ == "__main__":
    main()
