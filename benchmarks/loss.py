"""Focal and Dice on logits of a quarter of the labels' size: ours against mmsegmentation's formula, forward and backward.

    python -m benchmarks.loss                # on the GPU where there is one
    python -m benchmarks.loss --device cpu --threads 1

The peer is the formula of mmsegmentation 1.2.2's FocalLoss (its Python form) and DiceLoss, with its steps and its copies: logits
upsampled, pixels flattened, a one-hot with a column more for what is ignored.
"""

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.timing import in_turns, ratio, show
from segtune.config.schema import LossConfig
from segtune.losses.segmentation import build_loss

SHAPES = [(2, 21, 512), (1, 150, 512)]
MIB = 2**20


def peer(logits: Tensor, target: Tensor) -> Tensor:
    """Focal (gamma 2, alpha 0.5) plus Dice as the peer computes them."""
    classes = logits.shape[1]
    logits = F.interpolate(logits, size=target.shape[-2:], mode="bilinear", align_corners=False)
    flat = logits.permute(0, 2, 3, 1).reshape(-1, classes)
    labels = target.reshape(-1)
    known = (labels != 255).view(-1, 1)
    truth = F.one_hot(labels.where(labels != 255, classes), classes + 1)[:, :classes].to(flat)
    p = flat.sigmoid()
    miss = (1 - p) * truth + p * (1 - truth)
    factor = (0.5 * truth + 0.5 * (1 - truth)) * miss.pow(2.0)
    focal = (
        F.binary_cross_entropy_with_logits(flat, truth, reduction="none") * factor * known
    ).mean()
    whole = F.one_hot(target.clamp(0, classes - 1), classes).permute(0, 3, 1, 2)
    p, truth = logits.sigmoid().flatten(1), whole.reshape(len(target), -1).float()
    score = 2 * (p * truth).sum(1) / ((p * p).sum(1) + 1e-3 + (truth * truth).sum(1) + 1e-3)
    return focal + (1 - score).mean()


def saved_bytes(work: Callable[[], Tensor], given: list[Tensor]) -> int:
    """Returns the bytes kept for the backward pass, what is given apart."""
    kept = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = work()
    del result
    return sum(
        size
        for place, size in kept.items()
        if place not in {t.untyped_storage().data_ptr() for t in given}
    )


def peak_bytes(work: Callable[[], object]) -> int:
    """Returns how much GPU memory a call takes at most, over what was there before; 0 without a GPU."""
    if not torch.cuda.is_available():
        return 0
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    work()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def compare(shape: tuple[int, int, int], device: str, repetitions: int) -> dict[str, object]:
    """Returns one row of the table."""
    number, classes, size = shape
    generator = torch.Generator().manual_seed(0)
    logits = (
        torch.randn(number, classes, size // 4, size // 4, generator=generator)
        .to(device)
        .requires_grad_()
    )
    target = torch.randint(0, classes, (number, size, size), generator=generator).to(device)
    loss = build_loss(LossConfig(), classes).to(device)

    def backward(value: Tensor) -> None:
        logits.grad = None
        value.backward()

    works = {
        "peer": lambda: backward(peer(logits, target)),
        "ours": lambda: backward(loss(logits, target)["total"]),
    }
    difference = abs(peer(logits, target).item() / loss(logits, target)["total"].item() - 1)
    times = in_turns(works, repetitions)
    saved = [
        saved_bytes(f, [logits, target]) / MIB
        for f in (lambda: peer(logits, target), lambda: loss(logits, target)["total"])
    ]
    peaks = [peak_bytes(work) / MIB for work in works.values()]
    return {
        "logits": f"{number}x{classes}x{size // 4}x{size // 4}",
        "peer, ms": f"{1000 * statistics.median(times['peer']):.0f}",
        "ours, ms": f"{1000 * statistics.median(times['ours']):.0f}",
        "times faster": f"{ratio(times['peer'], times['ours']):.1f}",
        "peer keeps, MiB": f"{saved[0]:.0f}",
        "ours keeps, MiB": f"{saved[1]:.1f}",
        "peer's peak on the GPU, MiB": f"{peaks[0]:.0f}" if peaks[0] else "-",
        "our peak, MiB": f"{peaks[1]:.0f}" if peaks[0] else "-",
        "values differ by": f"{difference:.0e}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--threads", type=int, default=1, help="threads of one process on a processor"
    )
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--out", type=Path, help="also write the table as JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows = [compare(shape, arguments.device, arguments.repetitions) for shape in SHAPES]
    show(
        f"focal + Dice, labels 512x512, {arguments.device}, medians of {arguments.repetitions}",
        rows,
        arguments.out,
    )


if __name__ == "__main__":
    main()
