"""How far the mIoU of one config varies with the seed, as RUN/noise_floor.json holds it.

Reads and writes no file. Scores in the record are in 0..1, in words in per cent.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from typing import Any


def noise_floor_record(num_seeds: int, scores: Mapping[int, float]) -> dict[str, Any]:
    """Return the record of the config itself, trained with `num_seeds` seeds, as JSON values.

    `scores` has the mIoU by seed, without the seeds with which it did not complete.
    """
    from segtune import __version__

    values = list(scores.values())
    return {
        "version": __version__,
        "written": round(time.time(), 3),
        "num_seeds": num_seeds,
        "scores": {str(seed): score for seed, score in scores.items()},
        "mean": statistics.mean(values) if values else None,
        "std": statistics.stdev(values) if len(values) > 1 else None,
    }


def noise_words(record: Mapping[str, Any]) -> str:
    """Return in words how far the config itself varies."""
    num_scores = len(record["scores"])
    if record["std"] is None:
        return f"the config itself has completed with {num_scores} of {record['num_seeds']} seeds"
    std = f"{100 * record['std']:.2f} mIoU"
    return f"the config itself varies by {std} (standard deviation of {num_scores} fresh seeds)"
