"""ONNX and torch.export: free sizes, the same predictions, and a description in the file."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pages import blocks
from shipped import ROOT
from torch import nn

from segtune import api_export
from segtune.api_export import export_model
from segtune.api_predict import predict_labels
from segtune.config.schema import ExperimentConfig
from segtune.errors import RunError
from segtune.exporting import program as programs
from segtune.exporting.onnx_file import OPSET, write_onnx
from segtune.exporting.program import (
    Case,
    cases_for,
    check_difference,
    difference,
    export_program,
    write_pt2,
)
from segtune.exporting.source import ExportSource, open_source
from segtune.models.build import build_model
from segtune.models.exportable import PoolByMatmul, Sides, exportable
from segtune.training import checkpoint, evaluation

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def program(segformer_source: ExportSource) -> torch.export.ExportedProgram:
    return export_program(segformer_source)


def normalised(num: int, height: int, width: int) -> torch.Tensor:
    return torch.randn(num, 3, height, width, generator=torch.Generator().manual_seed(7))


def run_page(word: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Run the block of Python in docs/export.md that has a word; return its variables."""
    page = blocks(ROOT / "docs" / "export.md")
    (block,) = (b for b in page if b.language == "python" and word in b.text)
    variables: dict[str, Any] = {}
    monkeypatch.chdir(folder)
    exec(compile(block.text, str(block), "exec"), variables)
    return variables


