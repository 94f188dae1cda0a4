"""Odd numbers of images, ranks and loaders: mIoU of one process, or a refusal with numbers."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from segtune.config.data_config import DataConfig
from segtune.config.schema import ExperimentConfig
from segtune.data.loader import TrainLoader, ValLoader
from segtune.errors import ConfigError, DataError
from segtune.runs.rundir import TrialDir
from segtune.training.distributed import Ranks
from segtune.training.trainer import Trainer

MakeDataSet = Callable[..., DataConfig]
TIMEOUT_S = 200


@pytest.fixture
def make_images(make_data_set: MakeDataSet) -> MakeDataSet:
    """Return a function that makes a data set of so many images, some of other sizes."""

    def make(num_train: int, num_val: int, **settings: object) -> DataConfig:
        rng = np.random.default_rng(0)
        files: dict[str, Callable[[Path], object]] = {}
        for number in range(num_train + num_val):
            name = f"train/{number}" if number < num_train else f"val/{number}"
            size = (64 + number % 3 * 8, 64)
            image = rng.integers(0, 255, (*size, 3), dtype=np.uint8)
            mask = rng.integers(0, 3, size, dtype=np.uint8)
            files[f"images/{name}.png"] = lambda path, array=image: cv2.imwrite(str(path), array)
            files[f"masks/{name}.png"] = lambda path, array=mask: cv2.imwrite(str(path), array)
        sizes = {"classes": ["a", "b", "c"], "resize": [64, 64], "crop": [64, 64]}
        return make_data_set(files, **sizes, **{"num_loaders": 0, **settings})

    return make


def config_of(data: DataConfig, **changes: object) -> ExperimentConfig:
    """Return the config of one epoch; `schedule__batch_size` is schedule.batch_size."""
    tree = {
        "data": data.dump(),
        "model": {"encoder": "mit_nano"},
        "schedule": {"epochs": 1, "warmup_epochs": 0.5, "val_every": 1, "batch_size": 2},
    }
    dotted = {name.replace("__", "."): value for name, value in changes.items()}
    return ExperimentConfig.parse(tree).override(dotted)


# Each rank also computes the matrix of all images alone.
EVALUATE_ON_RANKS = """
import json
import sys
from pathlib import Path

import torch

from segtune.config.schema import load_config
from segtune.data.loader import ValLoader
from segtune.training.distributed import Ranks
from segtune.training.evaluation import evaluate
from segtune.training.network import build_network, seeded

ranks = Ranks.join("cpu")
alone = Ranks(device=ranks.device)
for number, (path, loaders) in enumerate(json.loads(sys.argv[1])):
    config = load_config(path, [f"data.num_loaders={loaders}"])
    with seeded(0, ranks.device):
        network = build_network(config, 3, alone)
    matrices, images = [], []
    for group in (alone, ranks):
        data = ValLoader(config, group.rank, group.world_size)
        matrices.append(evaluate(network, data, group, config, 3, torch.float32))
        images.append(sum(len(batch.names) for batch in data))
    equal = torch.equal(matrices[0].matrix, matrices[1].matrix)
    miou = [matrix.summary()["mIoU"] for matrix in matrices]
    line = [number, ranks.rank, images, equal and miou[0] == miou[1] > 0]
    sys.stdout.write(json.dumps(line) + "\\n")
