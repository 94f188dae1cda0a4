"""Pretrained encoder weights: reads the kinds of files that users have, and renames their keys to transformers' names.

Kinds are told apart by content: mmseg's MiT (`layers.0.1.0.attn.attn.in_proj_weight`), the original MiT
(`block1.0.attn.q.weight`), transformers' files (`encoder.block.0.0.attention.self.query.weight`), and names that fit as
they are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from segtune.errors import WeightsError

# Inside a block, mmseg's, the original's and the saved names of transformers on the left; what follows (`.weight`, `.bias`) stays.
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
# The name of a stage's part, the number of its first stage (the original counts from 1), and what transformers calls it.
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
    """Returns the tensors of a .safetensors or .pth file, without running pickled code. Raises WeightsError."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError, RuntimeError, EOFError, ValueError) as error:
        raise WeightsError(
            f"model.weights: {path}: not readable as weights: {str(error).splitlines()[0]}"
        ) from None
    except Exception as error:
        # torch raises pickle's own error for what `weights_only` refuses.
        if type(error).__name__ != "UnpicklingError":
            raise
        raise WeightsError(
            f"model.weights: {path}: holds more than plain tensors; save only its state_dict"
        ) from None
    for wrapper in ("state_dict", "model"):
        content = content.get(wrapper, content) if isinstance(content, dict) else content
    if not isinstance(content, dict) or not any(isinstance(v, Tensor) for v in content.values()):
        raise WeightsError(f"model.weights: {path}: holds no tensors by name")
    return {name: value for name, value in content.items() if isinstance(value, Tensor)}


def without_prefix(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Drops `module.` and keeps what is under `backbone.`, where a whole model was saved."""
    plain = {name.removeprefix("module."): value for name, value in weights.items()}
    encoder = {
        name.removeprefix("backbone."): value
        for name, value in plain.items()
        if name.startswith("backbone.")
    }
    return encoder or plain


def to_transformers_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Renames MiT weights of mmseg, of the original or of transformers' files to those of its SegformerModel in memory."""
    renamed: dict[str, Tensor] = {}
    for name, value in without_prefix(weights).items():
        if name.startswith(("decode_head", "auxiliary_head", "head.")):
            continue
        renamed |= _rename(name, value)
    return renamed


def _rename(name: str, value: Tensor) -> dict[str, Tensor]:
    name = name.removeprefix("segformer.").removeprefix("encoder.")
    for pattern, first, part in STAGE_PARTS:
        if not (found := re.fullmatch(pattern, name)):
            continue
        stage, rest = f"stages.{int(found[1]) - first}", found[2]
        if part == "blocks":
            return {
                f"{stage}.blocks.{found[2]}.{key}": piece
                for key, piece in _rename_in_block(found[3], value).items()
            }
        if part == "patch_embeddings":
            module, _, kind = rest.rpartition(".")
            rest = f"{PATCH_NAMES.get(module, module)}.{kind}"
        return {f"{stage}.{part}.{rest}": value}
    return {name: value}


def _rename_in_block(name: str, value: Tensor) -> dict[str, Tensor]:
    base, _, kind = name.rpartition(".")
    if name.startswith("attn.attn.in_proj_"):
        kind = name.removeprefix("attn.attn.in_proj_")
        return {
            f"attention.{part}_proj.{kind}": chunk
            for part, chunk in zip("qkv", value.chunk(3), strict=True)
        }
    if base == "attn.kv":
        return {
            f"attention.{part}_proj.{kind}": chunk
            for part, chunk in zip("kv", value.chunk(2), strict=True)
        }
    target = BLOCK_NAMES.get(base, base)
    # mmseg writes the linear layers of the feed-forward as 1x1 convolutions.
    linear = target in ("mlp.fc1", "mlp.fc2") and value.ndim == 4
    return {f"{target}.{kind}": value.flatten(1) if linear else value}


def load_encoder(encoder: nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    """Copies weights into an encoder; classifiers of the pretraining are passed over.

    Raises WeightsError that names the first keys that are missing, unknown or of another shape.
    """
    own = encoder.state_dict()
    extra = [
        name
        for name in weights
        if name not in own and not name.startswith(("head", "fc.", "classifier", "norm."))
    ]
    missing = [
        name for name in own if name not in weights and not name.endswith("num_batches_tracked")
    ]
    shapes = [
        f"{n} is {list(weights[n].shape)}, expected {list(own[n].shape)}"
        for n in own
        if n in weights and weights[n].shape != own[n].shape
    ]
    wrong = shapes + [f"{n} is missing" for n in missing] + [f"{n} is unknown" for n in extra]
    if wrong:
        raise WeightsError(
            f"model.weights: {source}: not the weights of this encoder: {'; '.join(wrong[:3])} ({len(wrong)} keys in all)"
        )
    encoder.load_state_dict({name: weights[name] for name in own if name in weights}, strict=False)


def absent(given: str, error: Any) -> WeightsError:
    """Returns the error for weights that are neither here nor to be had from the hub."""
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return WeightsError(
        f"model.weights: {given!r} is no file or folder here, and the hub does not give it ({reason[:160]}). "
        "Download it where there is a network (for example: huggingface-cli download nvidia/mit-b2 --local-dir weights/mit-b2), "
        "copy the folder here and set model.weights to its path; null starts from random weights"
    )
