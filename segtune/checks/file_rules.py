"""Rules over the files of a split: masks that are refused, and masks that do not fit the image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from segtune.checks.label_findings import LabelFinding, split_way_out
from segtune.config.data_config import DataConfig
from segtune.data.decode import as_stored_note
from segtune.data.edge_fit import EdgeFit
from segtune.data.refused import RefusedFiles
from segtune.data.statistics import SplitStatistics, TurnedImages

REASONS = {
    "unreadable": "training stops at the first file that cannot be read",
    "label-values": "a pixel whose label is no class can be neither trained nor scored; training "
    "stops at the first of these masks",
    "colour-mask": "a mask holds one number per pixel, and only a table of colours says which "
    "class a colour is",
    "lossy-mask": "compression invents labels along every edge",
    "size": "a mask that is stretched over its image has wrong labels at every edge",
    "all-ignored": "a crop of such an image trains nothing, and scores nothing",
}
LOOK = "look at some pairs: segtune data show CONFIG --out DIR"
# Edges of few images may fit by chance. On CamVid, the edges of 32 pairs have a peak of 34 to 37
# standard deviations, and at most 6 after a wrong turn.
MIN_PAIRS = 8
MIN_PEAK = 8.0
# How much higher the peak has to be than without the shift and after all other turns: objects such
# as discs fit after any turn.
MIN_RATIO = 1.5
# Masks are drawn to about a hundredth of the side; a border drawn on one side only shifts less.
MIN_SHIFT = 0.015


def refused_findings(splits: Sequence[SplitStatistics]) -> Iterator[LabelFinding]:
    """Yield a finding for each kind of refused files."""
    for group in (group for split in splits for group in split.refused):
        problem, way_out = split_way_out(group.text)
        head = f"{group.files[0]}: " if group.files else ""
        if group.count > 1 and group.files:
            head = f"{group.count} files (first {group.files[0]}): "
        yield LabelFinding(
            *("error", group.kind, "", head + problem, REASONS[group.kind], way_out, group.count),
            tuple(group.files),
            {value: group.values[value] for value in sorted(group.wrong)},
        )


def numbering_findings(
    config: DataConfig, num_classes: int, splits: Sequence[SplitStatistics]
) -> list[LabelFinding]:
    """Return the finding that the masks number the classes from 1.

    No mask then has the value 0, and the only value that is no label is the number of classes.
    """
    groups = [group for split in splits for group in split.refused if group.wrong]
    wrong = {value for group in groups for value in group.wrong}
    has_zero = any(group.values[0] for group in groups) or any(split.pixels[0] for split in splits)
    if wrong != {num_classes} or has_zero or config.reduces_zero_label or config.label_map:
        return []
    count = sum(group.count for group in groups)
    return [
        LabelFinding(
            *("error", "reduce-zero-label", "data.reduce_zero_label"),
            f"no mask has the value 0, and {_masks(count)} the value {num_classes}, so the files "
            f"number the {num_classes} classes from 1",
            "every class is trained under the name of the next one",
            "--set data.reduce_zero_label=true",
            count,
            tuple(sorted(file for group in groups for file in group.files)[:5]),
        )
    ]


def _masks(count: int) -> str:
    return "1 mask has" if count == 1 else f"{count} masks have"


def wrong_values(groups: Sequence[RefusedFiles]) -> dict[int, int]:
    """Return the pixels of each value that is no label, ascending by value."""
    total: Counter[int] = Counter()
    for group in groups:
        total.update({value: group.values[value] for value in group.wrong})
    return {value: total[value] for value in sorted(total)}


def fit_findings(split: str, statistics: SplitStatistics) -> Iterator[LabelFinding]:
    """Yield the findings on masks that are turned or shifted against their images."""
    if statistics.as_stored:
        text = as_stored_note(split, statistics.as_stored[0], len(statistics.as_stored))
        yield LabelFinding(
            *("note", "exif", f"data.{split}", text.removeprefix(f"data.{split}: ")),
            "the masks were drawn on the image without its orientation",
            *("", len(statistics.as_stored), tuple(statistics.as_stored[:5])),
        )
    if finding := _exif_finding(split, statistics.turned):
        yield finding
    if finding := _edge_finding(split, statistics.edges):
        yield finding


def _exif_finding(split: str, turned: TurnedImages) -> LabelFinding | None:
    """Return the finding on images that may be turned away from their masks."""
    if not turned.count:
        return None
    is_wrong = 2 * turned.fit_as_stored > turned.compared
    images = "1 image has" if turned.count == 1 else f"{turned.count} images have"
    return LabelFinding(
        *("warning" if is_wrong else "note", "exif", f"data.{split}"),
        f"{images} an EXIF orientation, are turned by it, and fit their masks in size with and "
        f"without it; the edges of {turned.fit_as_stored} of {turned.compared} masks fit the image "
        "as stored",
        "a mask that was drawn on the image as stored has its labels in the wrong place",
        f"{LOOK}; if they do not fit, remove the orientation from the images (exiftool "
        "-Orientation= FILE), or turn the masks",
        *(turned.count, tuple(turned.files[:5])),
    )


def _edge_finding(split: str, edges: EdgeFit) -> LabelFinding | None:
    """Return the finding that the masks of a split fit their images after a turn or a shift."""
    fit = edges.best()
    if fit is None or edges.num_pairs < MIN_PAIRS or fit.peak < MIN_PEAK:
        return None
    if fit.peak < MIN_RATIO * fit.runner_up:
        return None
    is_far = max(abs(fit.right), abs(fit.down)) >= MIN_SHIFT
    is_shifted = is_far and fit.peak >= MIN_RATIO * fit.here
    if fit.turn:
        how = f"if the masks are {fit.turn}"
    elif is_shifted:
        how = f"if the masks move by {_shift(fit.right, fit.down)}"
    else:
        return None
    return LabelFinding(
        *("warning", "turned-masks" if fit.turn else "shifted-masks", f"data.{split}"),
        f"in {edges.num_pairs} pairs, the edges of the masks lie on those of the images {how}",
        "the size is right and the labels are in the wrong place, so training teaches nothing true",
        f"{LOOK}; then repair the export of the masks",
        edges.num_pairs,
    )


def _shift(right: float, down: float) -> str:
    parts = [
        f"{100 * abs(share):.1f} % of the {side} {forward if share > 0 else back}"
        for share, side, forward, back in (
            (right, "width", "to the right", "to the left"),
            (down, "height", "down", "up"),
        )
        if abs(share) >= MIN_SHIFT
    ]
    return " and ".join(parts)
