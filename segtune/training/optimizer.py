"""Parameter groups, the optimiser, and the learning rate of each group."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import nn

from segtune.config.optim_config import OptimConfig
from segtune.training.layer_decay import layer_factors

NORMS = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._NormBase)
# timm has norms of its own (LayerNorm2d, BatchNormAct2d and others). Most derive from torch's, but
# not all. The names of all their classes start with one of these.
NORM_NAMES = ("layernorm", "batchnorm", "rmsnorm")
POSITION_NAMES = (
    "pos_embed",
    "pos_block",
    "position_embedding",
    "relative_position_bias_table",
    "cls_token",
)


def parameter_groups(
    model: nn.Module, config: OptimConfig, head_prefixes: Collection[str]
) -> list[dict[str, Any]]:
    """Return groups for torch: encoder and head, each with and without weight decay.

    A parameter whose name starts with one of `head_prefixes` learns at lr * head_lr_mult. With
    `layer_decay` below 1, the encoder has such groups for each of its blocks. Norms, biases and
    position embeddings have no weight decay (SegFormer's recipe, Xie et al. 2021).
    """
    undecayed = _undecayed(model)
    names = [name for name, _ in model.named_parameters()]
    factors = dict.fromkeys(names, config.head_lr_mult)
    in_encoder = dict.fromkeys(n for n in names if not n.startswith(tuple(head_prefixes)))
    factors |= layer_factors(in_encoder, config.layer_decay)
    groups: dict[tuple[bool, float, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            key = (name not in in_encoder, factors[name], name not in undecayed)
            groups.setdefault(key, []).append(parameter)
    return [
        _group(config, parameters, config.lr * factor, is_decayed)
        for (_, factor, is_decayed), parameters in sorted(groups.items())
    ]


def _group(
    config: OptimConfig, parameters: list[nn.Parameter], lr: float, is_decayed: bool
) -> dict[str, Any]:
    return {
        "params": parameters,
        "initial_lr": lr,
        "lr": lr,
        "weight_decay": config.weight_decay if is_decayed else 0.0,
    }


def _undecayed(model: nn.Module) -> set[str]:
    """Return the names of norms, biases and position embeddings."""
    names = {
        name
        for name, _ in model.named_parameters()
        if name.endswith("bias") or any(position in name for position in POSITION_NAMES)
    }
    for prefix, module in model.named_modules():
        if isinstance(module, NORMS) or type(module).__name__.lower().startswith(NORM_NAMES):
            names |= {f"{prefix}.{name}" for name, _ in module.named_parameters(recurse=False)}
    return names


def build_optimizer(
    model: nn.Module, config: OptimConfig, head_prefixes: Collection[str]
) -> torch.optim.Optimizer:
    """Return AdamW or SGD over the groups of `parameter_groups`, in torch's fused form.

    Only the fused form can skip a step on the device; `train_step` needs that.
    """
    groups = parameter_groups(model, config, head_prefixes)
    if config.name == "adamw":
        return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, fused=True)
    optimizer = torch.optim.SGD(groups, lr=config.lr, momentum=config.betas[0], fused=True)
    if config.betas[0]:
        # If the first gradient is not finite, torch leaves a new momentum buffer uninitialised, and
        # later steps start from whatever that memory holds.
        for parameter in (p for group in groups for p in group["params"]):
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def set_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set the learning rate of every parameter group to `factor` times its peak."""
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor
