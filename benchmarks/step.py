"""One training step of SegFormer: segtune against transformers and mmsegmentation.

    python -m benchmarks.step                 # 2 x 256x256; on the GPU if there is one
    python -m benchmarks.step --encoder mit_b2 --size 512 --batch 8

The table compares steps on a fixed batch, with cross-entropy at the size of the labels and AdamW.
segtune and a plain transformers loop start from equal weights, and must have the same loss after 20
steps (nearly so in bfloat16). mmsegmentation's head has a norm after each projection, so it is
another model with another loss. `benchmarks/peers.py` explains how to install it; without it, its
row is missing.

The lines below the table tell what segtune's training loop adds to a bare loop that does the same
computations.
"""

import argparse
import itertools
import multiprocessing
import statistics
import tempfile
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import peers
from benchmarks.timing import Row, show_table, speedup, time_in_turns
from segtune.config.loss_config import LossConfig
from segtune.config.model_config import ModelConfig
from segtune.config.schema import ExperimentConfig, load_config
from segtune.data.loader import normalize
from segtune.losses.segmentation import build_loss
from segtune.models.build import build_model
from segtune.runs.records import EpochRecord
from segtune.runs.rundir import TrialDir
from segtune.training.distributed import Ranks
from segtune.training.memory import keep_freed_memory
from segtune.training.trainer import Trainer

NUM_CLASSES = 21
NUM_STEPS = 20
LOOP_REPETITIONS = 15  # epochs of each loop

MMSEGMENTATION = "mmsegmentation 1.2.2"
TRANSFORMERS = "transformers, plain"
SEGTUNE_UNKEPT = "segtune, its memory not kept"  # without `keep_freed_memory`
SEGTUNE = "segtune"
SEGTUNE_BF16 = "segtune, bfloat16"
VARIANTS = (MMSEGMENTATION, TRANSFORMERS, SEGTUNE_UNKEPT, SEGTUNE, SEGTUNE_BF16)

CROSS_ENTROPY = LossConfig.parse(
    {"focal": {"weight": 0.0}, "dice": {"weight": 0.0}, "ce": {"weight": 1.0}}
)


class LogitsOnly(nn.Module):
    """A model of transformers that returns only its logits."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model(pixel_values=images).logits


class Autocast(nn.Module):
    """A model under autocast to bfloat16, as with `optim.precision: bf16`."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        with torch.autocast(images.device.type, dtype=torch.bfloat16):
            return self.model(images)


def make_step(
    model: nn.Module, images: Tensor, loss: Callable[[Tensor], Tensor], *, fused: bool
) -> Callable[[], float]:
    """Return a call that does one step on `images`, and returns the loss before it."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=fused)

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        value = loss(model(images))
        value.backward()
        optimizer.step()
        return value.item()

    return step


def build_step(
    variant: str, encoder: str, size: int, batch_size: int, device: str
) -> Callable[[], float]:
    """Return the step of one of VARIANTS.

    All variants get the same data. segtune and transformers also get the same weights.
    """
    torch.manual_seed(0)
    images = torch.randn(batch_size, 3, size, size, device=device)
    target = torch.randint(0, NUM_CLASSES, (batch_size, size, size), device=device)
    config = ModelConfig.parse({"encoder": encoder, "drop_path": 0.0, "dropout": 0.0})
    network = build_model(config, NUM_CLASSES).to(device).train()
    net: Any = network.net  # the model of transformers
    if variant in (SEGTUNE_UNKEPT, SEGTUNE, SEGTUNE_BF16):
        return build_segtune_step(variant, network, images, target)
    if variant == TRANSFORMERS:
        model: nn.Module = LogitsOnly(net)
    else:
        model = peers.segformer_b0(NUM_CLASSES).to(device).train()

    def plain_loss(logits: Tensor) -> Tensor:
        logits = F.interpolate(logits, size=(size, size), mode="bilinear", align_corners=False)
        return F.cross_entropy(logits, target)

    return make_step(model, images, plain_loss, fused=False)


def build_segtune_step(
    variant: str, network: nn.Module, images: Tensor, target: Tensor
) -> Callable[[], float]:
    """Return a step as the trainer does it: channels last, fused optimiser, segtune's loss."""
    if variant != SEGTUNE_UNKEPT:
        keep_freed_memory()  # as `segtune train` and the workers of a search do
    loss = build_loss(CROSS_ENTROPY, NUM_CLASSES).to(images.device)
    # The loader's batches have this layout.
    images = images.to(memory_format=torch.channels_last)
    model = Autocast(network) if variant == SEGTUNE_BF16 else network
    return make_step(model, images, lambda logits: loss(logits, target)["total"], fused=True)


class StepProcess:
    """The steps of one variant, in a process of their own.

    `keep_freed_memory` changes the whole process, so variants cannot share one.
    """

    def __init__(self, variant: str, arguments: argparse.Namespace) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, child_pipe = context.Pipe()
        self.losses: list[float] = []
        process = context.Process(
            target=_serve_steps, args=(variant, arguments, child_pipe), daemon=True
        )
        process.start()

    def step(self) -> None:
        """Do one step, and wait for its end."""
        self.pipe.send(True)
        self.losses.append(self.pipe.recv())

    def end(self) -> None:
        """End the process."""
        self.pipe.send(False)


