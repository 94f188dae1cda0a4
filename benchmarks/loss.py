"""Focal and Dice loss, forward and backward: segtune against mmsegmentation's formula.

    python -m benchmarks.loss                # on the GPU if there is one
    python -m benchmarks.loss --device cpu --threads 1
    python -m benchmarks.loss --terms        # each term alone, and a mixed batch

The logits have a quarter of the labels' height and width.

The peer is the formula of mmsegmentation 1.2.2's FocalLoss (its Python form) and DiceLoss, with the
same operations and the same copies, because those are what costs time and memory: it upsamples the
logits, flattens the pixels, and makes a one-hot tensor with one more column for ignored pixels. So
it is not `segtune.losses.formulas`, which has the same values but is written to be read.
"""

import argparse
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.timing import Row, show_table, speedup, time_in_turns
from segtune.config.loss_config import LossConfig
from segtune.losses.labels import Mixing
from segtune.losses.segmentation import build_loss

# Images, classes, and height and width of the labels.
SHAPES = [(2, 21, 512), (1, 150, 512)]
IGNORE_INDEX = 255
DICE_EPS = 1e-3
MIB = 2**20


def peer_focal(logits: Tensor, target: Tensor) -> Tensor:
    """Return mmsegmentation's sigmoid focal loss with gamma 2 and alpha 0.5.

    Shapes: logits float [N, C, H, W], target int64 [N, H, W].
    """
    num_classes = logits.shape[1]
    flat = logits.permute(0, 2, 3, 1).reshape(-1, num_classes)
    labels = target.reshape(-1)
    valid = (labels != IGNORE_INDEX).view(-1, 1)
    labels = labels.where(labels != IGNORE_INDEX, num_classes)
    one_hot = F.one_hot(labels, num_classes + 1)[:, :num_classes].to(flat)
    p = flat.sigmoid()
    one_minus_p_t = (1 - p) * one_hot + p * (1 - one_hot)
    factor = (0.5 * one_hot + 0.5 * (1 - one_hot)) * one_minus_p_t.pow(2.0)
    losses = F.binary_cross_entropy_with_logits(flat, one_hot, reduction="none")
    return (losses * factor * valid).mean()


def peer_dice(logits: Tensor, target: Tensor) -> Tensor:
    """Return mmsegmentation's Dice loss, with one Dice for all classes of a sample together.

    Shapes as in `peer_focal`. There must be no ignored pixels.
    """
    num_classes = logits.shape[1]
    labels = F.one_hot(target.clamp(0, num_classes - 1), num_classes).permute(0, 3, 1, 2)
    p = logits.sigmoid().flatten(1)
    y = labels.reshape(len(target), -1).float()
    overlap = (p * y).sum(1)
    sums_of_squares = (p * p).sum(1) + DICE_EPS + (y * y).sum(1) + DICE_EPS
    return (1 - 2 * overlap / sums_of_squares).mean()


def peer(logits: Tensor, target: Tensor) -> Tensor:
    """Return focal plus Dice as the peer computes them, from logits [N, C, h, w]."""
    logits = F.interpolate(logits, size=target.shape[-2:], mode="bilinear", align_corners=False)
    return peer_focal(logits, target) + peer_dice(logits, target)


def saved_bytes(forward: Callable[[], Tensor], inputs: Sequence[Tensor]) -> int:
    """Return the bytes that a forward pass keeps for the backward pass, without its inputs."""
    sizes: dict[int, int] = {}  # by address

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = forward()
    del result
    for tensor in inputs:
        sizes.pop(tensor.untyped_storage().data_ptr(), None)
    return sum(sizes.values())


