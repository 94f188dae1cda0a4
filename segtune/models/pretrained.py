"""Find an encoder's weights among the tensors of a file, rename them, and load them.

The encoder may be a part of a larger model, of a trainer's checkpoint, or both, so its parameters
have a prefix in the file, such as `state_dict.model.encoder.`. The prefix with the
most fitting names is taken.

The names of a MiT are in mit_names.py. Weights from the hub are downloaded in segformer.py and
upernet.py, by transformers and timm.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from segtune.errors import WeightsError, first_of, nearest

log = logging.getLogger(__name__)

# Returns a tensor of a file under its name in the encoder, or the parts that it joins.
Rename = Callable[[str, Tensor], dict[str, Tensor]]

# Parts of a model that are no part of its encoder, beside which they may lie in a file.
HEADS = ("fc", "fc_norm", "classifier", "norm", "decode_head", "auxiliary_head", "decoder", "neck")
HEADS += ("segmentation_head", "aux_classifier", "classification_head", "last_linear")
# If a file holds several sets of weights: words for the averaged ones, which are better (timm
# prefers them, too), and for those to take last.
AVERAGED = {"ema", "teacher", "swa"}
TAKEN_LAST = {"student", "optimizer", "callbacks"}

# Some files lack this counter of BatchNorm, which changes no output.
OPTIONAL = "num_batches_tracked"

# Parts that are left out are listed up to this number.
MAX_SHOWN = 6


@dataclass(frozen=True)
class _Part:
    """The tensors of a file whose names begin with `prefix`."""

    prefix: str
    renamed: Mapping[str, Tensor]  # under their names in the encoder
    origins: Mapping[str, str]  # {name in the encoder: name in the file}
    expected: Mapping[str, Tensor]  # the encoder's own tensors

    @property
    def num_known(self) -> int:
        """How many of the encoder's names the part has."""
        return sum(name in self.expected for name in self.renamed)

    @property
    def num_fitting(self) -> int:
        """How many of the encoder's tensors the part has, with their shape."""
        return sum(
            name in self.expected and value.shape == self.expected[name].shape
            for name, value in self.renamed.items()
        )

    @property
    def is_complete(self) -> bool:
        """Whether the part has every parameter of the encoder, with its shape."""
        return all(
            name in self.renamed and self.renamed[name].shape == value.shape
            for name, value in self.expected.items()
            if not name.endswith(OPTIONAL)
        )

    def is_same(self, other: _Part) -> bool:
        """Whether the two parts give the encoder the same tensors."""
        return all(
            other.origins.get(name) == origin
            for name, origin in self.origins.items()
            if name in self.expected
        )


def unchanged(name: str, value: Tensor) -> dict[str, Tensor]:
    """Return the tensor under its own name."""
    return {name: value}


def load_encoder(
    encoder: nn.Module,
    weights: Mapping[str, Tensor],
    source: str,
    rename: Rename = unchanged,
    *,
    whole_model: Callable[[], Collection[str]] = tuple,
    hint: Callable[[Mapping[str, Tensor]], str] = lambda weights: "",
) -> None:
    """Copy weights into an encoder; log their prefix and the parts that are left out.

    `source` is the name of the weights in messages. `whole_model` returns the parameter names of
    the model that the encoder is a part of; those beside the encoder are left out, as heads are.
    `hint` returns a guess at the origin of the weights, for the message if they do not fit. Raises
    WeightsError with the first keys that are missing, unknown, not finite or of another shape.
    """
    expected = encoder.state_dict()
    part, others = _best_part(weights, expected, rename)
    problems = _key_problems(part, expected, whole_model)
    if problems:
        raise WeightsError(
            f"model.weights: {source}: not the weights of this encoder: "
            f"{'; '.join(problems[:3])} ({len(problems)} keys in all); {part.num_fitting} of "
            f"{len(expected)} tensors fit, {_under(part.prefix)}; the file begins with "
            f"{', '.join(repr(name) for name in list(weights)[:2])}. "
            f"{hint(part.renamed) or 'Check model.encoder'}"
        )
    chosen = {name: part.renamed[name] for name in expected if name in part.renamed}
    _check_values(chosen, part, expected, source)
    encoder.load_state_dict(chosen, strict=False)
    _log_choice(source, part, others, weights)


def _best_part(
    weights: Mapping[str, Tensor], expected: Mapping[str, Tensor], rename: Rename
) -> tuple[_Part, list[_Part]]:
    """Return the part of a file that fits the encoder best, and others that fit as well."""
    parts = [
        _make_part(prefix, names, weights, expected, rename) for prefix, names in _prefixes(weights)
    ]
    # If no part is complete, shapes say little: parameters of other modules may have them, too.
    best = max(parts, key=lambda p: (p.is_complete, p.num_known, p.num_fitting, -_rank(p.prefix)))
    others = [
        part for part in parts if part.num_fitting == best.num_fitting and not best.is_same(part)
    ]
    return best, others


