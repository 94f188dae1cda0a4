"""`--init-from` between class sets, from every place that users name, and its refusals."""

import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from segtune.api import run_training
from segtune.config.schema import ExperimentConfig
from segtune.data import shapes
from segtune.errors import CheckpointError
from segtune.models import build_model
from segtune.models.segformer import SegFormer
from segtune.models.upernet import UPerNet
from segtune.runs.records import EpochRecord, ValidationScores
from segtune.runs.rundir import SearchDir, TrialDir
from segtune.runs.verdict import Verdict
from segtune.training import checkpoint
from segtune.training.checkpoint import Manifest
from segtune.training.distributed import Ranks
from segtune.training.initial_weights import load_initial_weights
from segtune.training.locate import find_checkpoint
from segtune.training.trainer import Trainer

Weights = dict[str, Tensor]

CLASSES = ("sky", "road", "car", "tree")
NANO = {"model.encoder": "mit_nano"}
UPERNET = {
    "model.name": "upernet",
    "model.encoder": "resnet18",
    "model.decoder_channels": 8,
}
HEADS = {
    "segformer": ["net.decode_head.classifier"],
    "upernet": ["decode_head.classifier", "auxiliary_head.classifier"],
}


def config_of(name: str, /, **model: object) -> ExperimentConfig:
    settings: dict[str, object] = dict(NANO if name == "segformer" else UPERNET)
    changes = {**settings, **{f"model.{key}": value for key, value in model.items()}}
    return ExperimentConfig().override({**changes, "data.classes": list(CLASSES)})


def new_model(name: str, num_classes: int) -> SegFormer | UPerNet:
    return build_model(config_of(name).model, num_classes)


def save(
    folder: Path,
    weights: Mapping[str, Tensor],
    config: ExperimentConfig,
    classes: Sequence[str] | None = CLASSES,
    kind: Any = "best",
) -> Path:
    names = None if classes is None else tuple(classes)
    manifest = Manifest(1, step=1, lr=1e-4, miou=0.5, config=config.dump(), classes=names)
    return checkpoint.save(folder / "checkpoints", kind, weights, {"seconds": 1.0}, manifest)


