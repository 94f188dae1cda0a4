"""`data.label_map` means the same wherever a config is written, and training reads its labels."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mask_data import MakeDataSet, files_of, on_data, stripes

from segtune import config_tools, data_tools, train
from segtune.checks.audit import audit
from segtune.config.data_config import DataConfig
from segtune.config.schema import ExperimentConfig, load_config
from segtune.config.settings import differences
from segtune.config.yaml_io import parse_assignments, parse_yaml, write_yaml
from segtune.data.decode import decode_pair
from segtune.data.label_map import occurs
from segtune.data.layouts import open_split
from segtune.data.loader import TrainLoader, ValLoader
from segtune.data.masks import read_mask
from segtune.errors import CheckpointError, ConfigError, DataError, RunError
from segtune.runs.rundir import SearchDir
from segtune.training import checkpoint
from segtune.tuning.preparation import prepare_study
from segtune.tuning.study_reader import load_study

MAP = {255: 1}
MASKS = {"train": [stripes(0, 255)] * 4, "val": [stripes(0, 0, 0, 255)]}


@pytest.fixture
def binary(make_data_set: MakeDataSet) -> DataConfig:
    """Return the config of masks of 0 and 255, with the default ignore_index 255 and a map."""
    return make_data_set(files_of(MASKS), label_map=MAP)


def best(run: Path) -> Path:
    """Return the best checkpoint of a training run."""
    path = checkpoint.best_checkpoint(run / "checkpoints")
    assert path
    return path


def labels_of(values: list[list[int]], folder: Path, num_classes: int, **data: object) -> list:
    """Return the labels of a grey PNG of 8 or 16 bits with these values."""
    wide = np.array(values).max() > 255
    cv2.imwrite(str(folder / "x.png"), np.array(values, np.uint16 if wide else np.uint8))
    classes = [f"c{label}" for label in range(num_classes)]
    config = DataConfig.parse({"classes": classes, **data})
    return read_mask(folder / "x.png", config, num_classes).tolist()


def test_255_is_a_class_although_it_is_ignore_index(binary: DataConfig) -> None:
    assert binary.ignore_index == 255
    labels = decode_pair(open_split(binary, "train")[0], binary, 2).labels
    assert labels.dtype == np.uint8
    assert labels.tolist() == stripes(0, 1).tolist()
    content = audit(binary)
    assert (content.problems, content.notes) == ([], [])
    assert content.train.pixels[[0, 1, 255]].tolist() == [8192, 8192, 0]
    assert content.val.pixels[[0, 1, 255]].tolist() == [3072, 1024, 0]


def test_training_and_validation_batches_have_the_mapped_labels(
    binary: DataConfig, tiny_config: ExperimentConfig
) -> None:
    settings = {"augment.ratio": [1.0, 1.0], "augment.flip": 0.0, "augment.cat_max_ratio": 1.0}
    config = on_data(tiny_config, binary, **settings)
    for batch in TrainLoader(config, 0, 1).epoch(1):
        assert batch.masks.tolist() == [stripes(0, 1).tolist()] * 2
    (batch,) = ValLoader(config, 0, 1)
    assert batch.masks.tolist() == [stripes(0, 0, 0, 1).tolist()]


def test_train_writes_the_map_and_resumes_with_it(
    binary: DataConfig, tiny_config: ExperimentConfig, tmp_path: Path
) -> None:
    file, out = tmp_path / "config.yaml", tmp_path / "run"
    config = on_data(tiny_config, binary)
    file.write_text(write_yaml(config.override({"data.label_map": None}).dump()))
    arguments = ["--config", str(file), "--out", str(out), "--set", "data.label_map={255: 1}"]
    assert train.main(arguments) == 0
    assert load_config(out / "config.yaml").data.label_map == MAP
    saved = checkpoint.verify(best(out))
    assert ExperimentConfig.parse(saved.config).data.label_map == MAP
    assert train.main(["--config", str(out / "config.yaml"), "--out", str(out), "--resume"]) == 0


def test_resume_with_another_map_names_the_setting_once(
    binary: DataConfig, tiny_config: ExperimentConfig, tmp_path: Path
) -> None:
    config = on_data(tiny_config, binary)
    manifest = checkpoint.Manifest(1, step=1, lr=1e-3, miou=0.5, config=config.dump())
    manifest = checkpoint.Manifest(**json.loads(json.dumps(vars(manifest))))
    checkpoint.check_same_run(tmp_path, manifest, config)
    other = config.override({"data.label_map": {255: 0, 7: 1}})
    with pytest.raises(CheckpointError, match=r"differ:\n  data\.label_map: {.*} here, {.*} there"):
        checkpoint.check_same_run(tmp_path, manifest, other)


@pytest.mark.parametrize("mapping", [{255: 1}, {-1: 255, 255: 0}, {0: 1, 1: 0}, {4294967295: 255}])
def test_a_map_is_the_same_in_every_form_of_a_config(
    mapping: dict[int, int], tmp_path: Path
) -> None:
    config = ExperimentConfig().override({"data.label_map": mapping})
    assert config.data.label_map == mapping
    text = write_yaml(config.dump())
    assert parse_yaml(text, "x")[0]["data"]["label_map"] == {str(k): v for k, v in mapping.items()}
    again = ExperimentConfig.parse(parse_yaml(text, "x")[0])
    from_json = ExperimentConfig.parse(json.loads(json.dumps(config.dump())))
    written = str(mapping)
    from_shell = ExperimentConfig().override(*parse_assignments([f"data.label_map={written}"]))
    (tmp_path / "c.yaml").write_text(f"data:\n  label_map: {written}\n")
    from_file = load_config(tmp_path / "c.yaml")
    in_section = ExperimentConfig().override({"data": {"label_map": mapping}})
    for other in (again, from_json, from_shell, from_file, in_section):
        assert other == config
        assert differences(other, config) == []


def test_differences_name_the_map_and_not_its_entries() -> None:
    ours = ExperimentConfig().override({"data.label_map": {255: 1}})
    theirs = ExperimentConfig().override({"data.label_map": {255: 0, -1: 255}})
    assert [difference.name for difference in differences(ours, theirs)] == ["data.label_map"]
    assert str(differences(ours, ExperimentConfig())[0]) == (
        "data.label_map: {255: 1} here, None there"
    )


def test_config_command_shows_the_map_as_a_file_that_it_reads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.yaml").write_text("data:\n  label_map:\n    255: 1\n    -1: 255\n")
    assert config_tools.main([str(tmp_path / "a.yaml")]) == 0
    printed = capsys.readouterr().out
    assert "  label_map:\n    255: 1\n    -1: 255\n" in printed
    (tmp_path / "b.yaml").write_text(printed)
    assert load_config(tmp_path / "b.yaml").data.label_map == {255: 1, -1: 255}


def test_a_search_writes_the_map_and_refuses_another_one(
    binary: DataConfig, tiny_config: ExperimentConfig, tmp_path: Path
) -> None:
    tree = {
        "config": on_data(tiny_config, binary).dump(),
        "space": {"optim.lr": {"loguniform": [1e-5, 1e-3]}},
    }
    (tmp_path / "study.yaml").write_text(write_yaml(tree))
    study = load_study(tmp_path / "study.yaml")
    run = SearchDir(tmp_path / "search")
    with run.locked():
        prepare_study(run, study)
        assert load_study(run.study) == study
        assert load_study(run.study).config.data.label_map == MAP
        prepare_study(run, study, resume=True)
        tree["config"]["data"]["label_map"] = {"255": 0}
        (tmp_path / "study.yaml").write_text(write_yaml(tree))
        with pytest.raises(RunError, match=r"differ:\n  data\.label_map: .*\nundo"):
            prepare_study(run, load_study(tmp_path / "study.yaml"), resume=True)


@pytest.mark.parametrize(
    ("values", "data", "labels"),
    [
        ([[0, 128, 255]], {"label_map": {128: 1, 255: 2}}, [[0, 1, 2]]),
        ([[0, 1, 2]], {"label_map": {0: 1, 1: 0}}, [[1, 0, 2]]),  # swapped, not one after the other
        ([[0, 1, 200]], {"label_map": {200: 255}}, [[0, 1, 255]]),  # the target is ignore_index
        ([[0, 1, 1000]], {"label_map": {1000: 2}}, [[0, 1, 2]]),
        ([[0, 1, 255]], {"label_map": {255: 7}, "ignore_index": 7}, [[0, 1, 7]]),
        ([[7, 11, 0]], {"label_map": {7: 0, 11: 1, 0: 255}}, [[0, 1, 255]]),  # Cityscapes' ids
        ([[0, 1, 300]], {"label_map": {300: 65535}, "ignore_index": 65535}, [[0, 1, 65535]]),
    ],
)
def test_each_value_has_its_own_label(
    tmp_path: Path, values: list, data: dict, labels: list
) -> None:
    assert labels_of(values, tmp_path, 3, **data) == labels


def test_a_value_without_an_entry_is_a_label_and_has_to_be_one(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"labels \[9\] are outside the 3 classes .* 2 of 3 pixels"):
        labels_of([[128, 9, 9]], tmp_path, 3, label_map={128: 1})


def test_a_proposed_map_keeps_the_entries_that_are_set(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"--set 'data\.label_map=\{128: 1, 3: 255\}'$"):
        labels_of([[0, 128, 3]], tmp_path, 3, label_map={128: 1})


def test_the_hint_on_ignored_pixels_keeps_the_entries_that_are_set(
    make_data_set: MakeDataSet,
) -> None:
    masks = {"train": [stripes(0, 0, 128, 255)], "val": [stripes(0, 128)]}
    data = make_data_set(files_of(masks), classes=["a", "b", "c"], label_map={128: 1})
    assert audit(data).notes[0].endswith("--set 'data.label_map={128: 1, 255: 2}'")
    data = make_data_set({}, classes=["a", "b", "c"], label_map={128: 1, 7: 255})
    assert audit(data).notes[0] == (
        "the training masks lack class 'c'; 25 % of all pixels are ignored: data.label_map gives "
        "them 255"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{255:1}", r"got {255:1}: write a blank after the colon, {255: 1}"),
        ("{}", r"allowed is {value in the mask files: label}, such as {255: 1}, or null; got {}"),
        ("[255, 1]", r"allowed is {value in the mask files: label}.* got \[255, 1\]"),
        ("255", r"allowed is {value in the mask files: label}.* got 255"),
        ("{a: 1}", r"allowed are whole numbers .*; got {a: 1}"),
        ("{255: a, b: 1}", r'got {255: "a"} \(and 1 more\)'),
        ("{0xff: 1}", r"got {0xff: 1}"),
        ("{255.0: 1}", r"got {255\.0: 1}"),
        ("{10: 0, 010: 1}", r"got {010: 1}"),  # 8 for YAML 1.1, 10 for YAML 1.2
        ("{255: '1'}", r'got {255: "1"}'),
        ("{255: 1.5}", r"got {255: 1\.5}"),
        ("{255: true}", r"got {255: true}"),
        ("{255: null}", r"got {255: null}"),
        ("{255: -1}", r"labels of 0\.\.65535, .* got {255: -1}"),
        ("{255: 65536}", r"labels of 0\.\.65535, .* got {255: 65536}"),
        ("{255: 0, 255: 1}", r"255: given twice"),
    ],
)
def test_a_map_that_cannot_be_meant_is_one_message(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        ExperimentConfig().override(*parse_assignments([f"data.label_map={text}"]))
    assert len(error.value.problems) == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"reduce_zero_label": True}, "reduce_zero_label is true; set reduce_zero_label to false"),
        ({"layout": "ade20k"}, "reduce_zero_label is true; set reduce_zero_label to false"),
        ({"palette": "voc"}, "palette is set; set palette to null"),
    ],
)
def test_two_translations_of_labels_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=f"label_map cannot be used if {message}") as error:
        DataConfig.parse({"label_map": MAP, **settings})
    assert len(error.value.problems) == 1


def test_a_map_to_labels_that_no_class_has_is_refused_before_a_mask_is_read(
    binary: DataConfig,
    tiny_config: ExperimentConfig,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = on_data(tiny_config, binary, **{"data.label_map": {255: 2, 128: 3}})
    file = tmp_path / "config.yaml"
    file.write_text(write_yaml(config.dump()))
    for mask in Path(binary.root, "masks").rglob("*.png"):
        mask.write_bytes(b"")
    assert train.main(["--config", str(file), "--out", str(tmp_path / "run")]) == 2
    expected = (
        "data.label_map: 255 -> 2: no such label; allowed are 0..1 and 255 (data.ignore_index)\n"
        "data.label_map: 128 -> 3: no such label; allowed are 0..1 and 255 (data.ignore_index)\n"
    )
    assert expected in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert data_tools.main(["check", str(file)]) == 2
    assert expected in capsys.readouterr().err


def test_a_mapped_class_is_learnt(
    make_data_set: MakeDataSet, tiny_config: ExperimentConfig, tmp_path: Path
) -> None:
    """The same masks with labels 0 and 1 give the same weights."""
    weights = []
    for top, settings in ((255, {"label_map": MAP}), (1, {})):
        masks = {"train": [stripes(0, top)] * 4, "val": [stripes(0, top)]}
        config = on_data(tiny_config, make_data_set(files_of(masks), **settings))
        out = tmp_path / f"run-{top}"
        (tmp_path / "config.yaml").write_text(write_yaml(config.dump()))
        assert train.main(["--config", str(tmp_path / "config.yaml"), "--out", str(out)]) == 0
        weights.append(checkpoint.load_weights(best(out)))
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.parametrize("wanted", [[], [3], [255], [0], [3, 4, 5], [0, 255], [2, 9], range(256)])
def test_occurs_is_a_look_up_of_every_pixel(wanted: list[int]) -> None:
    table = np.zeros(256, bool)
    table[list(wanted)] = True
    for value in range(256):
        values = np.full((2, 3), 7, np.uint8)
        values[1, 2] = value
        assert occurs(table, values) == bool(table[values].any())
