"""A folder for transformers predicts what segtune predicts; other models get one for segtune."""

import json
import re
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image

import segtune
from segtune.__main__ import main as program
from segtune.config.schema import load_config
from segtune.data.known_classes import NAMED_CLASSES
from segtune.data.loader import normalize
from segtune.exporting.source import open_source
from segtune.exporting.targets import MARK
from segtune.training.checkpoint import write_folder

CLASSES = NAMED_CLASSES["shapes"]
PYTHON_BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)


def segtune_labels(checkpoint: Path, image: Path, out: Path) -> np.ndarray:
    """Return the labels of an image as `segtune predict --labels` writes them."""
    command = ["predict", "--checkpoint", str(checkpoint), "--labels", str(out), str(image)]
    assert program(command) == 0
    return np.asarray(Image.open(out / f"{image.stem}.png"))


def pipeline_labels(folder: Path, image: Path) -> np.ndarray:
    """Return the labels of an image as transformers' pipeline predicts them."""
    from transformers import pipeline

    parts = pipeline("image-segmentation", model=str(folder))(str(image))
    labels = np.full(Image.open(image).size[::-1], 255, np.uint8)
    for part in parts:
        labels[np.asarray(part["mask"]) == 255] = CLASSES.index(part["label"])
    return labels


def balanced(run: Path, image: Path, out: Path) -> Path:
    """Return a checkpoint of the same network that predicts every class somewhere in `image`.

    After a few steps, a network predicts the background everywhere, which would compare little.
    """
    source = open_source(run)
    pixels = np.asarray(Image.open(image).convert("RGB"))
    with torch.no_grad():
        logits = source.model(normalize(torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None]))
        weights = dict(source.model.state_dict())
        (name,) = [name for name in weights if name.endswith("decode_head.classifier.bias")]
        weights[name] = weights[name] - logits.mean((0, 2, 3))
    write_folder(out, weights, None, asdict(source.manifest))
    return out


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("segformer", "SegformerForSemanticSegmentation"),
        ("upernet", "UperNetForSemanticSegmentation"),
    ],
)
def test_pipeline_and_predict_give_the_same_labels(
    kind: str, name: str, request: pytest.FixtureRequest, image: Path, tmp_path: Path
) -> None:
    run = balanced(request.getfixturevalue(kind), image, tmp_path / "checkpoint")
    (written,) = segtune.export_model(run, hf=tmp_path / "hf")
    assert written.path == tmp_path / "hf"
    assert re.fullmatch(
        rf"for transformers: {name}; logits differ .* at most \d\.\de[-+]\d+", written.sentence
    )
    ours = segtune_labels(run, image, tmp_path / "labels")
    theirs = pipeline_labels(tmp_path / "hf", image)
    assert len(np.unique(ours)) > 3
    # Bilinear upsampling in another order of sums may change a tie.
    assert (ours != theirs).mean() < 0.001
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert config["architectures"] == [name]
    assert list(config["id2label"].values()) == list(CLASSES)
    assert config["label2id"] == {name: label for label, name in enumerate(CLASSES)}


def test_image_processor_does_what_the_config_evaluates_with(
    segformer: Path, tmp_path: Path
) -> None:
    from transformers import AutoImageProcessor

    # Masks of this config have 1 for the first class.
    overrides = ["data.reduce_zero_label=true"]
    segtune.export_model(segformer, hf=tmp_path / "hf", overrides=overrides)
    processor = AutoImageProcessor.from_pretrained(tmp_path / "hf")
    assert processor.do_reduce_labels is True
    large = Image.new("RGB", (300, 100), (10, 20, 30))
    pixels = processor(large, return_tensors="pt")["pixel_values"]
    # 300 x 100 fits into 96 x 64 as 96 x 32.
    assert pixels.shape == (1, 3, 32, 96)
    expected = (np.array([10, 20, 30]) - [123.675, 116.28, 103.53]) / [58.395, 57.12, 57.375]
    assert pixels[0, :, 0, 0].numpy() == pytest.approx(expected, abs=1e-5)


