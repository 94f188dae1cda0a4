"""Validation of one rank: ours against the plain way, one image at a time with logits and labels of full size on the host.

    python -m benchmarks.validation --set data.root=../shared/camvid

The network is the same and its weights are random; both should count the same confusion matrix, up to the
rounding of logits that are as good as equal; how far they are apart is printed. Data wait: the time in
which the loop stands still for the loader.
"""

import argparse
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F

from benchmarks.timing import in_turns, ratio, show
from segtune.config.schema import ExperimentConfig, load_config
from segtune.data import loader
from segtune.data.layouts import class_names
from segtune.data.loader import ValBatch, ValLoader, normalize
from segtune.metrics import ConfusionMatrix
from segtune.models.build import build_model
from segtune.training.distributed import Ranks
from segtune.training.evaluation import autocast_dtype, evaluate


class Waited:
    """The batches of a loader, and how long they were waited for."""

    def __init__(self, batches: Iterable[ValBatch]) -> None:
        self.batches, self.seconds = batches, 0.0

    def __iter__(self) -> Iterator[ValBatch]:
        start = time.perf_counter()
        for batch in self.batches:
            self.seconds += time.perf_counter() - start
            yield batch
            start = time.perf_counter()


@torch.no_grad()
def plain(
    model: torch.nn.Module,
    data: Iterable[ValBatch],
    device: torch.device,
    precision: torch.dtype,
    matrix: ConfusionMatrix,
) -> ConfusionMatrix:
    """One image after the other; labels go to the host, and are counted there."""
    for batch in data:
        with torch.autocast(device.type, dtype=precision, enabled=precision is not torch.float32):
            logits = model(normalize(batch.images.to(device)))
        logits = F.interpolate(
            logits.float(), size=batch.masks.shape[-2:], mode="bilinear", align_corners=False
        )
        matrix.update(logits.argmax(1).cpu(), batch.masks.long())
    return matrix


def loader_of(config: ExperimentConfig, images: int) -> Waited:
    """Returns the validation split in batches of at most so many images."""
    usual, loader.VAL_BATCH = loader.VAL_BATCH, images
    try:
        return Waited(ValLoader(config, 0, 1))
    finally:
        loader.VAL_BATCH = usual


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", default="configs/camvid_segformer_b0.yaml")
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--out", type=Path, help="also write the table as JSON")
    arguments = parser.parse_args()
    config, ranks = load_config(arguments.config, arguments.set), Ranks.join()
    classes, ignore = len(class_names(config.data)), config.data.ignore_index
    torch.manual_seed(0)
    model = build_model(config.model, classes).to(ranks.device).eval()
    precision = autocast_dtype(config.optim.precision, ranks.device)
    singles = loader_of(config.override({"data.cache": "none"}), 1)
    batches = loader_of(config, loader.VAL_BATCH)
    found: dict[str, ConfusionMatrix] = {}

    def one_at_a_time() -> None:
        found["plain"] = plain(
            model, singles, ranks.device, precision, ConfusionMatrix(classes, ignore)
        )

    def ours() -> None:
        found["ours"] = evaluate(model, batches, ranks, config, classes, precision)

    times = in_turns({"one image at a time": one_at_a_time, "segtune": ours}, arguments.repetitions)
    ones = [matrix.matrix.cpu() for matrix in found.values()]
    apart = float((ones[0] - ones[1]).abs().sum() / ones[0].sum())
    images = ValLoader(config, 0, 1).num_images
    rows = [
        {
            "validation": name,
            "images/s": f"{images * len(seconds) / sum(seconds):.1f}",
            "times faster": f"{ratio(times['one image at a time'], seconds):.2f}",
            # The round before the first is in the waits, and not in the times.
            "waits for data": f"{100 * waited.seconds / (len(seconds) + 1) / (sum(seconds) / len(seconds)):.1f} %",
        }
        for (name, seconds), waited in zip(times.items(), (singles, batches), strict=True)
    ]
    print(f"pixels that are counted as another class: {apart:.1e} of all (ties, within rounding)")
    show(f"{images} validation images of {arguments.config}, {ranks.device}", rows, arguments.out)


if __name__ == "__main__":
    main()
