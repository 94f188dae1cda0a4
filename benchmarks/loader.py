"""Training samples per second of one process: ours, cold and with decoded images at hand, against mmsegmentation's pipeline.

    python -m benchmarks.loader --root ../shared/camvid

Both load, scale to (2048, 512) times 0.5 to 2, crop 512x512 with cat_max_ratio 0.75, flip and distort colours. How the peer is
installed is said in benchmarks/peers.py.
"""

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

import cv2
import torch

from benchmarks import peers
from benchmarks.timing import in_turns, ratio, show
from segtune.config.schema import ExperimentConfig, load_config
from segtune.data.layouts import open_split
from segtune.data.loader import TrainLoader


def epoch_of(loader: TrainLoader) -> None:
    for _ in loader.epoch(1):
        pass


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", default="configs/camvid_segformer_b0.yaml")
    parser.add_argument("--root", required=True, help="the data set")
    parser.add_argument("--images", type=int, default=128, help="images of a round")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--out", type=Path, help="also write the table as JSON")
    arguments = parser.parse_args()
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    shape = {
        "data.resize": [2048, 512],
        "data.crop": [512, 512],
        "data.num_loaders": 0,
        "schedule.batch_size": 8,
    }
    config = load_config(arguments.config).override(
        {**shape, "data.root": arguments.root, "data.num_images": arguments.images}
    )
    with tempfile.TemporaryDirectory() as folder:
        times = in_turns(_works(config, Path(folder), arguments.repetitions), arguments.repetitions)
    base = times.get("mmsegmentation 1.2.2")
    rows = [
        {
            "pipeline": name,
            "images/s": f"{arguments.images / statistics.median(seconds):.0f}",
            "times the peer's": f"{ratio(base, seconds):.1f}" if base else "-",
        }
        for name, seconds in times.items()
    ]
    show(
        f"training samples of one process, medians of {arguments.repetitions} rounds of {arguments.images} images",
        rows,
        arguments.out,
    )


def _works(config: ExperimentConfig, folder: Path, repetitions: int) -> dict[str, Any]:
    warm = TrainLoader(config.override({"data.cache": str(folder / "warm")}), 0, 1)
    plain = TrainLoader(config.override({"data.cache": "none"}), 0, 1)
    fresh = iter(
        [
            TrainLoader(config.override({"data.cache": str(folder / str(number))}), 0, 1)
            for number in range(repetitions + 1)
        ]
    )

    def cold() -> None:
        loader = next(fresh)
        epoch_of(loader)
        loader.flush()

    works = {
        "segtune, without a cache": lambda: epoch_of(plain),
        "segtune, cold": cold,
        "segtune, warm": lambda: epoch_of(warm),
    }
    if not peers.is_installed():
        return works
    pipeline = peers.training_pipeline(2048, 512, 512)
    pairs = open_split(config.data, "train")

    def peer() -> None:
        for pair in pairs:
            pipeline(
                {
                    "img_path": pair.image,
                    "seg_map_path": pair.mask,
                    "reduce_zero_label": False,
                    "seg_fields": [],
                }
            )

    return {"mmsegmentation 1.2.2": peer, **works}


if __name__ == "__main__":
    main()
