"""Validation on one rank: segtune against the plain way.

    python -m benchmarks.validation --set data.root=../shared/camvid

The plain way takes one image at a time, upsamples its logits to full size, and counts the labels on
the host. Both use the same network with random weights, and should arrive at the same confusion
matrix, except for pixels whose two best logits are equal within rounding. The difference is
printed. "Waits for data" is the share of the time in which the loop waits for the loader.
"""

import argparse
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from unittest import mock

import torch
import torch.nn.functional as F

from benchmarks.timing import Row, show_table, speedup, time_in_turns
from segtune.config.schema import load_config
from segtune.data import loader
from segtune.data.layouts import class_names
from segtune.data.loader import ValBatch, ValLoader, normalize
from segtune.metrics import ConfusionMatrix
from segtune.models.build import build_model
from segtune.training.distributed import Ranks
from segtune.training.evaluation import autocast_dtype, evaluate

PLAIN = "one image at a time"
SEGTUNE = "segtune"


class TimedBatches:
    """The batches of a loader, with the total time that was spent waiting for them."""

    def __init__(self, batches: Iterable[ValBatch]) -> None:
        self.batches = batches
        self.seconds = 0.0

    def __iter__(self) -> Iterator[ValBatch]:
        start = time.perf_counter()
        for batch in self.batches:
            self.seconds += time.perf_counter() - start
            yield batch
            start = time.perf_counter()


@torch.no_grad()
def evaluate_plainly(
    model: torch.nn.Module,
    data: Iterable[ValBatch],
    device: torch.device,
    precision: torch.dtype,
    matrix: ConfusionMatrix,
) -> ConfusionMatrix:
    """Count every batch of `data` in `matrix`, on the host, and return it."""
    for batch in data:
        with torch.autocast(device.type, dtype=precision, enabled=precision is not torch.float32):
            logits = model(normalize(batch.images.to(device)))
        logits = F.interpolate(
            logits.float(), size=batch.masks.shape[-2:], mode="bilinear", align_corners=False
        )
        matrix.update(logits.argmax(1).cpu(), batch.masks.long())
    return matrix


class Comparison:
    """Both ways to validate, and the confusion matrix that each arrived at last."""

    def __init__(self, config_path: str, overrides: list[str]) -> None:
        self.config = load_config(config_path, overrides)
        self.ranks = Ranks.join()
        self.num_classes = len(class_names(self.config.data))
        self.precision = autocast_dtype(self.config.optim.precision, self.ranks.device)
        torch.manual_seed(0)
        model = build_model(self.config.model, self.num_classes)
        self.model = model.to(self.ranks.device).eval()
        validation = ValLoader(self.config, rank=0, world_size=1)
        self.num_images = validation.num_images
        with mock.patch.object(loader, "VAL_BATCH", 1):
            singles = ValLoader(self.config.override({"data.cache": "none"}), rank=0, world_size=1)
        self.batches = {PLAIN: TimedBatches(singles), SEGTUNE: TimedBatches(validation)}
        self.matrices: dict[str, ConfusionMatrix] = {}

    @property
    def ways(self) -> Mapping[str, Callable[[], None]]:
        """Both ways by name, as calls that validate once."""
        return {PLAIN: self.validate_plainly, SEGTUNE: self.validate_with_segtune}

    def validate_plainly(self) -> None:
        """Validate one image at a time."""
        matrix = ConfusionMatrix(self.num_classes, self.config.data.ignore_index)
        device = self.ranks.device
        self.matrices[PLAIN] = evaluate_plainly(
            self.model, self.batches[PLAIN], device, self.precision, matrix
        )

    def validate_with_segtune(self) -> None:
        """Validate as the trainer does."""
        self.matrices[SEGTUNE] = evaluate(
            self.model,
            self.batches[SEGTUNE],
            self.ranks,
            self.config,
            self.num_classes,
            self.precision,
        )

    def difference(self) -> float:
        """Return how far the two matrices are apart, as a fraction of all pixels."""
        plain, ours = (self.matrices[name].matrix.cpu() for name in (PLAIN, SEGTUNE))
        return float((plain - ours).abs().sum() / plain.sum())

    def row(self, name: str, times: Mapping[str, list[float]]) -> Row:
        """Return the table row of one way. `times` has the seconds of the rounds of both ways."""
        seconds = times[name]
        # The waits include the round that warms up; the times do not.
        wait = self.batches[name].seconds / (len(seconds) + 1)
        mean = sum(seconds) / len(seconds)
        return {
            "validation": name,
            "images/s": f"{self.num_images / mean:.1f}",
            "times faster": f"{speedup(times[PLAIN], seconds):.2f}",
            "waits for data": f"{100 * wait / mean:.1f} %",
        }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", default="configs/camvid_segformer_b0.yaml")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--out", type=Path, help="also write the table as JSON")
    arguments = parser.parse_args()
    comparison = Comparison(arguments.config, arguments.set)
    times = time_in_turns(comparison.ways, arguments.repetitions)
    print(
        f"pixels counted as another class: {comparison.difference():.1e} of all "
        "(logits that are equal within rounding)"
    )
    title = (
        f"{comparison.num_images} validation images of {arguments.config}, "
        f"{comparison.ranks.device}"
    )
    show_table(title, [comparison.row(name, times) for name in times], arguments.out)


if __name__ == "__main__":
    main()
