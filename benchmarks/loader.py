"""Training samples per second of one process: segtune against mmsegmentation's pipeline.

    python -m benchmarks.loader --root ../shared/camvid

segtune is measured without a cache, with a cold cache and with a warm cache of decoded images.
Both libraries load an image, scale it to (2048, 512) times 0.5 to 2, crop 512x512 with
cat_max_ratio 0.75, flip it and distort its colours. `benchmarks/peers.py` explains how to install
mmsegmentation; without it, its row is missing.
"""

import argparse
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import cv2
import torch

from benchmarks import peers
from benchmarks.timing import Row, show_table, speedup, time_in_turns
from segtune.config.schema import ExperimentConfig, load_config
from segtune.data.layouts import open_split
from segtune.data.loader import TrainLoader

LONG_SIDE = 2048
SHORT_SIDE = 512
CROP = 512
PEER = "mmsegmentation 1.2.2"


def load_epoch(loader: TrainLoader) -> None:
    """Load all samples of an epoch."""
    for _ in loader.epoch(1):
        pass


def our_loaders(
    config: ExperimentConfig, folder: Path, repetitions: int
) -> dict[str, Callable[[], None]]:
    """Return by name a call that loads an epoch with segtune."""

    def loader(cache: str) -> TrainLoader:
        return TrainLoader(config.override({"data.cache": cache}), rank=0, world_size=1)

    uncached = loader("none")
    warm = loader(str(folder / "warm"))
    # An empty cache for each round, and one for the round that warms up.
    fresh = iter([loader(str(folder / str(number))) for number in range(repetitions + 1)])

    def load_cold() -> None:
        cold = next(fresh)
        load_epoch(cold)
        cold.flush()

    return {
        "segtune, without a cache": lambda: load_epoch(uncached),
        "segtune, cold": load_cold,
        "segtune, warm": lambda: load_epoch(warm),
    }


def peer_loader(config: ExperimentConfig) -> Callable[[], None]:
    """Return a call that loads an epoch with the peer's pipeline."""
    pipeline = peers.training_pipeline(LONG_SIDE, SHORT_SIDE, CROP)
    pairs = open_split(config.data, "train")

    def load() -> None:
        for pair in pairs:
            sample = {
                "img_path": pair.image,
                "seg_map_path": pair.mask,
                "reduce_zero_label": False,
                "seg_fields": [],
            }
            pipeline(sample)

    return load


def table(times: dict[str, list[float]], num_images: int) -> list[Row]:
    """Return one row per pipeline from the seconds of its rounds."""
    peer = times.get(PEER)
    return [
        {
            "pipeline": name,
            "images/s": f"{num_images / statistics.median(seconds):.0f}",
            "times the peer's": f"{speedup(peer, seconds):.1f}" if peer else "-",
        }
        for name, seconds in times.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", default="configs/camvid_segformer_b0.yaml")
    parser.add_argument("--root", required=True, help="the folder of the data set")
    parser.add_argument("--images", type=int, default=128, help="images per round")
    parser.add_argument("--repetitions", type=int, default=5, help="rounds")
    parser.add_argument("--out", type=Path, help="also write the table as JSON")
    arguments = parser.parse_args()
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    changes = {
        "data.resize": [LONG_SIDE, SHORT_SIDE],
        "data.crop": [CROP, CROP],
        "data.num_loaders": 0,
        "data.root": arguments.root,
        "data.num_images": arguments.images,
        "schedule.batch_size": 8,
    }
    config = load_config(arguments.config).override(changes)
    loaders = {PEER: peer_loader(config)} if peers.is_installed() else {}
    with tempfile.TemporaryDirectory() as folder:
        loaders |= our_loaders(config, Path(folder), arguments.repetitions)
        times = time_in_turns(loaders, arguments.repetitions)
    title = (
        f"training samples of one process, medians of {arguments.repetitions} rounds "
        f"of {arguments.images} images"
    )
    show_table(title, table(times, arguments.images), arguments.out)


if __name__ == "__main__":
    main()