def _prefixes(weights: Mapping[str, Tensor]) -> Iterator[tuple[str, list[str]]]:
    """Yield every prefix that names have, the shortest first, with these names."""
    names_by_prefix: dict[str, list[str]] = {"": list(weights)}
    for name in weights:
        for dot in re.finditer(r"\.", name):
            names_by_prefix.setdefault(name[: dot.end()], []).append(name)
    yield from sorted(names_by_prefix.items(), key=lambda item: item[0].count("."))


def _make_part(
    prefix: str,
    names: Collection[str],
    weights: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    rename: Rename,
) -> _Part:
    renamed: dict[str, Tensor] = {}
    origins: dict[str, str] = {}
    for name in names:
        for new_name, value in rename(name.removeprefix(prefix), weights[name]).items():
            renamed[new_name] = value
            origins[new_name] = name
    return _Part(prefix, renamed, origins, expected)


def _rank(prefix: str) -> int:
    """Return the rank of a prefix among several that fit equally well; the lowest is taken."""
    words = set(re.split(r"[._]", prefix))
    if words & AVERAGED:
        return 0
    return 2 if words & TAKEN_LAST else 1


def _key_problems(
    part: _Part, expected: Mapping[str, Tensor], whole_model: Callable[[], Collection[str]]
) -> list[str]:
    """Return one phrase for each key that does not fit."""
    shapes, missing, unknown = [], [], []
    for name, value in expected.items():
        if name not in part.renamed:
            if not name.endswith(OPTIONAL):
                missing.append(name)
        elif part.renamed[name].shape != value.shape:
            shape = list(part.renamed[name].shape)
            shapes.append(f"{name} is {shape}, expected {list(value.shape)}")
    # The same parts of the model, as the file names them: a deeper encoder has more blocks in them.
    tops = {_top(part, part.origins[name]) for name in expected if name in part.origins}
    for name, origin in part.origins.items():
        top = _top(part, origin)
        if name not in expected and (top in tops or not _is_head(top)):
            unknown.append(name)
    if unknown:
        beside = whole_model()
        unknown = [name for name in unknown if name not in beside]
    phrases = [f"{name} is missing" for name in missing]
    if missing and unknown:
        phrases[0] += nearest(missing[0], unknown)
    return shapes + phrases + [f"{name} is unknown" for name in unknown]


def _top(part: _Part, name: str) -> str:
    """Return the first component of a name after the prefix."""
    return name.removeprefix(part.prefix).split(".")[0]


def _is_head(top: str) -> bool:
    return top in HEADS or top.startswith("head")


def _check_values(
    chosen: Mapping[str, Tensor], part: _Part, expected: Mapping[str, Tensor], source: str
) -> None:
    """Raise WeightsError for values that are not finite, or that are no plain numbers."""
    for name, value in chosen.items():
        if not expected[name].is_floating_point():
            continue
        origin = part.origins[name]
        if not value.is_floating_point():
            kind = str(value.dtype).removeprefix("torch.")
            raise WeightsError(
                f"model.weights: {source}: {origin!r} has the type {kind}, as quantised weights "
                "have; take the weights from before they were quantised"
            )
        bad = int((~torch.isfinite(value.float())).sum())
        if bad:
            raise WeightsError(
                f"model.weights: {source}: {origin!r} has {bad} of {value.numel()} values that are "
                "not finite (NaN or infinite): the training that wrote it had diverged, or the "
                "file is damaged; take an earlier checkpoint"
            )


def _under(prefix: str) -> str:
    return f"under the prefix {prefix!r}" if prefix else "without a prefix"


def _log_choice(
    source: str, part: _Part, others: list[_Part], weights: Mapping[str, Tensor]
) -> None:
    """Log the prefix of the encoder's tensors, and the other parts of the file."""
    left_out = _left_out(part, weights)
    if not (part.prefix or left_out or others):
        return
    text = f"{part.num_fitting} tensors of the encoder, {_under(part.prefix)}"
    if left_out:
        text += f"; left out: {left_out}"
    log.info("model.weights: %s: %s", source, text)
    if others:
        log.warning(
            "model.weights: %s: holds the encoder more than once; took %r, not %s",
            source,
            part.prefix,
            ", ".join(repr(other.prefix) for other in others[:3]),
        )


def _left_out(part: _Part, weights: Mapping[str, Tensor]) -> str:
    """Return the parts of a file beside the encoder with their numbers of tensors, as text."""
    used = {part.origins[name] for name in part.origins if name in part.expected}
    inner = {name[: dot.end()] for name in used for dot in re.finditer(r"\.", name)}
    numbers: dict[str, int] = {}
    for name in weights:
        if name not in used:
            starts = [name[: dot.end()] for dot in re.finditer(r"\.", name)]
            top = next((start for start in starts if start not in inner), name).rstrip(".")
            numbers[top] = numbers.get(top, 0) + 1
    return first_of([f"{top} ({number})" for top, number in numbers.items()], MAX_SHOWN)
