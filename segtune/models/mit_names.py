"""The parameter names of a MiT in the files that users have, and in transformers.

A model of transformers has other parameter names in memory than the files that hold its weights.
The naming of a file is recognised by its keys:
- mmseg's MiT: `layers.0.1.0.attn.attn.in_proj_weight`;
- the MiT of the paper's authors: `block1.0.attn.q.weight`;
- files of transformers: `block.0.0.attention.self.query.weight`;
- keys that fit as they are.
"""

from __future__ import annotations

import re

from torch import Tensor

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


def to_transformers_names(name: str, value: Tensor) -> dict[str, Tensor]:
    """Return a tensor of a MiT under its name in transformers' SegformerModel in memory.

    `name` may have any of the namings in this module's docstring, without a prefix. If transformers
    splits the tensor, return its parts.
    """
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
