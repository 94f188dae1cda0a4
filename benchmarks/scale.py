"""What one more trial, image and class costs: fake training on a simulated cluster of several nodes, and the parts by themselves.

    python -m benchmarks.scale                           # up to 64 trials at a time
    python -m benchmarks.scale --concurrent 16,128,1000  # half an hour
    python -m benchmarks.scale --plot scale.html

The fake trials run through Tune and through everything of ours but the training itself: sampler, scheduler, watch and the files of
a run (benchmarks/guests.py says how so many fit). All nodes share this machine's cores, so what is counted is the driver's processor time, not the clock's.
"""

import argparse
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
import torch
from ray.cluster_utils import Cluster

from benchmarks.guests import EPOCHS, in_houses
from benchmarks.tasks import CONFIG, SPACE
from benchmarks.timing import once, show
from segtune.cluster.ray_session import ENVIRONMENT
from segtune.cluster.run import run_search
from segtune.config.schema import ExperimentConfig, LossConfig
from segtune.data import shapes
from segtune.losses.segmentation import build_loss
from segtune.runs.rundir import SearchDir
from segtune.tuning.study import load_study

NODES = 4
HOUSES = 8
REPORTS_PER_S = 30
Rows = list[dict[str, Any]]


@contextmanager
def cluster(places: int) -> Iterator[None]:
    """A Ray of several nodes on this machine, connected to."""
    nodes = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": -(-places // NODES), "object_store_memory": 10**8},
    )
    for _ in range(NODES - 1):
        nodes.add_node(num_cpus=-(-places // NODES), object_store_memory=10**8)
    os.environ.update(ENVIRONMENT)
    ray.init(address=nodes.address, log_to_driver=False, logging_level="ERROR")
    try:
        yield
    finally:
        ray.shutdown()
        nodes.shutdown()


def search_of(concurrent: int, trials: int) -> dict[str, Any]:
    """Runs a search of fake trials and returns what it took."""
    limits = {"trials": trials, "max_concurrent": concurrent, "sampler": "tpe"}
    study = load_study(
        SPACE,
        CONFIG,
        [f"schedule.epochs={EPOCHS}", "schedule.val_every=1", "schedule.warmup_epochs=0"],
        limits,
    )
    # As many reports a second, whatever the number of trials: a driver that is never idle would say nothing of their cost.
    epoch_s = max(2.0, concurrent / REPORTS_PER_S)
    with tempfile.TemporaryDirectory() as folder, cluster(concurrent):
        run = SearchDir(Path(folder) / "run")
        run.path.mkdir()
        clock, busy = time.monotonic(), time.process_time()
        with in_houses(run, HOUSES, concurrent, epoch_s):
            run_search(study, run)
        clock, busy = time.monotonic() - clock, time.process_time() - busy
        reports = sum(len(trial.read_epochs()) for trial in run.trial_dirs())
    return {
        "trials at a time": concurrent,
        "trials": trials,
        "reports": reports,
        "seconds": f"{clock:.0f}",
        "driver, ms a trial": f"{1000 * busy / trials:.0f}",
        "driver, share of a core": f"{100 * busy / clock:.0f} %",
        "its memory at most, MiB": f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f}",
    }


def images(counts: list[int]) -> Rows:
    """Times the opening of the training images of a data set."""
    from segtune.data.loader import TrainLoader

    rows = []
    for count in counts:
        with tempfile.TemporaryDirectory() as folder:
            config = many_images(Path(folder), count)
            seconds = statistics.median(
                once(lambda config=config: TrainLoader(config, 0, 1)) for _ in range(3)
            )
        rows.append(
            {
                "images": count,
                "start, s": f"{seconds:.3f}",
                "a thousand, ms": f"{1e6 * seconds / count:.1f}",
            }
        )
    return rows


def many_images(folder: Path, count: int) -> ExperimentConfig:
    """Writes a data set in which all images are the same file under other names, and returns its config."""
    config = load_study(SPACE, CONFIG).config.override(
        {"data.root": str(folder), "data.cache": "none"}
    )
    shapes.generate_if_needed(folder)
    image = next((folder / "JPEGImages").iterdir())
    mask = folder / "SegmentationClass" / f"{image.stem}.png"
    names = [f"many-{index:06d}" for index in range(count)]
    for name in names:
        os.symlink(image, image.with_stem(name))
        os.symlink(mask, mask.with_stem(name))
    (folder / "ImageSets/Segmentation/train.txt").write_text("\n".join(names) + "\n")
    return config.override({"data.layout": "voc"})


def classes(counts: list[int]) -> Rows:
    """Times the loss, forward and backward, of one crop."""
    rows = []
    for count in counts:
        logits = torch.randn(1, count, 128, 128, requires_grad=True)
        target = torch.randint(0, count, (1, 512, 512))
        loss = build_loss(LossConfig(), count)
        seconds = statistics.median(
            once(lambda loss=loss, x=logits, y=target: loss(x, y)["total"].backward())
            for _ in range(5)
        )
        rows.append(
            {
                "classes": count,
                "focal + Dice, ms": f"{1000 * seconds:.0f}",
                "a class, ms": f"{1000 * seconds / count:.2f}",
            }
        )
    return rows


def plot(path: Path, tables: dict[str, Rows]) -> None:
    """Writes a page with the last column of each table over its first."""
    from plotly.subplots import make_subplots

    figure = make_subplots(rows=1, cols=len(tables), subplot_titles=list(tables))
    for column, rows in enumerate(tables.values(), 1):
        first, last = (
            next(iter(rows[0])),
            [name for name in rows[0] if name.endswith("ms") or name.endswith("ms a trial")][-1],
        )
        figure.add_scatter(
            x=[row[first] for row in rows],
            y=[float(row[last]) for row in rows],
            mode="lines+markers",
            row=1,
            col=column,
        )
        figure.update_xaxes(title_text=first, row=1, col=column)
        figure.update_yaxes(title_text=last, rangemode="tozero", row=1, col=column)
    figure.update_layout(showlegend=False, title="the cost of one more")
    figure.write_html(path)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--concurrent", default="4,16,64", help="trials at a time")
    parser.add_argument("--rounds", type=int, default=3, help="trials for each that run at a time")
    parser.add_argument("--images", default="1000,5000,20000")
    parser.add_argument("--classes", default="2,21,150")
    parser.add_argument("--plot", type=Path, help="also write a page with the curves")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    sizes = [
        [int(size) for size in text.split(",") if size]
        for text in (arguments.concurrent, arguments.images, arguments.classes)
    ]
    tables = {
        "trials": [search_of(concurrent, arguments.rounds * concurrent) for concurrent in sizes[0]],
        "images": images(sizes[1]),
        "classes": classes(sizes[2]),
    }
    tables = {name: rows for name, rows in tables.items() if rows}
    for name, rows in tables.items():
        show(f"the cost of one more of the {name}", rows, None)
    if arguments.plot:
        plot(arguments.plot, tables)


if __name__ == "__main__":
    main()
