"""How often `segtune confirm` is wrong, and how often it finds a better trial: 1,000 searches each.

    python -m benchmarks.confirmation
    python -m benchmarks.confirmation --searches 200 --seed 1

Nothing is trained. A search draws 20 candidates and ranks them by one score each, which is the true
score plus noise. The best three and the baseline then get fresh seeds. `first` is the verdict after
three seeds. `advised` follows the advice "needs about N more seeds" once, if there is one. The
table in docs/results.md is the output.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.timing import Row, show_table
from segtune.checks.confirmation import Comparison, compare

NOISE = 0.01  # standard deviation of one training run, in mIoU of 0..1
NUM_CANDIDATES = 20
TOP = 3
FIRST_SEEDS = 3


@dataclass(frozen=True)
class World:
    """What is true of the configs. Gains and spreads are in units of NOISE."""

    name: str
    gain: float = 0.0  # of the better candidates over the baseline
    num_better: int = 1
    spread: float = 1.0  # of the candidates; that of the baseline is 1
    shared: float = 0.0  # fraction of the variance that all configs have in common with a seed
    heavy_tails: bool = False  # Student's t with 4 degrees of freedom, scaled to a variance of 1

    @property
    def gains(self) -> np.ndarray:
        """The true gain of each candidate; the better ones come first."""
        return NOISE * self.gain * (np.arange(NUM_CANDIDATES) < self.num_better)

    def noise(self, rng: np.random.Generator, num_configs: int, num_seeds: int) -> np.ndarray:
        """Return noise of variance 1 [configs, seeds]."""

        def draw(*shape: int) -> np.ndarray:
            if self.heavy_tails:
                return rng.standard_t(4, shape) / np.sqrt(2)
            return rng.standard_normal(shape)

        own, of_seed = draw(num_configs, num_seeds), draw(1, num_seeds)
        return np.sqrt(1 - self.shared) * own + np.sqrt(self.shared) * of_seed


WORLDS = (
    World("no difference"),
    World("no difference; seeds matter for all configs alike", shared=0.7),
    World("no difference; candidates spread twice as far", spread=2.0),
    World("no difference; candidates spread half as far", spread=0.5),
    World("no difference; heavy tails", heavy_tails=True),
    World("one candidate better by twice the noise", gain=2.0),
    World("five candidates better by twice the noise", gain=2.0, num_better=5),
)


@dataclass(frozen=True)
class Outcome:
    """How the confirmation of one search ended."""

    first: bool  # "better" was said of a candidate after FIRST_SEEDS
    advised: bool  # "better" was said then, or after the advised number of seeds
    is_confirmed: bool  # a better candidate is among the TOP
    is_found: bool  # "better" was said of a better candidate
    num_seeds: int  # in the end


class Trainings:
    """The scores of the baseline and of the chosen candidates with fresh seeds."""

    def __init__(self, world: World, rng: np.random.Generator) -> None:
        one_score = world.gains + NOISE * world.spread * world.noise(rng, NUM_CANDIDATES, 1)[:, 0]
        chosen = np.argsort(-one_score)[:TOP]
        self.world, self.rng = world, rng
        self.gains = world.gains[chosen]
        self.scores = np.empty((TOP + 1, 0))

    def add(self, num_seeds: int) -> None:
        """Train every config with so many more seeds."""
        noise = NOISE * self.world.noise(self.rng, TOP + 1, num_seeds)
        noise[1:] *= self.world.spread
        true = 0.5 + np.concatenate([[0.0], self.gains])
        self.scores = np.hstack([self.scores, true[:, None] + noise])

    def compare(self, looks: int) -> Sequence[Comparison]:
        """Return the comparison of each chosen candidate with the baseline."""
        baseline, *candidates = self.scores.tolist()
        return compare(baseline, candidates, looks)


def confirm(world: World, rng: np.random.Generator, first_seeds: int = FIRST_SEEDS) -> Outcome:
    """Search, confirm with `first_seeds`, and follow the advice of the confirmation once.

    The advice is that of the candidate with the largest gain, as `segtune confirm` prints it.
    """
    trainings = Trainings(world, rng)
    trainings.add(first_seeds)
    comparisons = trainings.compare(looks=1)
    first = any(c.outcome == "better" for c in comparisons)
    best = max(comparisons, key=lambda c: c.gain or 0.0)
    if not first and best.more_seeds:
        trainings.add(best.more_seeds)
        comparisons = trainings.compare(looks=2)
    better = [c.outcome == "better" for c in comparisons]
    is_found = any(np.array(better) & (trainings.gains > 0))
    num_seeds = trainings.scores.shape[1]
    return Outcome(first, any(better), bool(trainings.gains.any()), is_found, num_seeds)


def share(flags: Sequence[bool]) -> float:
    """Return the fraction that is True; NaN of none."""
    return float(np.mean(flags)) if len(flags) else float("nan")


def row(world: World, num_searches: int, seed: int) -> Row:
    """Return the row of the table for a world."""
    rng = np.random.default_rng(seed)
    ends = [confirm(world, rng) for _ in range(num_searches)]
    among_top = [end for end in ends if end.is_confirmed]
    found = f"{100 * share([end.is_found for end in among_top]):.0f} %" if world.gain else "-"
    in_top = f"{100 * share([end.is_confirmed for end in ends]):.0f} %" if world.gain else "-"
    return {
        "what is true": world.name,
        '"better", first': f"{100 * share([end.first for end in ends]):.1f} %",
        '"better", advised': f"{100 * share([end.advised for end in ends]):.1f} %",
        "a better one in the top 3": in_top,
        "of these found": found,
        "seeds, median": int(np.median([end.num_seeds for end in ends])),
    }


def power_row(num_seeds: int, num_searches: int, seed: int) -> Row:
    """Return how often one look at `num_seeds` finds one better candidate of the top 3, by gain."""
    result: Row = {"seeds": num_seeds}
    for gain in (1.0, 2.0, 3.0, 4.0):
        rng = np.random.default_rng(seed)
        found = []
        while len(found) < num_searches:
            trainings = Trainings(World("", gain=gain), rng)
            if trainings.gains.any():
                trainings.add(num_seeds)
                better = [c.outcome == "better" for c in trainings.compare(looks=1)]
                found.append(any(np.array(better) & (trainings.gains > 0)))
        result[f"gain {gain:g} x noise"] = f"{100 * share(found):.0f} %"
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description="Simulate confirmations of searches.")
    parser.add_argument("--searches", type=int, default=1000, metavar="N", help="per row")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    rows = [row(world, arguments.searches, arguments.seed) for world in WORLDS]
    show_table(f"verdicts of {arguments.searches} searches", rows, arguments.json)
    rows = [power_row(n, arguments.searches, arguments.seed) for n in (2, 3, 4, 5, 7, 10)]
    show_table("better candidates that one look finds, if they are in the top 3", rows, None)


if __name__ == "__main__":
    main()
