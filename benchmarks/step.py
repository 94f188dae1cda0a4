"""One training step of SegFormer-B0: ours, a plain transformers loop, and mmsegmentation's model; and what our loop adds to a bare one.

    python -m benchmarks.step                 # 2 x 256x256; on the GPU where there is one
    python -m benchmarks.step --encoder mit_b2 --size 512 --batch 8

All of them: cross-entropy at the labels' size, AdamW. Ours and transformers' start from equal weights and have to have the same loss
after 20 steps (in bfloat16 to five digits); mmsegmentation's head has a norm after each projection, so its loss is another one. How
the peer is installed is said in benchmarks/peers.py.
"""

import argparse
import copy
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import peers
from benchmarks.timing import in_turns, ratio, show
from segtune.config import ExperimentConfig, LossConfig, ModelConfig, load_config
from segtune.data.loader import normalize
from segtune.distributed import Ranks
from segtune.losses import build_loss
from segtune.models import build_model
from segtune.rundir import TrialDir
from segtune.trainer import Trainer

CLASSES = 21
CE = LossConfig.parse({"focal": {"weight": 0.0}, "dice": {"weight": 0.0}, "ce": {"weight": 1.0}})


def stepper(model: nn.Module, images: Tensor, loss: Callable[[Tensor], Tensor], *, fused: bool) -> Callable[[], float]:
    """Returns a call that does one step; its own loss comes back."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=fused)

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        value = loss(model(images))
        value.backward()
        optimizer.step()
        return value.item()

    return step


def steppers(encoder: str, size: int, batch: int, device: str) -> dict[str, Callable[[], float]]:
    torch.manual_seed(0)
    images = torch.randn(batch, 3, size, size, device=device)
    target = torch.randint(0, CLASSES, (batch, size, size), device=device)
    ours = build_model(ModelConfig.parse({"encoder": encoder, "drop_path": 0.0}), CLASSES).to(device).train()
    ours.net.decode_head.dropout.p = 0.0  # pyright: ignore[reportAttributeAccessIssue]
    plain: nn.Module = copy.deepcopy(ours).net  # pyright: ignore[reportAssignmentType]
    loss = build_loss(CE, CLASSES).to(device)

    def plain_loss(logits: Tensor) -> Tensor:
        return F.cross_entropy(F.interpolate(logits, size=(size, size), mode="bilinear", align_corners=False), target)

    def our_loss(logits: Tensor) -> Tensor:
        return loss(logits, target)["total"]

    half = copy.deepcopy(ours)
    last = images.to(memory_format=torch.channels_last)  # as the loader gives them
    found = {
        "transformers, plain": stepper(_Logits(plain), images, plain_loss, fused=False),
        "segtune": stepper(ours, last, our_loss, fused=True),
        "segtune, bfloat16": stepper(_Autocast(half), last, our_loss, fused=True),
    }
    if peers.is_installed() and encoder == "mit_b0":
        peer = peers.segformer_b0(CLASSES).to(device).train()
        found = {"mmsegmentation 1.2.2": stepper(peer, images, plain_loss, fused=False), **found}
    return found


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
    """Returns the median seconds of an epoch's steps in our loop, and in a bare one with the same model, data and loss."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(config, TrialDir(Path(folder)), Ranks.join())
        model, device = trainer.model, trainer.ranks.device

        def bare() -> None:
            for batch in trainer.train_data.epoch(1):
                trainer.optimizer.zero_grad(set_to_none=True)
                images, masks = normalize(batch.images.to(device)), batch.masks.to(device).long()
                with torch.autocast(device.type, dtype=trainer.precision, enabled=trainer.precision is not torch.float32):
                    logits = model(images)
                trainer.steps.loss(logits, masks)["total"].backward()
                trainer.optimizer.step()

        model.train()
        times = in_turns({"ours": lambda: trainer._train_epoch(1), "bare": bare}, repetitions)
    return statistics.median(times["ours"]), ratio(times["ours"], times["bare"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="mit_b0")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--config", default="configs/shapes_segformer_b0.yaml", help="config whose loop is compared with a bare one")
    parser.add_argument("--out", type=Path, help="also write the table as JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    works = steppers(arguments.encoder, arguments.size, arguments.batch, arguments.device)
    losses: dict[str, list[float]] = {name: [] for name in works}
    recorded = {name: lambda name=name: losses[name].append(works[name]()) for name in works}
    times = in_turns(recorded, 20)
    slowest = next(iter(times.values()))
    rows = [
        {
            "step": name,
            "ms": f"{1000 * statistics.median(seconds):.0f}",
            f"times faster than {next(iter(times))}": f"{ratio(slowest, seconds):.1f}",
            "loss after 20 steps": f"{losses[name][20]:.5f}",
        }
        for name, seconds in times.items()
    ]
    shape = f"{arguments.batch}x{arguments.size}x{arguments.size}"
    show(f"{arguments.encoder}, {shape}, {arguments.device}, {arguments.threads} threads, medians of 20", rows, arguments.out)
    seconds, factor = loop_overhead(load_config(arguments.config), 7)
    print(f"our loop: {seconds:.2f} s an epoch of {arguments.config}, {100 * (factor - 1):+.1f} % of a bare loop")


if __name__ == "__main__":
    main()