@pytest.mark.slow
def test_onnx_file_predicts_the_same_at_any_size_and_describes_itself(
    segformer_source: ExportSource,
    program: torch.export.ExportedProgram,
    image: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sentence = write_onnx(segformer_source, tmp_path / "model.onnx", program)
    assert sentence.startswith(f"ONNX, opset {OPSET}, free batch and sizes, output logits; logits ")
    model = onnx.load(tmp_path / "model.onnx")
    onnx.checker.check_model(model)
    assert {entry.domain or "ai.onnx": entry.version for entry in model.opset_import} == {
        "ai.onnx": OPSET
    }
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    details = json.loads(metadata["segtune"])
    assert details["classes"] == list(segformer_source.classes)
    assert details["mean"] == [123.675, 116.28, 103.53]
    assert details["resize"] == {"long_side": 96, "short_side": 64}
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    (images,) = session.get_inputs()
    assert images.shape == ["batch", 3, "height", "width"]
    for size in [(1, 65, 200), (5, 128, 64)]:
        batch = normalised(*size)
        with torch.no_grad():
            expected = segformer_source.model(batch)
        (logits,) = session.run(None, {images.name: batch.numpy()})
        assert np.abs(logits - expected.numpy()).max() < 1e-4
    shutil.copy(image, tmp_path / "image.png")
    labels = run_page("onnxruntime", tmp_path, monkeypatch)["labels"]
    (expected,) = predict_labels(segformer_source.checkpoint, [image])
    assert labels.shape == (64, 64)
    assert (labels != expected).mean() < 1e-3


@pytest.mark.slow
def test_onnx_labels_are_those_of_segtune(upernet: Path, tmp_path: Path) -> None:
    source = open_source(upernet)
    sentence = write_onnx(source, tmp_path / "a.onnx", export_program(source, "labels"), "labels")
    assert sentence.endswith("% of the labels differ from segtune's")
    session = onnxruntime.InferenceSession(tmp_path / "a.onnx")
    batch = normalised(2, 70, 101)
    (labels,) = session.run(None, {"images": batch.numpy()})
    with torch.no_grad():
        expected = evaluation.predict_labels([source.model(batch)], (70, 101))
    assert (labels.shape, labels.dtype) == ((2, 70, 101), np.int64)
    assert (labels != expected.numpy()).mean() < 1e-3


@pytest.mark.slow
def test_pt2_file_loads_without_segtune(
    segformer_source: ExportSource,
    program: torch.export.ExportedProgram,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sentence = write_pt2(segformer_source, tmp_path / "model.pt2", program)
    assert "loads without segtune; logits differ from segtune's by at most" in sentence
    extra = {programs.METADATA: ""}
    loaded = torch.export.load(tmp_path / "model.pt2", extra_files=extra)
    assert json.loads(extra[programs.METADATA])["output"] == "logits"
    batch = normalised(3, 64, 131)
    with torch.no_grad():
        assert torch.allclose(loaded.module()(batch), segformer_source.model(batch), atol=1e-5)
    variables = run_page("torch.export.load", tmp_path, monkeypatch)
    assert variables["labels"].shape == (1, 128, 160)
    assert variables["about"]["classes"] == list(segformer_source.classes)


@pytest.mark.slow
def test_file_with_other_weights_is_refused_and_not_written(
    segformer: Path, program: torch.export.ExportedProgram, tmp_path: Path
) -> None:
    other = open_source(segformer)
    with torch.no_grad():
        for parameter in other.model.parameters():
            parameter.add_(0.01)
    with pytest.raises(RunError, match=r"not written: logits differ .* allowed is 0\.001"):
        write_pt2(other, tmp_path / "a.pt2", program)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("worst", [2e-3, float("nan"), float("inf")])
def test_difference_above_rounding_is_refused(worst: float) -> None:
    assert "at most 9.0e-04" in check_difference(Path("a"), 9e-4)
    with pytest.raises(RunError, match="a: not written: "):
        check_difference(Path("a"), worst)


def test_difference_of_labels_is_a_share_of_the_pixels() -> None:
    case = Case(torch.zeros(1), torch.tensor([[[0, 1], [2, 3]]]))
    assert difference([torch.tensor([[[0, 1], [2, 9]]])], [case]) == 0.25
    assert check_difference(Path("a"), 0.0, "labels") == "0 % of the labels differ from segtune's"


def test_network_that_fixes_a_size_is_refused(
    segformer_source: ExportSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Fixed(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images if images.shape[-1] == 160 else images + 1

    monkeypatch.setattr(programs, "exportable", lambda model: Fixed())
    with pytest.raises(RunError, match=r"torch\.export does not take segformer with mit_nano"):
        export_program(segformer_source)


def test_encoder_with_windows_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    config = ExperimentConfig().override(
        {
            "model.name": "upernet",
            "model.encoder": "swin_tiny_patch4_window7_224",
            "model.decoder_channels": 8,
            "data.classes": ["a", "b"],
        }
    )
    weights = build_model(config.model, 2).state_dict()
    manifest = checkpoint.Manifest(1, 1, 1e-3, None, config.dump(), classes=("a", "b"))
    folder = checkpoint.save(tmp_path / "run" / "checkpoints", "best", weights, None, manifest)
    with pytest.raises(RunError, match="its windows depend on the size"):
        export_model(folder, onnx=tmp_path / "a.onnx", hf=tmp_path / "hf")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_missing_extra_is_named(
    segformer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api_export, "ONNX_LIBRARIES", ("onnx", "no_such_library"))
    with pytest.raises(RunError, match=r"--onnx: needs no_such_library; .* \"segtune\[export\]\""):
        export_model(segformer, onnx=tmp_path / "a.onnx")


@pytest.mark.parametrize("size", [1, 2, 3, 6, (2, 5), (None, 3)])
@pytest.mark.parametrize("side", [(1, 1), (5, 7), (12, 6), (33, 20)])
def test_pooling_by_matrices_is_torchs(
    size: int | tuple[int | None, int], side: tuple[int, int]
) -> None:
    maps = torch.randn(2, 3, *side)
    expected = nn.AdaptiveAvgPool2d(size)(maps)
    assert torch.allclose(PoolByMatmul(size)(maps), expected, atol=1e-6)


def test_exportable_copy_leaves_the_model_alone(upernet: Path) -> None:
    source = open_source(upernet)
    copy = exportable(source.model)
    kinds = [type(module) for module in source.model.modules()]
    assert PoolByMatmul not in kinds
    assert [type(module) for module in copy.modules()].count(PoolByMatmul) == 4
    case = cases_for(source)[1]
    with torch.no_grad():
        assert torch.allclose(copy(case.images), case.expected, atol=1e-5)


def test_sides_are_rounded_up() -> None:
    assert [Sides(32, 64).at_least(side) for side in (1, 64, 65)] == [64, 64, 96]
    assert Sides(14, 64).at_least(1) == 70
