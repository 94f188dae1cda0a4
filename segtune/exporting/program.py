"""A network as a program of torch.export (.pt2), which needs neither segtune nor transformers.

Also compares exported networks with segtune's own on images of several sizes.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from segtune.errors import RunError
from segtune.exporting.preprocessing import DETAILS, description
from segtune.exporting.source import ExportSource
from segtune.exporting.targets import new_file
from segtune.models.exportable import Sides, exportable, has_free_sizes, sides_of
from segtune.training.evaluation import predict_labels

# Largest difference of the logits that is taken for rounding. Labels: share of other pixels.
MAX_DIFFERENCE = 1e-3
EXAMPLE = (2, 96, 160)  # images, height and width that the network is traced with
TRIED = ((1, 64, 64), (3, 133, 101))  # those that the result is compared on
METADATA = "segtune.json"  # the file in a .pt2 with the preprocessing

# Loads a program in a process without segtune and prints the largest difference.
CHECK = """
import sys, torch
program = torch.export.load(sys.argv[1]).module()
cases = torch.load(sys.argv[2], weights_only=True)
with torch.no_grad():
    outputs = [program(images) for images in cases["images"]]
assert not [name for name in sys.modules if name.split(".")[0] in ("segtune", "transformers")]
pairs = zip(outputs, cases["expected"], strict=True)
print(max(float((ours.double() - theirs.double()).abs().max()) for ours, theirs in pairs))
"""


@dataclass(frozen=True)
class Case:
    """Normalised images [N, 3, H, W], and what segtune's own network makes of them."""

    images: Tensor
    expected: Tensor  # logits [N, C, h, w] or labels [N, H, W]


class Network(nn.Module):
    """A network that returns logits, or the label of each pixel of the input."""

    def __init__(self, model: nn.Module, output: str) -> None:
        super().__init__()
        self.model = model
        self.output = output

    def forward(self, images: Tensor) -> Tensor:
        """Return float32 [N, C, h, w] or int64 [N, H, W] for normalised images [N, 3, H, W]."""
        logits = self.model(images)
        if self.output == "logits":
            return logits
        size = images.shape[-2:]
        return F.interpolate(logits, size=size, mode="bilinear", align_corners=False).argmax(1)


def check_has_free_sizes(source: ExportSource) -> None:
    """Raise RunError for a network that torch.export takes at a fixed size only."""
    if not has_free_sizes(source.model):
        raise _fixed_size(source, "its windows depend on the size")


def _fixed_size(source: ExportSource, reason: str) -> RunError:
    model = source.config.model
    return RunError(
        f"model.encoder: torch.export does not take {model.name} with {model.encoder} at free "
        f"sizes ({reason}), so there is no --onnx and no --pt2 of it; --hf writes a folder that "
        "segtune or transformers load"
    )


def export_program(source: ExportSource, output: str = "logits") -> ExportedProgram:
    """Return the network of a checkpoint as a program with free batch, height and width.

    Raise RunError if torch.export fixes one of them.
    """
    sides = sides_of(source.model)
    network = Network(exportable(source.model), output)
    free = {0: Dim("batch"), 2: _free_side("height", sides), 3: _free_side("width", sides)}
    num, height, width = EXAMPLE
    images = torch.zeros(num, 3, sides.at_least(height), sides.at_least(width))
    try:
        with torch.no_grad():
            return torch.export.export(network, (images,), dynamic_shapes={"images": free})
    except (RuntimeError, ValueError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise _fixed_size(source, reason) from error


def _free_side(name: str, sides: Sides) -> Dim:
    if sides.step == 1:
        return Dim(name, min=sides.smallest)
    return sides.step * Dim(f"{name}_in_steps", min=sides.at_least(1) // sides.step)


@torch.no_grad()
def cases_for(source: ExportSource, output: str = "logits") -> list[Case]:
    """Return images of two sizes and what segtune predicts for them."""
    sides = sides_of(source.model)
    generator = torch.Generator().manual_seed(0)
    cases = []
    for num, height, width in TRIED:
        size = (num, 3, sides.at_least(height), sides.at_least(width))
        images = torch.randn(size, generator=generator)
        expected = source.model(images)
        if output == "labels":
            expected = predict_labels([expected], images.shape[-2:])
        cases.append(Case(images, expected))
    return cases


def difference(outputs: Sequence[Tensor], cases: Sequence[Case]) -> float:
    """Return the largest difference of logits; of labels, the largest share of other pixels."""
    pairs = list(zip(outputs, (case.expected for case in cases), strict=True))
    if pairs[0][1].is_floating_point():
        return max(float((ours - theirs).abs().max()) for ours, theirs in pairs)
    return max(float((ours != theirs).float().mean()) for ours, theirs in pairs)


def check_difference(path: Path, worst: float, what: str = "logits") -> str:
    """Return the difference from segtune in words. Raise RunError if it is more than rounding."""
    words = (
        f"logits differ from segtune's by at most {worst:.1e}"
        if what == "logits"
        else f"{100 * worst:.2g} % of the labels differ from segtune's"
    )
    if not worst <= MAX_DIFFERENCE:  # NaN is refused, too
        raise RunError(f"{path}: not written: {words}, allowed is {MAX_DIFFERENCE:g}")
    return words


def write_pt2(source: ExportSource, path: Path, program: ExportedProgram) -> str:
    """Write a program for `torch.export.load`, and check it in a process without segtune.

    Return one line on the result. Raise RunError if it does not load or predicts something else.
    """
    details = description(source, sides_of(source.model), "logits")[DETAILS]
    with new_file(path) as copy:
        torch.export.save(program, copy, extra_files={METADATA: details})
        words = check_difference(path, _difference_outside(copy, path, cases_for(source)))
    return f"torch.export, free batch and sizes, loads without segtune; {words}"


def _difference_outside(program: Path, path: Path, cases: Sequence[Case]) -> float:
    """Return the largest difference of the logits in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "cases.pt"
        columns = {
            "images": [case.images for case in cases],
            "expected": [case.expected for case in cases],
        }
        torch.save(columns, file)
        command = [sys.executable, "-c", CHECK, str(program.absolute()), str(file)]
        result = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)
    if result.returncode:
        reason = (result.stderr.strip().splitlines() or ["no message"])[-1]
        raise RunError(f"{path}: not written: it does not load without segtune: {reason}")
    return float(result.stdout)