def peak_bytes(work: Callable[[], object]) -> int:
    """Return how much more GPU memory a call needs at its peak than before; 0 without a GPU."""
    if not torch.cuda.is_available():
        return 0
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    work()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def random_batch(shape: tuple[int, int, int], device: str) -> tuple[Tensor, Tensor]:
    """Return logits [N, C, size / 4, size / 4] that need a gradient, and labels [N, size, size]."""
    num_images, num_classes, size = shape
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(num_images, num_classes, size // 4, size // 4, generator=generator)
    target = torch.randint(0, num_classes, (num_images, size, size), generator=generator)
    return logits.to(device).requires_grad_(), target.to(device)


def compare(shape: tuple[int, int, int], device: str, repetitions: int) -> Row:
    """Return one row of the table."""
    logits, target = random_batch(shape, device)
    loss = build_loss(LossConfig(), num_classes=shape[1]).to(device)
    forwards: dict[str, Callable[[], Tensor]] = {
        "peer": lambda: peer(logits, target),
        "segtune": lambda: loss(logits, target)["total"],
    }

    def train(name: str) -> None:
        logits.grad = None
        forwards[name]().backward()

    works = {"peer": lambda: train("peer"), "segtune": lambda: train("segtune")}
    difference = abs(forwards["peer"]().item() / forwards["segtune"]().item() - 1)
    times = time_in_turns(works, repetitions)
    ms = {name: 1000 * statistics.median(seconds) for name, seconds in times.items()}
    saved = {n: saved_bytes(forward, [logits, target]) / MIB for n, forward in forwards.items()}
    peaks = {name: peak_bytes(work) / MIB for name, work in works.items()}
    return {
        "logits": "x".join(map(str, logits.shape)),
        "peer, ms": f"{ms['peer']:.0f}",
        "segtune, ms": f"{ms['segtune']:.0f}",
        "times faster": f"{speedup(times['peer'], times['segtune']):.1f}",
        "peer keeps, MiB": f"{saved['peer']:.0f}",
        "segtune keeps, MiB": f"{saved['segtune']:.1f}",
        "peer's peak on the GPU, MiB": f"{peaks['peer']:.0f}" if peaks["peer"] else "-",
        "segtune's peak, MiB": f"{peaks['segtune']:.0f}" if peaks["peer"] else "-",
        "values differ by": f"{difference:.0e}",
    }


def time_terms(shape: tuple[int, int, int], device: str, repetitions: int) -> Row:
    """Return a row with the time of each term alone, in ms, and of focal + Dice on mixed images.

    The labels are blocks of 64 x 64 pixels, because the time of Lovász grows with the number of
    classes that occur.
    """
    logits, target = random_batch(shape, device)
    target = target[:, ::64, ::64].repeat_interleave(64, 1).repeat_interleave(64, 2)
    mixing = Mixing(target.flip(1), torch.full((len(target),), 0.5, device=device))
    off = {name: {"weight": 0.0} for name in ("focal", "dice")}
    works: dict[str, Callable[[], object]] = {}

    def add(name: str, settings: Mapping[str, object], mixing: Mixing | None = None) -> None:
        loss = build_loss(LossConfig.parse(dict(settings)), num_classes=shape[1]).to(device)
        works[name] = lambda: loss(logits, target, mixing)["total"].backward()

    add("focal + Dice", {})
    add("the same, mixed", {}, mixing)
    for name in ("focal", "dice", "ce", "tversky", "lovasz"):
        add(name, off | {name: {"weight": 1.0}})
    add("ce, smoothed", off | {"ce": {"weight": 1.0}, "label_smoothing": 0.1})
    times = time_in_turns(works, repetitions)
    ms = {name: f"{1000 * statistics.median(seconds):.0f}" for name, seconds in times.items()}
    return {"logits": "x".join(map(str, logits.shape)), **ms}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--terms", action="store_true", help="time each term of segtune alone")
    parser.add_argument("--out", type=Path, help="also write the table as JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.terms:
        rows = [time_terms(shape, arguments.device, arguments.repetitions) for shape in SHAPES]
        show_table("ms of each term, labels 512x512", rows, arguments.out)
        return
    rows = [compare(shape, arguments.device, arguments.repetitions) for shape in SHAPES]
    title = f"focal + Dice, labels 512x512, {arguments.device}, medians of {arguments.repetitions}"
    show_table(title, rows, arguments.out)


if __name__ == "__main__":
    main()
