"""Read pretrained encoder weights from the files that users have, and rename their keys.

A model of transformers has other parameter names in memory than the files that hold its weights.
The naming of a file is recognised by its keys:
- mmseg's MiT: `layers.0.1.0.attn.attn.in_proj_weight`;
- the MiT of the paper's authors: `block1.0.attn.q.weight`;
- files of transformers: `encoder.block.0.0.attention.self.query.weight`;
- keys that fit as they are.

Weights from the hub are downloaded in `segformer.py` and `upernet.py`, by transformers and timm.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from segtune.errors import WeightsError

# Names of the modules in a block: in the files of mmseg, the authors and transformers -> in memory.
# The suffix (`.weight`, `.bias`) stays.
BLOCK_NAMES = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.attn.out_proj": "attention.o_proj",
    "attn.proj": "attention.o_proj",
    "attn.q": "attention.q_proj",
    "attn.sr": "attention.sequence_reduction.sequence_reduction",
    "attn.norm": "attention.sequence_reduction.layer_norm",
    "ffn.layers.0": "mlp.fc1",
    "ffn.layers.1": "mlp.dwconv.dwconv",
    "ffn.layers.4": "mlp.fc2",
    "mlp.fc1": "mlp.fc1",
    "mlp.dwconv.dwconv": "mlp.dwconv.dwconv",
    "mlp.fc2": "mlp.fc2",
    "layer_norm_1": "layernorm_before",
    "layer_norm_2": "layernorm_after",
    "attention.output.dense": "attention.o_proj",
    "attention.self.query": "attention.q_proj",
    "attention.self.key": "attention.k_proj",
    "attention.self.value": "attention.v_proj",
    "attention.self.sr": "attention.sequence_reduction.sequence_reduction",
    "attention.self.layer_norm": "attention.sequence_reduction.layer_norm",
    "mlp.dense1": "mlp.fc1",
    "mlp.dense2": "mlp.fc2",
}
PATCH_NAMES = {"projection": "proj", "norm": "layer_norm"}
# The parts of a stage: the pattern of a key, the number of the first stage (the authors count from
# 1), and the name of the part in transformers.
STAGE_PARTS = [
    (r"layers\.(\d)\.0\.(.+)", 0, "patch_embeddings"),
    (r"layers\.(\d)\.1\.(\d+)\.(.+)", 0, "blocks"),
    (r"layers\.(\d)\.2\.(.+)", 0, "layer_norm"),
    (r"patch_embed(\d)\.(.+)", 1, "patch_embeddings"),
    (r"block(\d)\.(\d+)\.(.+)", 1, "blocks"),
    (r"norm(\d)\.(.+)", 1, "layer_norm"),
    (r"patch_embeddings\.(\d)\.(.+)", 0, "patch_embeddings"),
    (r"block\.(\d)\.(\d+)\.(.+)", 0, "blocks"),
    (r"layer_norm\.(\d)\.(.+)", 0, "layer_norm"),
]


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a .safetensors or .pth file by name. No pickled code is run.

    Raises WeightsError if the file cannot be read, or holds anything else than tensors by name.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError, RuntimeError, EOFError, ValueError) as error:
        raise WeightsError(
            f"model.weights: {path}: not readable as weights: {str(error).splitlines()[0]}"
        ) from None
    except pickle.UnpicklingError:  # `weights_only` refuses the content
        raise WeightsError(
            f"model.weights: {path}: holds more than plain tensors; save only its state_dict"
        ) from None
    for wrapper in ("state_dict", "model"):
        content = content.get(wrapper, content) if isinstance(content, dict) else content
    tensors: dict[str, Tensor] = {}
    if isinstance(content, dict):
        tensors = {name: value for name, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        raise WeightsError(f"model.weights: {path}: holds no tensors by name")
    return tensors


def strip_prefixes(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights without `module.`; of a whole model, only those under `backbone.`."""
    unwrapped = {name.removeprefix("module."): value for name, value in weights.items()}
    encoder = {
        name.removeprefix("backbone."): value
        for name, value in unwrapped.items()
        if name.startswith("backbone.")
    }
    return encoder or unwrapped


