"""MiT weights load from every naming that users have; errors say which key does not fit."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from segtune.config.model_config import ModelConfig
from segtune.errors import WeightsError
from segtune.models.segformer import SegFormer

Weights = dict[str, Tensor]

# From the names of transformers to those of mmseg: the inverse of what segtune does.
MMSEG_NAMES = {
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
    "attention.o_proj": "attn.attn.out_proj",
    "attention.sequence_reduction.sequence_reduction": "attn.sr",
    "attention.sequence_reduction.layer_norm": "attn.norm",
    "mlp.fc1": "ffn.layers.0",
    "mlp.dwconv.dwconv": "ffn.layers.1",
    "mlp.fc2": "ffn.layers.4",
}
# From the names of mmseg to those of the paper's authors.
AUTHORS_NAMES = {
    "attn.attn.out_proj": "attn.proj",
    "ffn.layers.0": "mlp.fc1",
    "ffn.layers.1": "mlp.dwconv.dwconv",
    "ffn.layers.4": "mlp.fc2",
}


def segformer(weights: Path | str | None = None, encoder: str = "mit_nano") -> SegFormer:
    settings = {"encoder": encoder, "weights": None if weights is None else str(weights)}
    return SegFormer(ModelConfig.parse(settings), num_classes=5)


def to_mmseg(weights: Weights) -> Weights:
    """Return transformers' MiT under the names of mmseg."""
    renamed: Weights = {}
    for name, value in weights.items():
        _, stage, part, rest = name.split(".", 3)
        if part == "patch_embeddings":
            rest = rest.replace("proj", "projection").replace("layer_norm", "norm")
            renamed[f"layers.{stage}.0.{rest}"] = value
        elif part == "layer_norm":
            renamed[f"layers.{stage}.2.{rest}"] = value
        else:
            renamed |= block_to_mmseg(f"layers.{stage}.1", name, weights)
    return renamed


def block_to_mmseg(stage: str, name: str, weights: Weights) -> Weights:
    """Return a tensor of a block under mmseg's name; q carries k and v along, which have none."""
    value = weights[name]
    block, rest = name.split(".", 3)[3].split(".", 1)
    module, suffix = rest.rsplit(".", 1)
    if module == "attention.q_proj":
        joined = [weights[name.replace("q_proj", f"{letter}_proj")] for letter in "qkv"]
        return {f"{stage}.{block}.attn.attn.in_proj_{suffix}": torch.cat(joined)}
    if module in ("attention.k_proj", "attention.v_proj"):
        return {}
    if module in ("mlp.fc1", "mlp.fc2") and suffix == "weight":
        value = value[:, :, None, None]
    return {f"{stage}.{block}.{MMSEG_NAMES[module]}.{suffix}": value}


def to_authors(mmseg: Weights) -> Weights:
    """Return mmseg's MiT under the names of the paper's authors, with a classifier.

    q and kv are apart, linear layers are stored as such, and stages count from 1.
    """
    renamed: Weights = {"head.weight": torch.zeros(10, 96), "head.bias": torch.zeros(10)}
    for name, value in mmseg.items():
        _, stage, part, rest = name.split(".", 3)
        number = int(stage) + 1
        if part == "0":
            renamed[f"patch_embed{number}.{rest.replace('projection', 'proj')}"] = value
        elif part == "2":
            renamed[f"norm{number}.{rest}"] = value
        else:
            block, rest = rest.split(".", 1)
            renamed |= block_to_authors(f"block{number}.{block}", rest, value)
    return renamed


