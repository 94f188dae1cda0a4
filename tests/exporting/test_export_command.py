"""`segtune export` of a model: what it prints, what it refuses, and why."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import segtune
from segtune.__main__ import main as program
from segtune.config.model_config import ModelConfig
from segtune.config.schema import ExperimentConfig
from segtune.errors import CheckpointError, RunError
from segtune.exporting.licence import licence_of
from segtune.exporting.model_card import collect
from segtune.exporting.public_config import public_config
from segtune.exporting.source import open_source
from segtune.exporting.targets import MARK
from segtune.runs.atomic import write_atomic
from segtune.runs.rundir import SearchDir, TrialDir
from segtune.runs.verdict import Verdict
from segtune.training import checkpoint


@pytest.fixture
def run(segformer: Path, tmp_path: Path) -> Path:
    """Return a copy of a training run."""
    return Path(shutil.copytree(segformer, tmp_path / "run"))


@pytest.fixture
def search(segformer: Path, tmp_path: Path) -> SearchDir:
    """Return a search run of two trials; the checkpoints of the second are deleted."""
    search = SearchDir(tmp_path / "search")
    config = TrialDir(segformer).config.read_text()
    lines = "".join(f"  {line}\n" for line in config.splitlines())
    space = "space:\n  optim.lr: {loguniform: [0.001, 0.1]}\n"
    write_atomic(search.study, f"config:\n{lines}{space}search: {{trials: 2}}\n")
    for number, lr in enumerate((0.01, 0.02)):
        trial = search.trial(number)
        shutil.copytree(segformer, trial.path)
        trial.params.write_text(json.dumps({"optim.lr": lr}))
    shutil.rmtree(search.trial(1).checkpoints)
    return search


def message(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Return the message of a command that the user has to repair."""
    assert program(["export", *map(str, arguments)]) == 2
    return capsys.readouterr().err


