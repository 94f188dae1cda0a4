"""The pictures and the confusion matrix of a search run, as the report shows them."""

from __future__ import annotations

import base64
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from segtune.checks.findings import percent
from segtune.runs.results import TrialResult
from segtune.runs.rundir import SearchDir, search_of

MIME = {".jpg": "image/jpeg", ".png": "image/png"}
TITLES = {"image": "image", "truth": "truth", "baseline": "config itself", "best": "best trial"}
# A matrix of more classes cannot be read.
MAX_CLASSES = 24
NUM_CONFUSIONS = 10


@dataclass(frozen=True)
class Picture:
    """One picture of an image, its mask or a prediction."""

    title: str
    source: str  # a data URI
    alternative: str


@dataclass(frozen=True)
class PictureRow:
    """An image with its mask and its predictions."""

    name: str
    words: str
    pictures: Sequence[Picture]


@dataclass(frozen=True)
class Pictures:
    """The pictures of a search run, or why there are none."""

    note: str  # empty if nothing has to be said
    rows: Sequence[PictureRow] = ()
    classes: Sequence[Mapping[str, str]] = ()  # name and colour


@dataclass(frozen=True)
class Confusion:
    """A confusion matrix in words: the share of each true class that is predicted as each class."""

    trial: str
    classes: Sequence[str]
    shares: Sequence[Sequence[float | None]]  # by true class; empty with many classes
    largest: Sequence[tuple[str, str, float]]  # truth, prediction, share of the true class


def read_pictures(run: SearchDir, best: TrialResult | None) -> Pictures:
    """Return the pictures, and a sentence if they are missing or of another trial."""
    record = run.read_pictures()
    whole = search_of(run.path) or run  # its report has the pictures of a part, too
    command = shlex.join(["segtune", "report", str(whole.path), "--pictures"])
    if record is None:
        return Pictures(f"There are no pictures yet; draw them with: {command}")
    if "problem" in record:
        return Pictures(f"There are no pictures: {record['problem']}; try again with: {command}")
    notes = [record["note"]]
    if best is None or record["best"]["trial"] != best.id:
        notes.append(
            f"trial {record['best']['trial']} was the best then; draw them again with: {command}"
        )
    rows = [_row(run, image) for image in record["images"]]
    note = "; ".join(filter(None, notes))
    return Pictures(note[:1].upper() + note[1:], rows, record["classes"])


def _row(run: SearchDir, image: Mapping[str, Any]) -> PictureRow:
    best, baseline = image["best"], image["baseline"]
    words = f"best trial {percent(best)} of the pixels right"
    if baseline is not None:
        words = f"config itself {percent(baseline)} of the pixels right, {words}"
    return PictureRow(image["name"], words, list(_pictures(run, image)))


def _pictures(run: SearchDir, image: Mapping[str, Any]) -> Iterator[Picture]:
    """Yield the pictures that are there, in the order of TITLES."""
    for kind, title in TITLES.items():
        for name in image["files"]:
            path = run.pictures / name
            if path.stem.endswith(f"-{kind}") and path.is_file():
                data = base64.b64encode(path.read_bytes()).decode()
                words = f"{title} of {image['name']}"
                yield Picture(title, f"data:{MIME[path.suffix]};base64,{data}", words)


def read_confusion(run: SearchDir, best: TrialResult | None) -> Confusion | None:
    """Return the confusion matrix of the best trial, or None if there is none."""
    record = run.read_confusion()
    if record is None or best is None or record["trial"] != best.id:
        return None
    names, matrix = record["classes"], record["matrix"]
    shares = [[n / sum(row) if sum(row) else None for n in row] for row in matrix]
    pairs = [
        (names[true], names[label], share)
        for true, row in enumerate(shares)
        for label, share in enumerate(row)
        if true != label and share
    ]
    pairs.sort(key=lambda pair: -pair[2])
    is_small = len(names) <= MAX_CLASSES
    return Confusion(record["trial"], names, shares if is_small else [], pairs[:NUM_CONFUSIONS])