ranks.close()
"""


def run_on_ranks(num_ranks: int, *command: object) -> subprocess.CompletedProcess[str]:
    """Run a script, or `-m module`, on ranks under torchrun."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    process = subprocess.Popen(
        [*launcher, f"--nproc-per-node={num_ranks}", *map(str, command)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        stdout, stderr = process.communicate(timeout=TIMEOUT_S)
    finally:
        process.terminate()  # torchrun ends the ranks, each of which has its own session
        process.wait(30)
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def write_config(config: ExperimentConfig, path: Path) -> Path:
    path.write_text(json.dumps(config.dump()))  # JSON is YAML
    return path


@pytest.mark.slow
def test_miou_of_three_ranks_is_that_of_one_process(
    make_images: MakeDataSet, tmp_path: Path
) -> None:
    config = config_of(make_images(3, 5))
    cases = []
    for num_images, loaders in ((1, 0), (2, 2), (5, 0), (4, 1)):
        names = [f"val/{number}" for number in range(3, 3 + num_images)]
        root = tmp_path / f"{num_images} images"
        for kind in ("images", "masks"):
            for name in ["train/0", *names]:
                link = root / kind / f"{name}.png"
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(Path(config.data.root, kind, f"{name}.png"))
        path = write_config(
            config.override({"data.root": str(root)}), tmp_path / f"{num_images}.yaml"
        )
        cases.append((str(path), loaders))
    script = tmp_path / "script.py"
    script.write_text(EVALUATE_ON_RANKS)
    result = run_on_ranks(3, script, json.dumps(cases))
    assert result.returncode == 0, result.stderr
    lines = sorted(json.loads(line) for line in result.stdout.splitlines())
    shares = [[1, 0, 0], [1, 1, 0], [2, 2, 1], [2, 1, 1]]
    assert lines == [
        [case, rank, [sum(share), share[rank]], True]
        for case, share in enumerate(shares)
        for rank in range(3)
    ]


@pytest.mark.slow
def test_three_ranks_train_three_images_and_validate_one(
    make_images: MakeDataSet, tmp_path: Path
) -> None:
    config = config_of(make_images(4, 1), schedule__batch_size=3)
    path = write_config(config, tmp_path / "config.yaml")
    Path(config.data.root, "images", "train", "Thumbs.db").touch()
    out = tmp_path / "run"
    result = run_on_ranks(3, "-m", "segtune.train", "--config", path, "--out", out)
    assert result.returncode == 0, result.stderr
    (record,) = TrialDir(out).read_epochs()
    assert record.validation
    assert record.validation.aacc > 0
    for message in (
        "data.train: ignored 1 file of tools",
        "steps: 4 images / 3 per batch (3 workers) = 1 per epoch",
        "best mIoU",
    ):
        assert (result.stdout + result.stderr).count(message) == 1


@pytest.mark.parametrize(
    ("batch_size", "accumulate", "num_ranks", "message"),
    [
        (7, 1, 4, "7 does not divide among 4 workers x accumulate 1; the nearest is 8"),
        (9, 1, 4, "9 does not divide among 4 workers x accumulate 1; the nearest is 8"),
        (6, 3, 4, "6 does not divide among 4 workers x accumulate 3; 9 training images are fewer "),
        (30, 1, 4, "30 is more than the 9 training images; the nearest is 8"),
        (12, 1, 12, "12 is more than the 9 training images; 9 training images are fewer than "),
    ],
)
def test_batch_that_does_not_fit_is_refused_with_the_nearest(
    batch_size: int, accumulate: int, num_ranks: int, message: str, make_images: MakeDataSet
) -> None:
    config = config_of(
        make_images(9, 1), schedule__batch_size=batch_size, schedule__accumulate=accumulate
    )
    with pytest.raises(ConfigError) as error:
        TrainLoader(config, 0, num_ranks)
    assert f"schedule.batch_size: {message}" in str(error.value)


def test_nearest_batch_is_accepted(make_images: MakeDataSet) -> None:
    data = make_images(9, 1)
    for batch_size, num_ranks in ((8, 4), (9, 1), (9, 9), (1, 1)):
        loader = TrainLoader(config_of(data, schedule__batch_size=batch_size), 0, num_ranks)
        assert len(list(loader.epoch(1))) == 9 // batch_size


def test_more_loaders_than_images_read_each_image_once(make_images: MakeDataSet) -> None:
    config = config_of(make_images(2, 2, num_loaders=4))
    assert sum(len(batch.images) for batch in TrainLoader(config, 0, 1).epoch(1)) == 2
    names = [name for batch in ValLoader(config, 0, 1) for name in batch.names]
    assert len(names) == len(set(names)) == 2


def test_validation_without_images_is_refused_with_its_name(
    make_images: MakeDataSet, tmp_path: Path
) -> None:
    data = make_images(2, 0)
    (Path(data.root) / "val.txt").write_text("\n")
    with pytest.raises(DataError, match=r"data\.val: the split val of .* is empty"):
        Trainer.start(config_of(data), TrialDir(tmp_path / "run"), Ranks())


def test_upernet_with_one_image_per_worker_is_refused_with_numbers(
    make_images: MakeDataSet, tmp_path: Path
) -> None:
    data = make_images(4, 1)
    upernet = {"model__name": "upernet", "model__encoder": "resnet18"}
    config = config_of(data, schedule__batch_size=4, schedule__accumulate=4, **upernet)
    with pytest.raises(ConfigError) as error:
        Trainer.start(config, TrialDir(tmp_path / "run"), Ranks())
    assert "2 or more images per worker and backward pass, got 1" in str(error.value)
    assert "the smallest batch_size is 8 here" in str(error.value)


def test_segformer_trains_on_one_image_per_step(make_images: MakeDataSet, tmp_path: Path) -> None:
    config = config_of(make_images(3, 1), schedule__batch_size=1)
    trainer = Trainer.start(config, TrialDir(tmp_path / "run"), Ranks())
    (record,) = trainer.epochs()
    assert (record.step, record.losses["loss"] > 0) == (3, True)