def test_one_line_for_each_form(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hf, card = tmp_path / "hf", tmp_path / "card.md"
    assert program(["export", str(run), "--hf", str(hf), "--card", str(card)]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith(f"{hf}: for transformers: SegformerForSemanticSegmentation; logits ")
    assert second == f"{card}: model card, 7 classes"
    assert not Path("best.yaml").exists()


def test_best_trial_of_a_search_or_one_by_number(search: SearchDir, tmp_path: Path) -> None:
    for number in (None, 0):
        card = tmp_path / f"{number}.md"
        segtune.export_model(search.path, card=card, trial=number)
        assert "Trial 0000 of a search of 2 trials over `optim.lr`." in card.read_text()
        assert "Not confirmed: one training run each" in card.read_text()
        assert "segtune confirm" not in card.read_text()


def test_deleted_checkpoint_is_named_with_the_way_out(
    search: SearchDir, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = message(capsys, search.path, "--trial", 1, "--card", tmp_path / "a.md")
    assert "its checkpoints are deleted: a search keeps those of its best trials" in text
    assert f"segtune train --config {search.trial(1).config} --out DIR" in text


def test_unhealthy_trial_is_exported_only_by_its_checkpoint(
    run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    trial = TrialDir(run)
    trial.verdict.unlink()
    trial.write_verdict(Verdict(state="unhealthy", kind="collapsed", epoch=4, evidence="e"))
    folder = checkpoint.newest_best(trial.checkpoints)
    assert folder
    card = tmp_path / "a.md"
    text = message(capsys, run, "--card", card)
    assert f"{run}: ended unhealthy: collapsed: e" in text
    assert f"name the checkpoint: {folder}" in text
    assert not card.exists()
    assert program(["export", str(folder), "--card", str(card)]) == 0
    assert "ended unhealthy" in caplog.text


def test_weights_that_are_not_finite_are_refused(run: Path, tmp_path: Path) -> None:
    source = open_source(run)
    weights = load_file(source.checkpoint / checkpoint.WEIGHTS)
    name = "net.decode_head.classifier.bias"
    weights[name] = torch.full_like(weights[name], torch.nan)
    save_file(weights, source.checkpoint / checkpoint.WEIGHTS)
    manifest = json.loads((source.checkpoint / checkpoint.MANIFEST).read_text())
    del manifest["sha256"]
    checkpoint.write_folder(source.checkpoint, weights, None, manifest)
    with pytest.raises(CheckpointError, match=f"{name} has values that are not finite"):
        segtune.export_model(run, card=tmp_path / "a.md")


def test_no_checkpoint_at_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    assert "no checkpoint" in message(capsys, tmp_path / "empty", "--hf", tmp_path / "hf")


def test_folder_of_the_user_is_never_replaced(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hf = tmp_path / "hf"
    hf.mkdir()
    (hf / "thesis.tex").write_text("years of work")
    for options in ([], ["--overwrite"]):
        text = message(capsys, run, "--hf", hf, *options)
        assert f"--hf: {hf} holds files that segtune has not exported" in text
    assert [path.name for path in hf.iterdir()] == ["thesis.tex"]


def test_earlier_export_is_replaced_with_overwrite(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hf, card = tmp_path / "hf", tmp_path / "card.md"
    hf.mkdir()  # an empty folder is free
    segtune.export_model(run, hf=hf, card=card)
    (hf / "stale.txt").write_text("of the earlier export")
    card.write_text("edited")
    assert "holds an earlier export; replace it with --overwrite" in message(
        capsys, run, "--hf", hf
    )
    text = message(capsys, run, "--card", card)
    assert f"--card: {card} exists; replace it with --overwrite" in text
    assert card.read_text() == "edited"
    segtune.export_model(run, hf=hf, card=card, overwrite=True)
    assert not (hf / "stale.txt").exists()
    assert (hf / MARK).is_file()
    assert card.read_text().startswith("---\nlicense: ")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["card.md", "hf", "run"]


def test_path_of_the_wrong_kind_is_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert "is a file; expected a folder" in message(capsys, run, "--hf", tmp_path / "file")
    assert "is a folder; expected a file" in message(capsys, run, "--pt2", tmp_path)


def test_failed_export_leaves_nothing(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from segtune.exporting import hf_folder

    monkeypatch.setattr(
        hf_folder,
        "logits_of_folder",
        lambda model, folder, images: [torch.zeros(len(batch), 7, 4, 4) for batch in images],
    )
    with pytest.raises(RunError, match="not written: logits differ"):
        segtune.export_model(run, hf=tmp_path / "hf")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_card_without_the_data_set_has_no_numbers_of_images(run: Path, tmp_path: Path) -> None:
    source = open_source(run, overrides=[f"data.root={tmp_path / 'gone'}"])
    card = collect(source)
    assert (card.val, card.num_train) == (None, None)
    assert not (tmp_path / "gone").exists()  # shapes were not generated for it
    assert card.scores


def test_copied_checkpoint_still_has_its_classes(run: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(open_source(run).checkpoint, tmp_path / "copied")
    (written,) = segtune.export_model(folder, card=tmp_path / "a.md")
    assert written.path == tmp_path / "a.md"
    text = (tmp_path / "a.md").read_text()
    assert "No validation of this checkpoint is recorded." in text
    assert "how it was chosen is unknown" in text
    assert "background, disc" in text


def test_public_config_has_no_paths_and_servers_of_this_machine(tmp_path: Path) -> None:
    config = ExperimentConfig().override(
        {
            "data.root": str(tmp_path / "camvid"),
            "data.cache": str(tmp_path),
            "data.images": "leftImg8bit",
            "model.weights": "/disk/mit_b2.pth",
            "log.mlflow_uri": "http://user:secret@server:5000",
            "optim.lr": 0.5,
        }
    )
    public = public_config(config)
    assert (public.data.root, public.data.images) == ("camvid", "leftImg8bit")
    assert (public.model.weights, public.optim.lr) == ("mit_b2.pth", 0.5)
    text = str(public.dump())
    assert not [word for word in (str(tmp_path), "/disk", "secret") if word in text]
    of_hub = config.override({"model.weights": "nvidia/mit-b2"})
    assert public_config(of_hub).model.weights == "nvidia/mit-b2"


@pytest.mark.parametrize(
    ("model", "licence", "words"),
    [
        ({"weights": None}, "", "random weights"),
        ({"weights": "nvidia/mit-b2"}, "other", "NVIDIA's licence, for non-commercial use"),
        ({"weights": "/disk/mit_b2.pth"}, "unknown", "mit_b2.pth: unknown: check. NVIDIA's MiT"),
        ({"name": "upernet", "encoder": "resnet50", "weights": "timm"}, "apache-2.0", "of timm"),
        ({"name": "upernet", "encoder": "resnet50", "weights": "/a/r.pth"}, "unknown", "check"),
    ],
)
def test_licence_of_the_pretrained_weights(
    model: dict[str, object], licence: str, words: str
) -> None:
    found, text = licence_of(ModelConfig().override(model))
    assert found == licence
    assert words in text
    assert "/disk" not in text
