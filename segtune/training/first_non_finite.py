"""Finds the first operation of a training step whose result is not finite. Changes no number.

In the forward pass and in the loss, a dispatch mode looks at the result of every operation of
torch, so that functions outside of modules are found too. In the backward pass, hooks look at the
nodes of autograd's graph; each node belongs to the module that has created it.

An operation is the first one if its result is not finite and its inputs are. A value that is
infinite on purpose (a mask filled with -inf) is not counted.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.utils._python_dispatch import TorchDispatchMode

from segtune.runs.replay_record import Origin, Phase

THE_LOSS = "the loss"
# Their results are constants on purpose, or memory that has not been written yet.
CREATE = ("empty", "new_empty", "full", "new_full", "scalar_tensor", "fill", "masked_fill")
# What the first argument held before does not matter to them.
OVERWRITE = ("copy_", "zero_", "fill_", "uniform_", "normal_", "bernoulli_", "random_")
# Frames in these folders are torch's, or those of this file.
TORCH = (str(Path(torch.__file__).parent), __file__)
SOURCE = Path(__file__).parents[2]


class NonFiniteTracer(TorchDispatchMode):
    """Records the first operation that is not finite in each phase of a step.

    The caller sets `phase`, `rank` and `part` as the step goes on.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.phase: Phase = "forward"
        self.rank = 0
        self.part = 1
        self.first: dict[str, Origin] = {}  # by phase
        self.activations: dict[str, float] = {}  # largest absolute output of each module
        self._names = {id(parameter): name for name, parameter in network.named_parameters()}
        # Tensors that are parameters, or are computed from parameters only: storage -> names.
        self._computed_from: dict[int, tuple[str, ...]] = {
            _storage(parameter): (name,) for name, parameter in network.named_parameters()
        }
        self._kept: list[Tensor] = []  # a storage that is freed could belong to another tensor
        self._layers: list[str] = []  # the modules that are running, the innermost one last
        self._nodes: set[Node] = set()
        for name, module in network.named_modules():
            layer = f"{name} ({type(module).__name__})" if name else type(module).__name__
            module.register_forward_pre_hook(partial(self._enter, layer))
            module.register_forward_hook(partial(self._leave, layer))

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """Run one operation of torch, and look at its result."""
        is_watched = self.phase in ("forward", "loss") and self.phase not in self.first
        name = func.__name__.split(".")[0]
        in_place = name.endswith("_")
        # Before the operation, which changes it.
        was_finite = not (is_watched and in_place and name not in OVERWRITE) or _is_finite(args[:1])
        result = func(*args, **(kwargs or {}))
        if is_watched:
            # `out` and what is changed in place hold the result by now.
            others = [args[1 if in_place else 0 :], {**(kwargs or {}), "out": None}]
            self._look_at(name, list(_tensors(others)), result, may_be_first=was_finite)
        return result

    def adopt(self, output: Any, layer: str) -> None:
        """Let all nodes of the graph of `output` that have no layer yet belong to `layer`."""
        waiting = [tensor.grad_fn for tensor in _tensors(output)]
        while waiting:
            node = waiting.pop()
            if node is None or node in self._nodes or node.name().endswith("AccumulateGrad"):
                continue
            self._nodes.add(node)
            node.register_hook(partial(self._look_at_gradients, layer, node))
            waiting += [following for following, _ in node.next_functions]

    def take(self, phase: Phase, **changes: Any) -> Origin | None:
        """Return what was found in a phase, with `changes`, and forget it."""
        origin = self.first.pop(phase, None)
        return replace(origin, **changes) if origin else None

    def _enter(self, layer: str, module: nn.Module, inputs: Any) -> None:
        self._layers.append(layer)

    def _leave(self, layer: str, module: nn.Module, inputs: Any, output: Any) -> None:
        self._layers.pop()
        self.adopt(output, layer)
        sizes = [largest(tensor) for tensor in _floats(output) if tensor.numel()]
        self.activations[layer] = max([*sizes, self.activations.get(layer, 0.0)])

    def _look_at(
        self, name: str, inputs: Sequence[Tensor], result: Any, *, may_be_first: bool
    ) -> None:
        names = [self._computed_from.get(_storage(tensor), ()) for tensor in inputs]
        parameters = tuple(dict.fromkeys(name for group in names for name in group))
        results = list(_floats(result))
        if inputs and all(names):
            for tensor in results:
                self._computed_from.setdefault(_storage(tensor), parameters)
                self._kept.append(tensor)
        if not may_be_first or name.startswith(CREATE):
            return
        if not _is_origin(list(_floats(inputs)), results):
            return
        self.first[self.phase] = self._origin(
            self._layers[-1] if self._layers else THE_LOSS,
            name,
            list(_floats(inputs)),
            results,
            parameters=parameters,
            line=_calling_line(),
        )

    def _look_at_gradients(
        self, layer: str, node: Node, grad_inputs: Sequence[Any], grad_outputs: Sequence[Any]
    ) -> None:
        if "backward" in self.first:
            return
        incoming, results = list(_floats(grad_outputs)), list(_floats(grad_inputs))
        if not _is_origin(incoming, results):
            return
        leaves = [getattr(following, "variable", None) for following, _ in node.next_functions]
        names = [
            self._names[id(leaf)]
            for leaf, gradient in zip(leaves, grad_inputs, strict=False)
            if id(leaf) in self._names and not _is_finite(gradient)
        ]
        self.first["backward"] = self._origin(
            layer, node.name(), incoming, results, parameters=tuple(names)
        )

    def _origin(
        self,
        layer: str,
        operation: str,
        inputs: Sequence[Tensor],
        results: Sequence[Tensor],
        *,
        parameters: tuple[str, ...],
        line: str = "",
    ) -> Origin:
        worst = next(tensor for tensor in results if not tensor.isfinite().all())
        sizes = [largest(tensor) for tensor in inputs if tensor.numel()]
        return Origin(
            phase=self.phase,
            layer=layer,
            operation=operation,
            inf_share=float(worst.isinf().double().mean()),
            nan_share=float(worst.isnan().double().mean()),
            dtype=str(worst.dtype).removeprefix("torch."),
            largest_input=max(sizes, default=None),
            dtype_max=torch.finfo(worst.dtype).max,
            parameters=parameters,
            line=line,
            rank=self.rank,
            part=self.part,
        )


