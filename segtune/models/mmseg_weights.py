"""SegFormer's weights under the names of mmsegmentation: the inverse of mit_names.py.

mmseg's SegformerHead has a BatchNorm behind each projection, where the paper and transformers have
a bias. A BatchNorm with the statistics 0 and 1 adds exactly the bias. By default, mmseg's head also
has a ReLU there; `act_cfg=None` turns it off, and leaves the one behind the fusion.
"""

from __future__ import annotations

import math
import re
from typing import Any

import torch
from torch import Tensor, nn

from segtune.models.mit_names import BLOCK_NAMES, PATCH_NAMES
from segtune.models.segformer import SegFormer

# The modules of a block that mmseg has, by their names in transformers.
MMSEG_MODULES = ("norm1", "norm2", "attn.attn.out_proj", "attn.sr", "attn.norm")
MMSEG_FFN = ("ffn.layers.0", "ffn.layers.1", "ffn.layers.4")
IN_BLOCK = {BLOCK_NAMES[name]: name for name in (*MMSEG_MODULES, *MMSEG_FFN)}
IN_PATCHES = {new: name for name, new in PATCH_NAMES.items()}
# mmseg stores these linear layers as 1x1 convolutions.
CONVOLUTIONS = ("ffn.layers.0.weight", "ffn.layers.4.weight")


def to_mmseg(model: SegFormer) -> dict[str, Tensor]:
    """Return the weights of a SegFormer as the state_dict of mmseg's EncoderDecoder."""
    weights = {
        f"backbone.{name}": value
        for name, value in _encoder(dict(model.net.segformer.state_dict())).items()
    }
    head = _head(model.net.decode_head)
    return weights | {f"decode_head.{name}": value for name, value in head.items()}


def _encoder(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of a SegformerModel under the names of mmseg's MixVisionTransformer."""
    renamed: dict[str, Tensor] = {}
    for name, value in weights.items():
        stage, part, rest = _stage_parts(name)
        if part == "patch_embeddings":
            module, _, suffix = rest.rpartition(".")
            renamed[f"layers.{stage}.0.{IN_PATCHES[module]}.{suffix}"] = value
        elif part == "layer_norm":
            renamed[f"layers.{stage}.2.{rest}"] = value
        else:
            block, _, inside = rest.partition(".")
            renamed |= _in_block(f"layers.{stage}.1.{block}.", inside, name, weights)
    return renamed


def _stage_parts(name: str) -> tuple[int, str, str]:
    match = re.fullmatch(r"stages\.(\d)\.(patch_embeddings|blocks|layer_norm)\.(.+)", name)
    assert match, f"a parameter of a SegformerModel, not {name}"
    return int(match[1]), match[2], match[3]


def _in_block(prefix: str, inside: str, name: str, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a tensor of a block under mmseg's name; query, key and value joined, at the query."""
    module, _, suffix = inside.rpartition(".")
    if module in ("attention.k_proj", "attention.v_proj"):
        return {}
    if module == "attention.q_proj":
        projections = [weights[name.replace("q_proj", f"{letter}_proj")] for letter in "qkv"]
        return {f"{prefix}attn.attn.in_proj_{suffix}": torch.cat(projections)}
    new_name = f"{IN_BLOCK[module]}.{suffix}"
    value = weights[name]
    return {prefix + new_name: value[..., None, None] if new_name in CONVOLUTIONS else value}


def _head(head: Any) -> dict[str, Tensor]:
    """Return the weights of transformers' head under the names of mmseg's SegformerHead."""
    renamed: dict[str, Tensor] = {}
    for index, projection in enumerate(head.linear_projections):
        linear = projection.proj
        renamed[f"convs.{index}.conv.weight"] = linear.weight.detach()[..., None, None]
        norm = _adding(linear.bias.detach())
        renamed |= {f"convs.{index}.bn.{name}": value for name, value in norm.items()}
    # mmseg joins the largest map first, transformers the smallest.
    parts = head.linear_fuse.weight.detach().chunk(len(head.linear_projections), dim=1)
    renamed["fusion_conv.conv.weight"] = torch.cat(parts[::-1], dim=1)
    for name, value in head.batch_norm.state_dict().items():
        renamed[f"fusion_conv.bn.{name}"] = value
    for name, value in head.classifier.state_dict().items():
        renamed[f"conv_seg.{name}"] = value
    return renamed


def _adding(bias: Tensor) -> dict[str, Tensor]:
    """Return a BatchNorm that adds `bias` and changes nothing else."""
    norm = nn.BatchNorm2d(len(bias))
    with torch.no_grad():
        # The norm divides by the root of the variance, which is 1, plus its epsilon.
        norm.weight.fill_(math.sqrt(1 + norm.eps))
        norm.bias.copy_(bias)
    return dict(norm.state_dict())


def mmseg_settings(model: SegFormer) -> dict[str, Any]:
    """Return `model` of an mmseg config for these weights."""
    config = model.net.config
    head = model.net.decode_head
    encoder: Any = model.net.segformer
    return {
        "type": "EncoderDecoder",
        "data_preprocessor": None,  # filled by the file's writer, who knows mean and deviation
        "backbone": {
            "type": "MixVisionTransformer",
            "embed_dims": config.hidden_sizes[0],
            "num_stages": len(config.depths),
            "num_layers": list(config.depths),
            "num_heads": list(config.num_attention_heads),
            "patch_sizes": list(config.patch_sizes),
            "strides": list(config.strides),
            "sr_ratios": list(config.sr_ratios),
            "mlp_ratio": config.mlp_ratios[0],
            "qkv_bias": True,
            "norm_cfg": {"type": "LN", "eps": encoder.stages[0].layer_norm.eps},
        },
        "decode_head": {
            "type": "SegformerHead",
            "in_channels": list(config.hidden_sizes),
            "in_index": list(range(len(config.depths))),
            "channels": head.linear_fuse.out_channels,
            "num_classes": head.classifier.out_channels,
            "norm_cfg": {"type": "BN"},
            "act_cfg": None,
            "align_corners": False,
        },
        "test_cfg": {"mode": "whole"},
    }
