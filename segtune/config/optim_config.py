"""The settings of the optimiser and of a training step."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from segtune.config.settings import Settings, Share


class OptimConfig(Settings):
    """The optimiser, and the precision and compilation of a training step."""

    name: Literal["adamw", "sgd"] = Field(default="adamw", description="Optimiser.")
    lr: float = Field(
        default=6.0e-5, gt=0, description="Learning rate of the encoder at its peak, after warmup."
    )
    betas: tuple[Share, Share] = Field(
        default=(0.9, 0.999),
        description="AdamW: decay rates of the first and second moment. SGD: the first is the "
        "momentum, the second is not used.",
    )
    weight_decay: float = Field(
        default=0.01,
        ge=0,
        le=1,
        description="Weight decay. Norms, biases and position embeddings are not decayed.",
    )
    head_lr_mult: float = Field(
        default=10.0, gt=0, description="Learning rate of the head divided by that of the encoder."
    )
    layer_decay: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="Learning rate of each block of the encoder divided by that of the next block, "
        "for example 0.9. The last block has optim.lr times this. 1: all blocks have optim.lr.",
    )
    clip_norm: float | None = Field(
        default=None, gt=0, description="Clip gradients to this total norm. null: no clipping."
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        default="auto",
        description="Precision of autocast. auto: bf16 on a GPU that supports it, otherwise fp16 "
        "on a GPU with tensor cores, otherwise fp32. If gradients keep overflowing in fp16, auto "
        "goes on in fp32, once, and says so; fp16 ends the training run. If the GPUs of one "
        "training run differ in what auto is, all use fp32. Validation takes fp16 only if it is "
        "set.",
    )
    ema: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="Decay of an exponential moving average of the weights per step, for example "
        "0.999. Validation, checkpoints and export then have the average. null: no average.",
    )
    compile: bool = Field(
        default=False,
        description="Compile the network with torch.compile. This takes minutes at the first "
        "step, so it does not pay off for training runs below 50 epochs.",
    )