def non_finite_share(tensor: Tensor) -> float:
    """Return the fraction of the values that are not finite."""
    return float((~tensor.isfinite()).double().mean()) if tensor.numel() else 0.0


def _is_origin(inputs: Sequence[Tensor], results: Sequence[Tensor]) -> bool:
    """Whether finite inputs gave a result that is not, or inputs without NaN gave NaN."""
    if _is_finite(results):
        return False
    if _is_finite(inputs):
        return True
    has_nan = any(tensor.isnan().any() for tensor in results)
    return has_nan and not any(tensor.isnan().any() for tensor in inputs)


def _tensors(value: Any) -> Iterator[Tensor]:
    """Yield the tensors in nested tuples, lists and dictionaries."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _tensors(item)


def _floats(value: Any) -> Iterator[Tensor]:
    return (tensor for tensor in _tensors(value) if tensor.is_floating_point())


def _is_finite(value: Any) -> bool:
    return all(bool(tensor.isfinite().all()) for tensor in _floats(value))


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def largest(tensor: Tensor) -> float:
    """Return the largest absolute value among the finite ones."""
    values = tensor.detach().float()
    return float(values.where(values.isfinite(), 0.0).abs().max())


def _calling_line() -> str:
    """Return file:line of the innermost call outside of torch and of this file."""
    frame = sys._getframe(1)
    while frame and frame.f_code.co_filename.startswith(TORCH):
        frame = frame.f_back
    if frame is None:
        return ""
    path = Path(frame.f_code.co_filename)
    if path.is_relative_to(SOURCE):
        path = path.relative_to(SOURCE)
    elif "site-packages" in path.parts:
        path = Path(*path.parts[path.parts.index("site-packages") + 1 :])
    return f"{path}:{frame.f_lineno}"