def block_to_authors(block: str, rest: str, value: Tensor) -> Weights:
    if "in_proj_" in rest:
        suffix = rest.rpartition("in_proj_")[2]
        query, key_value = value[: len(value) // 3], value[len(value) // 3 :]
        return {f"{block}.attn.q.{suffix}": query, f"{block}.attn.kv.{suffix}": key_value}
    module, suffix = rest.rsplit(".", 1)
    if module in ("ffn.layers.0", "ffn.layers.4") and suffix == "weight":
        value = value[..., 0, 0]
    return {f"{block}.{AUTHORS_NAMES.get(module, module)}.{suffix}": value}


def save_in_every_naming(encoder: Any, folder: Path) -> list[Path]:
    """Save a SegformerModel in the ways that users have weights; return the paths."""
    weights: Weights = encoder.state_dict()
    encoder.save_pretrained(folder / "hf")
    mmseg = to_mmseg(weights)
    torch.save(mmseg, folder / "mmseg.pth")
    whole_model = {f"backbone.{name}": value for name, value in mmseg.items()}
    torch.save({"state_dict": whole_model}, folder / "whole_model.pth")
    torch.save(to_authors(mmseg), folder / "authors.pth")
    # segmentation_models_pytorch has the encoder of the authors inside its model.
    smp = {f"encoder.{name}": value for name, value in to_authors(mmseg).items()}
    torch.save({**smp, "decoder.fuse.weight": torch.zeros(2)}, folder / "smp.pth")
    in_memory = {name: value.contiguous() for name, value in weights.items()}
    save_file(in_memory, folder / "in_memory.safetensors")
    # Folders of the hub: pickled, under `segformer.`, with the classifier of the pretraining.
    (folder / "bin").mkdir()
    shutil.copy(folder / "hf/config.json", folder / "bin")
    saved = load_file(folder / "hf/model.safetensors")
    hub = {f"segformer.{name}": value for name, value in saved.items()}
    hub["classifier.weight"] = torch.zeros(10, 96)
    torch.save(hub, folder / "bin/pytorch_model.bin")
    return [
        folder / "hf",
        folder / "hf/model.safetensors",
        folder / "mmseg.pth",
        folder / "whole_model.pth",
        folder / "authors.pth",
        folder / "smp.pth",
        folder / "in_memory.safetensors",
        folder / "bin",
        folder / "bin/pytorch_model.bin",
    ]


def test_the_same_weights_in_every_naming_give_the_same_logits(tmp_path: Path) -> None:
    source = segformer().net.segformer
    # Norms and biases start as ones and zeros. Without noise, swapped ones would not be noticed.
    with torch.no_grad():
        for parameter in source.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    image = torch.randn(1, 3, 64, 64)
    expected = source.eval()(pixel_values=image).last_hidden_state
    logits: list[Tensor] = []
    for path in save_in_every_naming(source, tmp_path):
        torch.manual_seed(1)  # the head is random
        model = segformer(path).eval()
        encoded = model.net.segformer(pixel_values=image).last_hidden_state
        assert torch.equal(encoded, expected), path
        logits.append(model(image))
        assert torch.equal(logits[-1], logits[0]), path


def test_folder_with_other_keys_is_refused_and_not_left_random(tmp_path: Path) -> None:
    segformer().net.segformer.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    renamed = {name.replace("block", "layer"): value for name, value in load_file(path).items()}
    save_file(renamed, path, metadata={"format": "pt"})
    with pytest.raises(WeightsError, match=r"blocks\.0\.\S+ is missing"):
        segformer(tmp_path)


@pytest.mark.parametrize("files", [{}, {"config.json": "{}"}, {"config.json": "no json"}])
def test_folder_that_is_no_model_says_what_it_should_hold(
    tmp_path: Path, files: dict[str, str]
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(
        WeightsError, match=r"no weights in this folder; expected model\.safetensors"
    ):
        segformer(tmp_path)


def add_a_key(weights: Weights) -> None:
    weights["layers.0.1.0.attn.extra.weight"] = torch.zeros(1)


def drop_a_key(weights: Weights) -> None:
    del weights["layers.3.2.bias"]


def change_a_shape(weights: Weights) -> None:
    weights["layers.3.2.bias"] = torch.zeros(5)


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (add_a_key, "attn.extra.weight is unknown"),
        (drop_a_key, "stages.3.layer_norm.bias is missing"),
        (change_a_shape, "stages.3.layer_norm.bias is [5], expected [96]"),
    ],
)
def test_each_key_that_does_not_fit_is_named(
    tmp_path: Path, damage: Callable[[Weights], None], problem: str
) -> None:
    weights = to_mmseg(segformer().net.segformer.state_dict())
    damage(weights)
    torch.save(weights, tmp_path / "mit.pth")
    with pytest.raises(WeightsError, match=re.escape(problem)):
        segformer(tmp_path / "mit.pth")


def test_weights_of_another_encoder_are_refused_by_name(tmp_path: Path) -> None:
    torch.save(to_mmseg(segformer().net.segformer.state_dict()), tmp_path / "nano.pth")
    with pytest.raises(WeightsError, match=r"not the weights of this encoder: stages\.0"):
        segformer(tmp_path / "nano.pth", encoder="mit_b0")


@pytest.mark.parametrize("source", ["nvidia/mit-b0", "nowhere/mit.pth", "mit-b2"])
def test_absent_weights_say_what_to_get_and_where_to_put_it(
    source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(WeightsError, match=r"set model\.weights to its path"):
        segformer(source, encoder="mit_b0")


def test_pickled_code_in_weights_is_not_run(tmp_path: Path) -> None:
    class Harmful:
        def __reduce__(self) -> tuple[object, ...]:
            return (open, (str(tmp_path / "harm"), "w"))

    torch.save({"x": Harmful()}, tmp_path / "weights.pth")
    with pytest.raises(WeightsError, match="holds more than plain tensors"):
        segformer(tmp_path / "weights.pth")
    assert not (tmp_path / "harm").exists()
