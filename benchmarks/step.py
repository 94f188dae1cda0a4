"""One training step of SegFormer-B0: ours, a plain transformers loop, and mmsegmentation's model; and what our loop adds to a bare one.

    python -m benchmarks.step                 # 2 x 256x256; on the GPU where there is one
    python -m benchmarks.step --encoder mit_b2 --size 512 --batch 8

All of them: cross-entropy at the labels' size, AdamW. Ours and transformers' start from equal weights and have to have the same loss
after 20 steps (in bfloat16 to five digits); mmsegmentation's head has a norm after each projection, so its loss is another one. How
the peer is installed is said in benchmarks/peers.py.
"""

import argparse
import multiprocessing
import statistics
import tempfile
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import peers
from benchmarks.timing import in_turns, ratio, show
from segtune.config.schema import ExperimentConfig, LossConfig, ModelConfig, load_config
from segtune.data.loader import normalize
from segtune.losses.segmentation import build_loss
from segtune.models.build import build_model
from segtune.runs.rundir import TrialDir
from segtune.training.distributed import Ranks
from segtune.training.memory import keep_freed_memory
from segtune.training.trainer import Trainer

CLASSES = 21
PLAIN = "transformers, plain"
UNKEPT = "segtune, its memory not kept"
NAMES = ("mmsegmentation 1.2.2", PLAIN, UNKEPT, "segtune", "segtune, bfloat16")
CE = LossConfig.parse({"focal": {"weight": 0.0}, "dice": {"weight": 0.0}, "ce": {"weight": 1.0}})


def stepper(
    model: nn.Module, images: Tensor, loss: Callable[[Tensor], Tensor], *, fused: bool
) -> Callable[[], float]:
    """Returns a call that does one step; its own loss comes back."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=fused)

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        value = loss(model(images))
        value.backward()
        optimizer.step()
        return value.item()

    return step


def build(name: str, encoder: str, size: int, batch: int, device: str) -> Callable[[], float]:
    """Returns the steps of one of NAMES."""
    torch.manual_seed(0)
    images = torch.randn(batch, 3, size, size, device=device)
    target = torch.randint(0, CLASSES, (batch, size, size), device=device)
    ours = (
        build_model(ModelConfig.parse({"encoder": encoder, "drop_path": 0.0}), CLASSES)
        .to(device)
        .train()
    )
    ours.net.decode_head.dropout.p = 0.0  # pyright: ignore[reportArgumentType]
    if name.startswith("segtune"):
        if name != UNKEPT:
            keep_freed_memory()  # as the trainer does
        loss = build_loss(CE, CLASSES).to(device)
        last = images.to(memory_format=torch.channels_last)  # as the loader gives them
        model = _Autocast(ours) if "bfloat16" in name else ours
        return stepper(model, last, lambda logits: loss(logits, target)["total"], fused=True)
    plain: nn.Module = (
        _Logits(ours.net) if name == PLAIN else peers.segformer_b0(CLASSES).to(device).train()
    )  # pyright: ignore[reportArgumentType]

    def plain_loss(logits: Tensor) -> Tensor:
        return F.cross_entropy(
            F.interpolate(logits, size=(size, size), mode="bilinear", align_corners=False), target
        )

    return stepper(plain, images, plain_loss, fused=False)


class Process:
    """A process of its own for each, because what the C library keeps is a matter of the process (segtune/heap.py)."""

    def __init__(self, name: str, arguments: argparse.Namespace) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.losses: list[float] = []
        context.Process(target=_serve, args=(name, arguments, theirs), daemon=True).start()

    def step(self) -> None:
        """Waits for one step."""
        self.pipe.send("step")
        self.losses.append(self.pipe.recv())

    def end(self) -> None:
        """Lets the process end."""
        self.pipe.send("")


def _serve(name: str, arguments: argparse.Namespace, pipe: Connection) -> None:
    torch.set_num_threads(arguments.threads)
    step = build(name, arguments.encoder, arguments.size, arguments.batch, arguments.device)
    while pipe.recv():
        pipe.send(step())


class _Logits(nn.Module):
    """Only the logits of a transformers model."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model(pixel_values=images).logits


class _Autocast(nn.Module):
    """A model whose products are of bfloat16, as `optim.precision: bf16` has them."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        with torch.autocast(images.device.type, dtype=torch.bfloat16):
            return self.model(images)


def loop_overhead(config: ExperimentConfig, repetitions: int) -> tuple[float, float]:
    """Returns the median seconds of an epoch's steps in our loop, and how many times a bare one's: same model, data, loss, clipping."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(config, TrialDir(Path(folder)), Ranks.join())
        model, device = trainer.model, trainer.ranks.device

        def bare() -> None:
            for batch in trainer.train_data.epoch(1):
                trainer.optimizer.zero_grad(set_to_none=True)
                images, masks = normalize(batch.images.to(device)), batch.masks.to(device).long()
                with torch.autocast(
                    device.type,
                    dtype=trainer.precision,
                    enabled=trainer.precision is not torch.float32,
                ):
                    logits = model(images)
                trainer.steps.loss(logits, masks)["total"].backward()
                if config.optim.clip_norm is not None:
                    nn.utils.clip_grad_norm_(model.parameters(), config.optim.clip_norm)
                trainer.optimizer.step()

        model.train()
        times = in_turns({"ours": lambda: trainer._train_epoch(1), "bare": bare}, repetitions)
    return statistics.median(times["ours"]), ratio(times["ours"], times["bare"])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--encoder", default="mit_b0")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--config",
        default="configs/shapes_segformer_b0.yaml",
        help="config whose loop is compared with a bare one",
    )
    parser.add_argument("--out", type=Path, help="also write the table as JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    names = NAMES if peers.is_installed() and arguments.encoder == "mit_b0" else NAMES[1:]
    processes = {name: Process(name, arguments) for name in names}
    times = in_turns({name: process.step for name, process in processes.items()}, 20)
    slowest = next(iter(times.values()))
    rows = [
        {
            "step": name,
            "ms": f"{1000 * statistics.median(seconds):.0f}",
            f"times faster than {next(iter(times))}": f"{ratio(slowest, seconds):.1f}",
            "loss after 20 steps": f"{processes[name].losses[20]:.5f}",
        }
        for name, seconds in times.items()
    ]
    for process in processes.values():
        process.end()
    shape = f"{arguments.batch}x{arguments.size}x{arguments.size}"
    show(
        f"{arguments.encoder}, {shape}, {arguments.device}, {arguments.threads} threads, medians of 20",
        rows,
        arguments.out,
    )
    config, side = load_config(arguments.config), arguments.size
    seen = {
        "data.resize": [side, side],
        "data.crop": [side, side],
        "data.num_images": 10 * arguments.batch,
    }
    large = config.override(
        {**seen, "model.encoder": arguments.encoder, "schedule.batch_size": arguments.batch}
    )
    for what, looped in (
        (arguments.config, config),
        (f"the same with {arguments.encoder}, {shape}", large),
    ):
        seconds, factor = loop_overhead(looped, 15)
        print(
            f"our loop: {seconds:.2f} s an epoch of {what}, {100 * (factor - 1):+.1f} % of a bare loop"
        )


if __name__ == "__main__":
    main()