def to_transformers_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return MiT weights under the names of transformers' SegformerModel in memory.

    `weights` may have any of the namings in this module's docstring. Heads are dropped.
    """
    renamed: dict[str, Tensor] = {}
    for name, value in strip_prefixes(weights).items():
        if name.startswith(("decode_head", "auxiliary_head", "head.")):
            continue
        renamed |= _rename(name, value)
    return renamed


def _rename(name: str, value: Tensor) -> dict[str, Tensor]:
    """Return a tensor of a MiT under its new name, or its parts if transformers splits it."""
    name = name.removeprefix("segformer.").removeprefix("encoder.")
    for pattern, first_stage, part in STAGE_PARTS:
        if not (match := re.fullmatch(pattern, name)):
            continue
        stage = f"stages.{int(match[1]) - first_stage}"
        if part == "blocks":
            in_block = _rename_in_block(match[3], value)
            return {f"{stage}.blocks.{match[2]}.{key}": piece for key, piece in in_block.items()}
        rest = match[2]
        if part == "patch_embeddings":
            module, _, suffix = rest.rpartition(".")
            rest = f"{PATCH_NAMES.get(module, module)}.{suffix}"
        return {f"{stage}.{part}.{rest}": value}
    return {name: value}


def _rename_in_block(name: str, value: Tensor) -> dict[str, Tensor]:
    """Return a tensor of a block under its new name, or the projections that it joins."""
    module, _, suffix = name.rpartition(".")
    if name.startswith("attn.attn.in_proj_"):
        return _split_projections("qkv", name.removeprefix("attn.attn.in_proj_"), value)
    if module == "attn.kv":
        return _split_projections("kv", suffix, value)
    new_module = BLOCK_NAMES.get(module, module)
    # mmseg stores the linear layers of the feed-forward network as 1x1 convolutions.
    is_conv = new_module in ("mlp.fc1", "mlp.fc2") and value.ndim == 4
    return {f"{new_module}.{suffix}": value.flatten(1) if is_conv else value}


def _split_projections(letters: str, suffix: str, value: Tensor) -> dict[str, Tensor]:
    """Return the query, key and value projections (`letters`: q, k, v) that `value` joins."""
    chunks = zip(letters, value.chunk(len(letters)), strict=True)
    return {f"attention.{letter}_proj.{suffix}": chunk for letter, chunk in chunks}


def load_encoder(encoder: nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    """Copy weights into an encoder; classifiers of the pretraining are skipped.

    `source` is the name of the weights in messages. Raises WeightsError with the first keys that
    are missing, unknown or of another shape.
    """
    expected = encoder.state_dict()
    problems = _key_problems(weights, expected)
    if problems:
        raise WeightsError(
            f"model.weights: {source}: not the weights of this encoder: "
            f"{'; '.join(problems[:3])} ({len(problems)} keys in all)"
        )
    encoder.load_state_dict(
        {name: weights[name] for name in expected if name in weights}, strict=False
    )


def _key_problems(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[str]:
    """Return one phrase for each key that does not fit."""
    classifier = ("head", "fc.", "classifier", "norm.")
    shapes, missing, unknown = [], [], []
    for name, value in expected.items():
        if name not in weights:
            # Some files lack this counter of BatchNorm, which changes no output.
            if not name.endswith("num_batches_tracked"):
                missing.append(f"{name} is missing")
        elif weights[name].shape != value.shape:
            shapes.append(f"{name} is {list(weights[name].shape)}, expected {list(value.shape)}")
    for name in weights:
        if name not in expected and not name.startswith(classifier):
            unknown.append(f"{name} is unknown")
    return shapes + missing + unknown


def weights_not_found(source: str, error: object) -> WeightsError:
    """Return the error for weights that are neither on this machine nor available from the hub."""
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return WeightsError(
        f"model.weights: {source!r} is no file or folder on this machine, and the hub does not "
        f"provide it ({reason[:160]}). Download it on a machine with a network (for example: "
        "huggingface-cli download nvidia/mit-b2 --local-dir weights/mit-b2), copy the folder here "
        "and set model.weights to its path; null starts from random weights"
    )