def _serve_steps(variant: str, arguments: argparse.Namespace, pipe: Connection) -> None:
    """Do a step whenever True is received, and send its loss; return after False."""
    torch.set_num_threads(arguments.threads)
    step = build_step(variant, arguments.encoder, arguments.size, arguments.batch, arguments.device)
    while pipe.recv():
        pipe.send(step())


def compare_steps(arguments: argparse.Namespace) -> list[Row]:
    """Return one row per variant that can be measured."""
    has_peer = peers.is_installed() and arguments.encoder == "mit_b0"
    variants = VARIANTS if has_peer else VARIANTS[1:]
    processes = {variant: StepProcess(variant, arguments) for variant in variants}
    steps = {variant: process.step for variant, process in processes.items()}
    times = time_in_turns(steps, NUM_STEPS)
    losses = {variant: process.losses[NUM_STEPS] for variant, process in processes.items()}
    for process in processes.values():
        process.end()
    return step_rows(times, losses)


def step_rows(times: Mapping[str, list[float]], losses: Mapping[str, float]) -> list[Row]:
    """Return one row per variant; ratios are relative to the first."""
    first = next(iter(times))
    return [
        {
            "step": variant,
            "ms": f"{1000 * statistics.median(seconds):.0f}",
            f"times faster than {first}": f"{speedup(times[first], seconds):.1f}",
            f"loss after {NUM_STEPS} steps": f"{losses[variant]:.5f}",
        }
        for variant, seconds in times.items()
    ]


def bare_epoch(trainer: Trainer, epoch: int) -> None:
    """Train an epoch with the trainer's parts, and nothing but the computations of a step."""
    device = trainer.ranks.device
    precision = trainer.precision.dtype
    clip_norm = trainer.config.optim.clip_norm
    for batch in trainer.train_data.epoch(epoch):
        trainer.optimizer.zero_grad(set_to_none=True)
        images = normalize(batch.images.to(device))
        masks = batch.masks.to(device).long()
        with torch.autocast(device.type, dtype=precision, enabled=precision is not torch.float32):
            logits = trainer.model(images)
        trainer.train_step.loss(logits, masks)["total"].backward()
        if clip_norm is not None:
            nn.utils.clip_grad_norm_(trainer.model.parameters(), clip_norm)
        trainer.optimizer.step()


def loop_overhead(config: ExperimentConfig, repetitions: int) -> tuple[float, float]:
    """Compare the trainer's loop with a bare loop of the same model, data, loss and clipping.

    Return the median seconds of an epoch in the trainer's loop, and its ratio to a bare epoch.
    """
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer.start(config, TrialDir(Path(folder)), Ranks.join())
        trainer.model.train()
        our_epochs = itertools.count(1)
        bare_epochs = itertools.count(1)

        def train_epoch() -> None:
            # Not `epochs`, which also validates and writes files.
            record = trainer._train_epoch(next(our_epochs), None)
            assert isinstance(record, EpochRecord), record

        loops: dict[str, Callable[[], None]] = {
            "ours": train_epoch,
            "bare": lambda: bare_epoch(trainer, next(bare_epochs)),
        }
        times = time_in_turns(loops, repetitions)
    return statistics.median(times["ours"]), speedup(times["ours"], times["bare"])


def print_loop_overheads(arguments: argparse.Namespace, shape: str) -> None:
    """Print the overhead of the trainer's loop for a config, and for its model at `shape`."""
    keep_freed_memory()
    config = load_config(arguments.config)
    as_in_table = {
        "model.encoder": arguments.encoder,
        "data.resize": [arguments.size, arguments.size],
        "data.crop": [arguments.size, arguments.size],
        "data.num_images": 10 * arguments.batch,
        "schedule.batch_size": arguments.batch,
    }
    for title, measured in (
        (arguments.config, config),
        (f"the same with {arguments.encoder}, {shape}", config.override(as_in_table)),
    ):
        seconds, factor = loop_overhead(measured, LOOP_REPETITIONS)
        print(
            f"the trainer's loop: {seconds:.2f} s per epoch of {title}, "
            f"{100 * (factor - 1):+.1f} % of a bare loop"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--encoder", default="mit_b0")
    parser.add_argument("--size", type=int, default=256, help="height and width in pixels")
    parser.add_argument("--batch", type=int, default=2, help="images per step")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--config",
        default="configs/shapes_segformer_b0.yaml",
        help="config whose training loop is compared with a bare loop",
    )
    parser.add_argument("--out", type=Path, help="also write the table as JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    shape = f"{arguments.batch}x{arguments.size}x{arguments.size}"
    title = (
        f"{arguments.encoder}, {shape}, {arguments.device}, {arguments.threads} threads, "
        f"medians of {NUM_STEPS}"
    )
    show_table(title, compare_steps(arguments), arguments.out)
    print_loop_overheads(arguments, shape)


if __name__ == "__main__":
    main()