def test_weights_can_be_read_by_others_than_their_writer(segformer: Path, tmp_path: Path) -> None:
    segtune.export_model(segformer, hf=tmp_path / "hf")
    modes = {path.stat().st_mode for path in (tmp_path / "hf").iterdir()}
    assert len(modes) == 1


def test_block_of_the_card_runs_without_segtune(
    segformer: Path, image: Path, tmp_path: Path
) -> None:
    segtune.export_model(segformer, hf=tmp_path / "hf")
    (tmp_path / "image.png").write_bytes(image.read_bytes())
    (code,) = PYTHON_BLOCK.findall((tmp_path / "hf" / "README.md").read_text())
    code += "\nimport sys; assert 'segtune' not in sys.modules\n"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "background (64, 64)" in done.stdout


def test_card_has_the_hubs_front_matter_and_the_scores(segformer: Path, tmp_path: Path) -> None:
    segtune.export_model(segformer, hf=tmp_path / "hf")
    card = ModelCard.load(tmp_path / "hf" / "README.md")
    assert card.data.pipeline_tag == "image-segmentation"
    assert (card.data.library_name, card.data.license) == ("transformers", "unknown")
    results = {result.metric_type: result.metric_value for result in card.data.eval_results}
    source = open_source(segformer)
    assert source.training_run
    records = source.training_run.read_epochs()
    (record,) = [r for r in records if r.epoch == source.manifest.epoch]
    assert record.validation
    assert results["mean_iou"] == pytest.approx(record.validation.miou, abs=1e-6)
    assert results["pixel_accuracy"] == pytest.approx(record.validation.aacc, abs=1e-6)
    text = card.text
    assert f"| 0 | background | {100 * record.validation.class_iou[0]:.2f} | 7 |" in text
    assert "- training: train, 24 images" in text
    assert "One training run of one config; nothing was searched." in text
    # Folders of this machine are nobody's business on the hub.
    assert str(segformer.parent.parent) not in text
    assert source.config.data.root not in text


def test_model_that_transformers_lacks_becomes_a_folder_for_segtune(
    deeplab: Path, image: Path, tmp_path: Path
) -> None:
    (written,) = segtune.export_model(deeplab, hf=tmp_path / "hf")
    assert "for segtune, because transformers has no lraspp" in written.sentence
    names = {path.name for path in (tmp_path / "hf").iterdir()}
    assert names == {"README.md", "config.yaml", "manifest.json", "weights.safetensors", MARK}
    before = segtune_labels(deeplab, image, tmp_path / "before")
    assert (segtune_labels(tmp_path / "hf", image, tmp_path / "after") == before).all()
    config = load_config(tmp_path / "hf" / "config.yaml")
    assert config.data.classes == CLASSES
    assert str(deeplab.parent.parent.parent) not in (tmp_path / "hf" / "manifest.json").read_text()
    (code,) = PYTHON_BLOCK.findall((tmp_path / "hf" / "README.md").read_text())
    root = Path(segtune.__file__).parent.parent
    code = f"import sys; sys.path.insert(0, {str(root)!r})\n{code}\nprint(labels.shape)"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("torch.Size([1, ")


def test_upernet_without_a_counterpart_becomes_a_folder_for_segtune() -> None:
    from segtune.config.model_config import ModelConfig
    from segtune.models.build import build_model
    from segtune.models.transformers_models import to_transformers

    encoder = "vit_tiny_patch16_224"  # has a pyramid of segtune behind it
    config = ModelConfig(name="upernet", encoder=encoder, decoder_channels=8)
    assert to_transformers(build_model(config, 2).eval(), config, ["a", "b"], 255) is None


def test_export_leaves_the_checkpoint_as_it_was(segformer: Path, tmp_path: Path) -> None:
    source = open_source(segformer)
    before = {name: value.clone() for name, value in source.model.state_dict().items()}
    segtune.export_model(segformer, hf=tmp_path / "hf")
    after = open_source(segformer).model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