@pytest.fixture(scope="module", params=["segformer", "upernet"])
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return a model's name, its weights, and the folder of its training run with 4 classes."""
    name = request.param
    weights = new_model(name, len(CLASSES)).state_dict()
    run = tmp_path_factory.mktemp(name)
    save(run, weights, config_of(name))
    return name, weights, run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a training run of a SegFormer with 4 classes."""
    folder = tmp_path_factory.mktemp("run")
    save(folder, new_model("segformer", len(CLASSES)).state_dict(), config_of("segformer"))
    return folder


def init_from(path: Path, classes: Sequence[str], name: str = "segformer") -> tuple[Any, bool]:
    """Return a new model with the weights of `path`, and whether it has all of its classes."""
    model = new_model(name, len(classes))
    return model, load_initial_weights(model, path, config_of(name), classes)


def rows_from(model: Any, weights: Weights, layer: str) -> list[int | None]:
    """Return, for each row of a classifier, the row of `weights` that it equals, or None."""
    ours, theirs = model.state_dict()[f"{layer}.weight"], weights[f"{layer}.weight"]
    return [
        next((j for j, row in enumerate(theirs) if torch.equal(row, own)), None) for own in ours
    ]


@pytest.mark.parametrize(
    ("classes", "rows"),
    [
        (("sky", "road", "car", "tree"), [0, 1, 2, 3]),
        (("tree", "sky"), [3, 0]),
        (("sky", "road", "car", "tree", "pole"), [0, 1, 2, 3, None]),
        (("pole", "road", "bus"), [None, 1, None]),
        (("car", "tree", "sky", "road"), [2, 3, 0, 1]),
        (("a", "b", "c", "d"), [None] * 4),
    ],
)
def test_classifier_takes_the_classes_of_the_same_name_and_all_else_as_it_is(
    source: Any, classes: Sequence[str], rows: list[int | None]
) -> None:
    name, weights, run = source
    model = new_model(name, len(classes))
    fresh = {key: value.clone() for key, value in model.state_dict().items()}
    has_all = load_initial_weights(model, run, config_of(name), classes)
    assert has_all == (None not in rows)
    loaded = model.state_dict()
    for layer in HEADS[name]:
        assert rows_from(model, weights, layer) == rows
        for i, row in enumerate(rows):
            expected = fresh if row is None else weights
            bias = expected[f"{layer}.bias"][i if row is None else row]
            assert torch.equal(loaded[f"{layer}.bias"][i], bias)
            if row is None:
                assert torch.equal(loaded[f"{layer}.weight"][i], fresh[f"{layer}.weight"][i])
    others = [key for key in loaded if not key.startswith(tuple(HEADS[name]))]
    assert all(torch.equal(loaded[key], weights[key]) for key in others)
    assert len(others) == len(loaded) - 2 * len(HEADS[name])


def test_other_classes_are_reported_in_one_line(
    run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    init_from(run, ("road", "pole"))
    (record,) = caplog.records
    text = record.getMessage()
    assert "4 there (sky, road, car, tree) and 2 here" in text
    assert (
        "(net.decode_head.classifier) 1 classes of the same name keep their weights (road)" in text
    )
    assert "1 start from random weights (pole)" in text
    assert "\n" not in text


def test_the_same_classes_are_taken_without_a_word(
    run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    init_from(run, CLASSES)
    assert caplog.records == []


@pytest.mark.parametrize(
    ("classes", "names"),
    [(list(CLASSES), CLASSES), ("voc", None), ("labels.txt", None)],
)
def test_checkpoint_of_an_early_version_has_the_names_of_its_config(
    classes: Any, names: Sequence[str] | None, tmp_path: Path
) -> None:
    config = config_of("segformer").override({"data.classes": classes})
    path = save(tmp_path, {"w": torch.zeros(1)}, config, classes=None)
    content = json.loads((path / "manifest.json").read_text())
    del content["classes"]
    (path / "manifest.json").write_text(json.dumps(content))
    found = checkpoint.class_names_in(checkpoint.verify(path))
    if classes == "voc":
        assert found is not None
        assert (len(found), found[1]) == (21, "aeroplane")
    else:
        assert found == names


@pytest.mark.parametrize(("num_classes", "rows"), [(4, [0, 1, 2, 3]), (3, [None] * 3)])
def test_classes_without_names_are_the_same_if_their_number_is(
    num_classes: int, rows: list[int | None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    weights = new_model("segformer", 4).state_dict()
    config = config_of("segformer").override({"data.classes": "labels.txt"})
    save(tmp_path, weights, config, classes=None)
    names = [f"class {number}" for number in range(num_classes)]
    model, has_all = init_from(tmp_path, names)
    assert rows_from(model, weights, HEADS["segformer"][0]) == rows
    assert has_all == (num_classes == 4)
    assert len(caplog.records) == 1


def test_manifest_of_a_later_version_is_read(run: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(find_checkpoint(run), tmp_path / "copy"))
    content = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps({**content, "host": "a"}))
    assert checkpoint.verify(path).classes == CLASSES


# ---- training with them ----


def test_training_run_with_new_classes_has_no_initial_miou(
    tiny_config: ExperimentConfig, tmp_path: Path
) -> None:
    short = tiny_config.override({"schedule.epochs": 1, "schedule.warmup_epochs": 0.0})
    before = run_training(short, tmp_path / "before").checkpoint
    assert before is not None
    names = checkpoint.class_names_in(checkpoint.verify(before))
    assert names is not None

    run_training(short, tmp_path / "same", init_from=before)
    assert TrialDir(tmp_path / "same").read_epochs()[0].init_miou is not None

    renamed = short.override({"data.classes": [*names[:-1], "other"]})
    run_training(renamed, tmp_path / "new", init_from=tmp_path / "before")
    assert TrialDir(tmp_path / "new").read_epochs()[0].init_miou is None
    saved = checkpoint.verify(find_checkpoint(tmp_path / "new")).classes
    assert saved == (*names[:-1], "other")


def test_resume_refuses_other_names_in_the_file_of_classes(
    tiny_config: ExperimentConfig, tmp_path: Path, shapes_root: Path
) -> None:
    root = Path(shutil.copytree(shapes_root, tmp_path / "data"))
    names = [f"class {number}" for number in range(len(shapes.CLASSES))]
    (root / "labels.txt").write_text("\n".join(names))
    files = {"data.root": str(root), "data.classes": "labels.txt"}
    config = tiny_config.override({**files, "schedule.epochs": 1, "schedule.warmup_epochs": 0.0})
    run_training(config, tmp_path / "run")
    (root / "labels.txt").write_text("\n".join([names[0], *names[:0:-1]]))
    with pytest.raises(CheckpointError, match="names of the classes: class 0, class"):
        Trainer.resume(config, TrialDir(tmp_path / "run"), Ranks())


# ---- other models ----


@pytest.mark.parametrize(
    ("model", "text"),
    [
        (
            {"encoder": "mit_b0"},
            r"model\.encoder is 'mit_b0' here and 'mit_nano' there.*--set model\.encoder=mit_nano",
        ),
        (
            {"name": "upernet", "encoder": "resnet18", "decoder_channels": 8},
            r"model\.name is 'upernet' here and 'segformer' there, model\.encoder is 'resnet18'.*"
            r"use --set model\.name=segformer --set model\.encoder=mit_nano",
        ),
        (
            {"decoder_channels": 16},
            r"decoder_channels is 16 here and None there.*=null, or take only its encoder, with "
            r"--set model\.weights=\S+best-00001",
        ),
    ],
)
def test_another_model_is_refused_with_the_settings_that_differ(
    model: dict[str, object], text: str, run: Path
) -> None:
    config = config_of("segformer", **model)
    with pytest.raises(CheckpointError, match=text) as error:
        load_initial_weights(build_model(config.model, 4), run, config, CLASSES)
    assert "expected [" not in str(error.value)


def test_encoders_of_the_same_shapes_are_not_mixed_up(tmp_path: Path) -> None:
    # tf_efficientnet pads images in another way, so the weights fit and the features do not.
    settings = {"name": "upernet", "encoder": "efficientnet_lite0", "decoder_channels": 8}
    weights = build_model(config_of("upernet", **settings).model, 4).state_dict()
    save(tmp_path, weights, config_of("upernet", **settings))
    config = config_of("upernet", **{**settings, "encoder": "tf_efficientnet_lite0"})
    model = build_model(config.model, 4)
    with pytest.raises(CheckpointError, match="'tf_efficientnet_lite0' here"):
        load_initial_weights(model, tmp_path, config, CLASSES)


def test_values_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    weights = new_model("segformer", 4).state_dict()
    weights["net.decode_head.linear_fuse.weight"][0, 0] = float("nan")
    save(tmp_path, weights, config_of("segformer"))
    with pytest.raises(
        CheckpointError, match=r"'net\.decode_head\.linear_fuse\.weight' has values"
    ):
        init_from(tmp_path, CLASSES)


# ---- places ----


@pytest.mark.parametrize(
    "inner",
    [
        "",
        "checkpoints",
        "checkpoints/best-00001",
        "checkpoints/best-00001/weights.safetensors",
        "checkpoints/best-00001/manifest.json",
        "checkpoints/best-00001/state.pt",
    ],
)
def test_checkpoint_is_found_at(inner: str, run: Path) -> None:
    assert find_checkpoint(run / inner) == run / "checkpoints" / "best-00001"


def add_trial(search: SearchDir, number: int, miou: float, state: Any = "completed") -> Path:
    trial = search.trial(number)
    scores = ValidationScores(miou=miou, constant_miou=0.1)
    record = EpochRecord(
        epoch=1, step=1, lr=1e-4, losses={"loss": 1.0}, grad_norm=1.0, gradient_left=1.0
    )
    trial.append_epoch(replace(record, validation=scores))
    trial.write_verdict(Verdict(state=state, epoch=1, step=1))
    return save(trial.path, {"w": torch.zeros(1)}, ExperimentConfig())


def test_search_run_stands_for_the_best_checkpoint_of_its_best_trial(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    search = SearchDir(tmp_path / "search")
    search.path.mkdir()
    search.study.write_text("config: {}\n")
    with pytest.raises(CheckpointError, match="without a validated healthy trial"):
        find_checkpoint(search.path)
    add_trial(search, 0, 0.4)
    best = add_trial(search, 1, 0.6)
    add_trial(search, 2, 0.9, state="unhealthy")
    with caplog.at_level(logging.INFO, "segtune"):
        assert find_checkpoint(search.path) == best
    assert "best trial 0001, mIoU 60.00" in caplog.text
    assert find_checkpoint(search.trial(0).path).parent.parent == search.trial(0).path
    # After a search on a proxy, the trials at full length count.
    full = add_trial(search.full, 0, 0.5)
    search.full.best.touch()
    assert find_checkpoint(search.path) == full


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("first-2", "did you mean 'first'"),
        (".", "training runs in this folder: first"),
        ("mit.pth", r"a file of weights, .* set model\.weights: \S+mit\.pth"),
    ],
)
def test_path_that_is_no_checkpoint_points_to_its_neighbours(
    name: str, text: str, run: Path, tmp_path: Path
) -> None:
    shutil.copytree(run, tmp_path / "first")
    (tmp_path / "mit.pth").touch()
    with pytest.raises(CheckpointError, match=text):
        find_checkpoint(tmp_path / name)


# ---- damage ----


def test_checkpoint_without_its_manifest_says_so(run: Path, tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()
    shutil.copy(find_checkpoint(run) / "weights.safetensors", tmp_path / "copy")
    pattern = r"copy: manifest\.json is absent, which holds the config.*copy the whole folder again"
    with pytest.raises(CheckpointError, match=pattern):
        init_from(tmp_path / "copy", CLASSES)


def test_absent_file_is_not_called_damaged_and_another_checkpoint_is_named(
    run: Path, tmp_path: Path
) -> None:
    shutil.copytree(run / "checkpoints", tmp_path / "checkpoints")
    last = tmp_path / "checkpoints" / "last-00001"
    shutil.copytree(tmp_path / "checkpoints" / "best-00001", last)
    (last / "weights.safetensors").unlink()
    pattern = r"weights\.safetensors: absent, but .*again, or use \S+best-00001"
    with pytest.raises(CheckpointError, match=pattern):
        checkpoint.verify(last)


def test_weights_are_taken_from_a_checkpoint_without_its_state(run: Path, tmp_path: Path) -> None:
    # Users delete the state of the optimiser, which is two thirds of a checkpoint.
    shutil.copytree(run / "checkpoints", tmp_path / "checkpoints")
    (tmp_path / "checkpoints" / "best-00001" / "state.pt").unlink()
    assert init_from(tmp_path, CLASSES)[1]
    with pytest.raises(CheckpointError, match=r"state\.pt: absent"):
        checkpoint.verify(find_checkpoint(tmp_path))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"epoch": 1'])
def test_damaged_manifest_is_named(text: str, run: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(find_checkpoint(run), tmp_path / "best-00001"))
    (path / "manifest.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"manifest\.json: damaged"):
        checkpoint.verify(path)


def test_copies_that_a_user_made_are_neither_taken_nor_removed(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    path = Path(shutil.copytree(find_checkpoint(run), folder / "best-00001"))
    for name in ("best-old", "best-00009.bak", "last-00007 (copy)"):
        shutil.copytree(path, folder / name)
    assert find_checkpoint(tmp_path) == path
    checkpoint.remove_after(folder, 1)
    save(tmp_path, {"w": torch.zeros(1)}, ExperimentConfig(), kind="last")
    names = ["best-00001", "best-00009.bak", "best-old", "last-00001", "last-00007 (copy)"]
    assert sorted(entry.name for entry in folder.iterdir()) == names
