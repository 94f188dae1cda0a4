"""A replay in words: what was not finite first, and the table of remedies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from rich.console import Console
from rich.table import Table

from segtune.errors import first_of
from segtune.reporting.terminal import labelled, print_lines
from segtune.runs.replay_record import Origin, RemedyResult, ReplayRecord, StepNumbers

NUM_LAYERS = 3  # whose numbers are printed; --json has all of them
PHASES = {
    "weights": "the weights before the step",
    "forward": "the forward pass",
    "loss": "the loss",
    "backward": "the backward pass",
    "norm": "the norm of all gradients",
    "update": "the weights after the step",
}


def print_replay(record: ReplayRecord, console: Console) -> None:
    """Print a whole replay: the step, the first value that is not finite, and the remedies."""
    print_lines(console, *_lines(record))
    if record.remedies:
        console.print(remedy_table(record))
    print_lines(console, labelled("result", record.conclusion))


def _lines(record: ReplayRecord) -> Iterator[str]:
    yield labelled("trial", f"{record.trial}: {record.kind}: {record.evidence}")
    yield labelled("recorded", _numbers(record.recorded))
    yield labelled("replayed", _numbers(record.replayed))
    yield labelled("same", _sameness(record))
    for difference in record.differences:
        yield labelled("differs", difference)
    yield labelled("first", origin_words(record.origin))
    if record.origin and record.origin.phase != "weights":
        yield labelled("images", _images(record))
    if record.earlier:
        words = origin_words(record.earlier)
        yield labelled("earlier", f"{words}; it did not reach the logits")
    yield from _largest(record)


def _numbers(step: StepNumbers) -> str:
    terms = [f"{name} {value:.6g}" for name, value in step.losses.items()]
    return f"step {step.step}: {', '.join(terms)}, gradient norm {step.grad_norm:.6g}"


def _sameness(record: ReplayRecord) -> str:
    if not record.reproduced:
        reason = "" if record.exact else f"; {record.note}"
        return f"no, the recorded step does not repeat here{reason}"
    if record.exact:
        return "yes, from the weights before the step"
    return f"as far as it can be: {record.note}"


def origin_words(origin: Origin | None) -> str:
    """Return where the first value that is not finite comes from, in one line."""
    if origin is None:
        return "every value of this step is finite"
    match origin.phase:
        case "weights" | "update":
            share = _percent(origin.nan_share)
            return f"{share} of {origin.layer} is not finite, in {PHASES[origin.phase]}"
        case "norm":
            largest = f"{origin.largest_input or 0.0:.3g}"
            return (
                f"each gradient is finite (up to {largest}), but the sum of their squares is more "
                "than float32 holds"
            )
    computed = f"{origin.operation} of {origin.layer}" if origin.operation else origin.layer
    words = f"in {PHASES[origin.phase]}, {computed}: {_shares(origin)}"
    if origin.largest_input is not None and origin.dtype_max is not None:
        words += (
            f"; its inputs are finite, up to {origin.largest_input:.3g} "
            f"(the largest {origin.dtype} is {origin.dtype_max:.5g})"
        )
    if origin.parameters:
        words += f"; with {first_of(origin.parameters, 2)}"
    return f"{words} [{origin.line}]" if origin.line else words


def _shares(origin: Origin) -> str:
    shares = (("inf", origin.inf_share), ("NaN", origin.nan_share))
    words = [f"{_percent(share)} {name}" for name, share in shares if share]
    return f"its result is {' and '.join(words) or 'not finite'}"


def _percent(share: float) -> str:
    return "less than 0.1 %" if share < 0.001 else f"{100 * share:.3g} %"


def _images(record: ReplayRecord) -> str:
    rank = record.origin.rank if record.origin else 0
    names = record.images[rank] if rank < len(record.images) else []
    of_rank = f" of rank {rank}" if len(record.images) > 1 else ""
    return f"{first_of(names, 8)}{of_rank}"


def _largest(record: ReplayRecord) -> Iterator[str]:
    """Yield the layers with the largest weights, outputs and gradients."""
    weights = {name: numbers["largest"] for name, numbers in record.weights.items()}
    gradients = {name: numbers["largest"] for name, numbers in record.gradients.items()}
    groups: list[tuple[str, Mapping[str, float]]] = [
        ("weights", weights),
        ("outputs", record.activations),
        ("gradients", gradients),
    ]
    for label, numbers in groups:
        ordered = sorted(numbers.items(), key=lambda item: -item[1])
        top = [item for item in ordered[:NUM_LAYERS] if item[1]]
        if top:
            text = ", ".join(f"{name} {value:.3g}" for name, value in top)
            yield labelled(label, f"largest finite: {text}")


def remedy_table(record: ReplayRecord) -> Table:
    """Return a row for the settings as they are, and for each remedy."""
    table = Table(header_style="bold", expand=False)
    number = len(record.remedies[0].steps)
    titles = ("settings", "loss", f"after {number} steps", "gradient norm", "finite", "works")
    for title in titles:
        table.add_column(title, justify="left" if title == "settings" else "right")
    for result in record.remedies:
        table.add_row(*_cells(result))
    return table


def _cells(result: RemedyResult) -> tuple[str, ...]:
    settings = ", ".join(f"{name} {value}" for name, value in result.settings.items())
    num_finite = sum(step.is_finite for step in result.steps)
    finite = "all" if result.stays_finite else f"{num_finite} of {len(result.steps)} steps"
    return (
        settings or "as they are",
        f"{result.steps[0].loss:.4g}",
        f"{result.loss_after:.4g}",
        f"{result.steps[0].grad_norm:.4g}",
        finite,
        "yes" if result.works else "no",
    )
