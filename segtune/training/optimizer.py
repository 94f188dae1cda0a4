"""Parameter groups, the optimiser, and the learning rate as a pure function of the step."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import nn

from segtune.config.schema import OptimConfig

NORMS = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._NormBase)
POSITIONS = (
    "pos_embed",
    "pos_block",
    "position_embedding",
    "relative_position_bias_table",
    "cls_token",
)


def parameter_groups(model: nn.Module, config: OptimConfig, head: Collection[str]) -> list[dict]:
    """Returns up to four groups: encoder and head, each with and without weight decay.

    `head` are prefixes of parameter names that learn at lr * head_lr_mult. Norms, biases and position embeddings are
    not decayed (SegFormer's recipe, Xie et al. 2021).
    """
    undecayed = _undecayed(model)
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            key = (any(name.startswith(prefix) for prefix in head), name not in undecayed)
            groups.setdefault(key, []).append(parameter)
    return [
        {
            "params": parameters,
            "initial_lr": config.lr * (config.head_lr_mult if is_head else 1.0),
            "lr": config.lr * (config.head_lr_mult if is_head else 1.0),
            "weight_decay": config.weight_decay if decayed else 0.0,
        }
        for (is_head, decayed), parameters in sorted(groups.items())
    ]


def _undecayed(model: nn.Module) -> set[str]:
    """Returns the names of norms, biases and position embeddings."""
    found = {
        name
        for name, _ in model.named_parameters()
        if name.endswith("bias") or any(p in name for p in POSITIONS)
    }
    for prefix, module in model.named_modules():
        # timm has norms of its own (LayerNorm2d, BatchNormAct2d, …); most of them derive from torch's, all are named so.
        if isinstance(module, NORMS) or type(module).__name__.lower().startswith(
            ("layernorm", "batchnorm", "rmsnorm")
        ):
            found |= {f"{prefix}.{name}" for name, _ in module.named_parameters(recurse=False)}
    return found


def build_optimizer(
    model: nn.Module, config: OptimConfig, head: Collection[str]
) -> torch.optim.Optimizer:
    """Returns AdamW or SGD over the groups of `parameter_groups`, with fused steps where torch has them."""
    groups = parameter_groups(model, config, head)
    if config.name == "sgd":
        optimizer = torch.optim.SGD(groups, lr=config.lr, momentum=config.betas[0], fused=True)
        if config.betas[0]:
            # torch leaves the momentum unwritten where the first gradient is not finite, and goes on from whatever it holds.
            for parameter in (p for group in groups for p in group["params"]):
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        return optimizer
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, fused=True)


def learning_rate_factor(
    step: int, total: int, warmup: int, warmup_start: float, power: float, floor: float = 0.0
) -> float:
    """Returns the learning rate of step 0..total-1 as a share of the peak.

    Linear from `warmup_start` over `warmup` steps, then (1 - progress)^power down to `floor`, both by iteration
    (mmseg's LinearLR followed by PolyLR).
    """
    if step < warmup:
        return warmup_start + (1 - warmup_start) * step / warmup
    progress = (step - warmup) / max(1, total - warmup)
    return floor + (1 - floor) * max(0.0, 1 - progress) ** power


def set_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Sets every group's rate to `factor` times its peak."""
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor
