"""What one more trial, one more image and one more class cost.

    python -m benchmarks.scale                           # up to 64 trials at the same time
    python -m benchmarks.scale --concurrent 16,128,1000  # takes half an hour
    python -m benchmarks.scale --plot scale.html

Trials: a search with fake training on a simulated cluster of several nodes. The fake trials run
through Tune and through all of segtune except training: searcher, scheduler, supervisor and the
files of the search run. `benchmarks/fake_trials.py` explains how so many fit on one machine. All
nodes share the cores of this machine, so the driver's processor time is measured, not elapsed time.

Images: opening the training split. Classes: the loss of one crop.
"""

import argparse
import logging
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
import torch
from ray.cluster_utils import Cluster

from benchmarks.fake_trials import EPOCHS, trials_in_pools
from benchmarks.places import CONFIG, SPACE
from benchmarks.timing import Row, seconds_of, show_table
from segtune.cluster.ray_session import ENVIRONMENT
from segtune.cluster.run import run_search
from segtune.config.loss_config import LossConfig
from segtune.config.schema import ExperimentConfig
from segtune.data import shapes
from segtune.data.loader import TrainLoader
from segtune.losses.segmentation import build_loss
from segtune.runs.rundir import SearchDir
from segtune.tuning.study_reader import load_study

NUM_NODES = 4
NUM_POOLS = 8  # processes that run the fake trials
REPORTS_PER_S = 30
KIB_PER_MIB = 1024


@contextmanager
def simulated_cluster(num_slots: int) -> Iterator[None]:
    """Connect to a Ray cluster with `num_slots` CPUs or more, all of whose nodes run here."""
    cpus_per_node = -(-num_slots // NUM_NODES)
    node: dict[str, Any] = {"num_cpus": cpus_per_node, "object_store_memory": 10**8}
    cluster = Cluster(initialize_head=True, head_node_args=node)
    for _ in range(NUM_NODES - 1):
        cluster.add_node(**node)
    os.environ.update(ENVIRONMENT)
    ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
    try:
        yield
    finally:
        ray.shutdown()
        cluster.shutdown()


def measure_search(concurrent: int, trials: int) -> Row:
    """Run a search of fake trials, and return the row with its costs."""
    limits = {"trials": trials, "max_concurrent": concurrent, "sampler": "tpe"}
    overrides = [
        f"schedule.epochs={EPOCHS}",
        "schedule.val_every=1",
        "schedule.warmup_epochs=0",
    ]
    study = load_study(SPACE, CONFIG, overrides, limits)
    # The same number of reports per second, however many trials run: the load of a driver that is
    # never idle would not show what a trial costs.
    epoch_s = max(2.0, concurrent / REPORTS_PER_S)
    with tempfile.TemporaryDirectory() as folder, simulated_cluster(concurrent):
        run = SearchDir(Path(folder) / "run")
        run.path.mkdir()
        start = time.monotonic()
        cpu_start = time.process_time()
        with trials_in_pools(run, num_pools=NUM_POOLS, concurrent=concurrent, epoch_s=epoch_s):
            run_search(study, run)
        elapsed_s = time.monotonic() - start
        cpu_s = time.process_time() - cpu_start
        num_reports = sum(len(trial.read_epochs()) for trial in run.trial_dirs())
    memory_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / KIB_PER_MIB
    return {
        "trials at a time": concurrent,
        "trials": trials,
        "reports": num_reports,
        "seconds": f"{elapsed_s:.0f}",
        "driver, ms a trial": f"{1000 * cpu_s / trials:.0f}",
        "driver, share of a core": f"{100 * cpu_s / elapsed_s:.0f} %",
        "its memory at most, MiB": f"{memory_mib:.0f}",
    }


def measure_opening(num_images: int) -> Row:
    """Open a training split of so many images, and return the row with the time it takes."""
    with tempfile.TemporaryDirectory() as folder:
        config = write_many_images(Path(folder), num_images)
        times = [seconds_of(lambda: TrainLoader(config, rank=0, world_size=1)) for _ in range(3)]
    seconds = statistics.median(times)
    return {
        "images": num_images,
        "start, s": f"{seconds:.3f}",
        "a thousand, ms": f"{1e6 * seconds / num_images:.1f}",
    }


def write_many_images(folder: Path, num_images: int) -> ExperimentConfig:
    """Write a data set of links to one image under many names, and return its config."""
    config = load_study(SPACE, CONFIG).config.override(
        {"data.root": str(folder), "data.cache": "none"}
    )
    shapes.generate_if_needed(folder)
    image = next((folder / "JPEGImages").iterdir())
    mask = folder / "SegmentationClass" / f"{image.stem}.png"
    names = [f"many-{index:06d}" for index in range(num_images)]
    for name in names:
        os.symlink(image, image.with_stem(name))
        os.symlink(mask, mask.with_stem(name))
    (folder / "ImageSets/Segmentation/train.txt").write_text("\n".join(names) + "\n")
    return config.override({"data.layout": "voc"})


def measure_loss(num_classes: int) -> Row:
    """Compute the loss of one crop and its gradient, and return the row with the time it takes."""
    logits = torch.randn(1, num_classes, 128, 128, requires_grad=True)
    target = torch.randint(0, num_classes, (1, 512, 512))
    loss = build_loss(LossConfig(), num_classes)
    times = [seconds_of(lambda: loss(logits, target)["total"].backward()) for _ in range(5)]
    ms = 1000 * statistics.median(times)
    return {
        "classes": num_classes,
        "focal + Dice, ms": f"{ms:.0f}",
        "a class, ms": f"{ms / num_classes:.2f}",
    }


def plot(path: Path, tables: Mapping[str, Sequence[Row]]) -> None:
    """Write a page that plots the last column in ms of each table over its first column."""
    from plotly.subplots import make_subplots

    figure = make_subplots(rows=1, cols=len(tables), subplot_titles=list(tables))
    for column, rows in enumerate(tables.values(), 1):
        titles = list(rows[0])
        x_title = titles[0]
        y_title = [title for title in titles if title.endswith(("ms", "ms a trial"))][-1]
        figure.add_scatter(
            x=[row[x_title] for row in rows],
            y=[float(str(row[y_title])) for row in rows],
            mode="lines+markers",
            row=1,
            col=column,
        )
        figure.update_xaxes(title_text=x_title, row=1, col=column)
        figure.update_yaxes(title_text=y_title, rangemode="tozero", row=1, col=column)
    figure.update_layout(showlegend=False, title="the cost of one more")
    figure.write_html(path)


def sizes(text: str) -> list[int]:
    """Return the whole numbers of a comma-separated list, which may be empty."""
    return [int(size) for size in text.split(",") if size]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--concurrent", type=sizes, default="4,16,64", help="trials at the same time"
    )
    parser.add_argument("--rounds", type=int, default=3, help="trials per slot")
    parser.add_argument("--images", type=sizes, default="1000,5000,20000")
    parser.add_argument("--classes", type=sizes, default="2,21,150")
    parser.add_argument("--plot", type=Path, help="also write a page with the curves")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    concurrents, rounds = arguments.concurrent, arguments.rounds
    tables = {
        "trials": [measure_search(concurrent, rounds * concurrent) for concurrent in concurrents],
        "images": [measure_opening(num_images) for num_images in arguments.images],
        "classes": [measure_loss(num_classes) for num_classes in arguments.classes],
    }
    tables = {name: rows for name, rows in tables.items() if rows}
    for name, rows in tables.items():
        show_table(f"the cost of one more of the {name}", rows, None)
    if arguments.plot:
        plot(arguments.plot, tables)


if __name__ == "__main__":
    main()
