"""What a figure of curves shows, without a drawing library: panels, lines, colours, labels."""

from __future__ import annotations

import logging
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from segtune.errors import ConfigError, first_of, nearest
from segtune.reporting.curves import (
    STEP_SECONDS,
    Axis,
    RunCurves,
    best_point,
    direction,
    is_score,
    last_part,
)
from segtune.reporting.format import time_unit

log = logging.getLogger(__name__)

# The palette of Okabe and Ito (2008), without its yellow, which is not readable on white.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#1b1f24")
DASHES = ("solid", "dash", "dot", "dashdot")  # as plotly calls them
# More curves cannot be told apart. The others are grey.
MAX_STYLES = len(COLOURS) * len(DASHES)
OTHERS = "#c8ccd2"
# Longer series are drawn without a marker at each point.
MAX_MARKERS = 40
MAX_LABEL = 60
# A key whose maximum is this many times its median is drawn on a logarithmic axis: a run that
# diverges would press all others onto the axis.
LOG_RATIO = 30.0
TITLES = {
    "miou": "mIoU",
    "macc": "mAcc",
    "aacc": "aAcc",
    "mdice": "mDice",
    "mfscore": "mFscore",
    "mprecision": "mPrecision",
    "mrecall": "mRecall",
    "lr": "learning rate",
    "grad_norm": "gradient norm",
    "loss_scale": "scale of the loss (fp16)",
    "skipped_steps": "skipped steps (fp16)",
    STEP_SECONDS: "seconds per step",
}
ALIASES = {"time": STEP_SECONDS}


@dataclass(frozen=True)
class Style:
    """The colour and dash of one run in all panels."""

    colour: str
    dash: str
    is_told_apart: bool = True


@dataclass(frozen=True)
class Line:
    """A run in a panel."""

    run: int  # index
    xs: Sequence[float]
    ys: Sequence[float]
    mark: int  # index of the best point; of the last one if there is no best
    label: str  # the value there
    ending: str  # how the run went wrong; empty if it did not


@dataclass(frozen=True)
class Panel:
    """One key."""

    key: str
    title: str
    lines: Sequence[Line]
    marks_best: bool  # whether the labels are best values; otherwise last values
    is_log: bool
    from_zero: bool

    @property
    def mark_name(self) -> str:
        """The heading of the labels."""
        return "best" if self.marks_best else "last"


@dataclass(frozen=True)
class Figure:
    """Everything that is drawn."""

    title: str
    x_title: str
    legend: Sequence[str]
    styles: Sequence[Style]
    panels: Sequence[Panel]


def find_keys(wanted: Sequence[str], runs: Sequence[RunCurves]) -> list[str]:
    """Return the keys as the runs call them, in any case of letters.

    Raise ConfigError that lists the keys that no run has. Keys that only some of the runs have are
    logged.
    """
    known = {key: None for run in runs for key in run.series}
    by_word = {key.casefold(): key for key in known} | ALIASES
    found: list[str] = []
    problems: list[str] = []
    for word in dict.fromkeys(wanted):
        key = by_word.get(word.casefold())
        if key is None or key not in known:
            problems.append(f"--keys: {word}: no run has this key{nearest(word, known)}")
        elif key not in found:
            found.append(key)
            _log_absent(key, runs)
    if not wanted:
        problems.append("--keys: no key")
    if problems:
        problems += [f"keys of {run.name}: {_listed(run)}" for run in runs[:3]]
        raise ConfigError(problems)
    return found


def _log_absent(key: str, runs: Sequence[RunCurves]) -> None:
    absent = [run.name for run in runs if key not in run.series]
    if absent:
        text = "--keys: %s: %d of %d runs have no such key and are not in its panel: %s"
        log.warning(text, key, len(absent), len(runs), first_of(absent, 5))


def _listed(run: RunCurves) -> str:
    """Return the keys of a run, with one entry for all classes of a score."""
    keys = [key for key in run.series if not (is_score(key) and "." in key)]
    groups: dict[str, list[str]] = {}
    for key in run.series:
        if is_score(key) and "." in key:
            groups.setdefault(key.partition(".")[0], []).append(key.partition(".")[2])
    for group, classes in groups.items():
        keys.append(f"{group}.CLASS with CLASS one of {first_of(classes, 25)}")
    return ", ".join(keys)


def choose_axis(runs: Sequence[RunCurves], wanted: Axis | None) -> Axis:
    """Return the horizontal axis: `wanted`, or the first of epoch, step and time that all have.

    Raise ConfigError if a run has no such positions.
    """
    axes: list[Axis] = ["epoch", "step", "time"]
    usable: list[Axis] = [axis for axis in axes if all(_has(run, axis) for run in runs)]
    if wanted is None and usable:
        if usable[0] != "epoch":
            names = first_of([run.name for run in runs if not _has(run, "epoch")], 3)
            log.info("horizontal axis: %s, because the log of %s has no epochs", usable[0], names)
        return usable[0]
    if wanted is not None and wanted in usable:
        return wanted
    names = first_of([run.name for run in runs if not _has(run, wanted or "epoch")], 3)
    ways = [f"--x {axis}" for axis in usable]
    way_out = f"use {' or '.join(ways)}" if ways else "draw these runs in figures of their own"
    raise ConfigError([f"--x: the log of {names} has no {wanted or 'epochs'}; {way_out}"])


def _has(run: RunCurves, axis: Axis) -> bool:
    return all(point.at(axis) is not None for points in run.series.values() for point in points)


def make_figure(
    runs: Sequence[RunCurves], keys: Sequence[str], axis: Axis, title: str = ""
) -> Figure:
    """Return the figure of some keys of some runs; `keys` and `axis` fit the runs."""
    x_title, unit = str(axis), 1
    if axis == "time":
        positions = [
            p.seconds or 0.0 for run in runs for key in keys for p in run.series.get(key, ())
        ]
        name, unit = time_unit(max(positions, default=0.0))
        x_title = f"training time ({name})"
    if len(runs) > MAX_STYLES:
        text = "%d curves: the best %d are in colour, because more cannot be told apart"
        log.info(text, len(runs), MAX_STYLES)
    legend = [_shortened(run.name) + (f" ({run.ending})" if run.ending else "") for run in runs]
    panels = [_panel(key, runs, axis, unit) for key in keys]
    return Figure(title, x_title, legend, styles_of(runs, keys), panels)


def styles_of(runs: Sequence[RunCurves], keys: Sequence[str]) -> list[Style]:
    """Return the style of each run; grey for the worst ones if there are more than MAX_STYLES.

    The best are those by the mIoU if it is drawn, otherwise by the first key that has a best value.
    """
    coloured = range(len(runs))
    if len(runs) > MAX_STYLES:
        by_key = ["miou"] * ("miou" in keys) + [key for key in keys if direction(key)]
        ranked = _from_best_to_worst(runs, by_key[0]) if by_key else coloured
        coloured = sorted(ranked[:MAX_STYLES])
    styles = [Style(OTHERS, "solid", is_told_apart=False)] * len(runs)
    for index, run in enumerate(coloured):
        styles[run] = Style(COLOURS[index % len(COLOURS)], DASHES[index // len(COLOURS)])
    return styles


def _from_best_to_worst(runs: Sequence[RunCurves], key: str) -> list[int]:
    """Return the indices of the runs by the best value of a key; runs without it come last."""
    sign = -1.0 if direction(key) == "max" else 1.0

    def rank(run: int) -> float:
        points = runs[run].series.get(key)
        return sign * best_point(key, points).value if points else math.inf

    return sorted(range(len(runs)), key=rank)


def words_beside(panel: Panel, line: Line) -> tuple[int, int]:
    """Return on which side of the end of a line words stay within the panel.

    The first number is 1 if they begin there, 0 if they are centred, and -1 if they end there. The
    second is 1 for above and -1 for below.
    """
    xs = [x for other in panel.lines for x in other.xs]
    ys = [math.log10(y) if panel.is_log else y for other in panel.lines for y in other.ys]
    end = math.log10(line.ys[-1]) if panel.is_log else line.ys[-1]
    across = (line.xs[-1] - min(xs)) / ((max(xs) - min(xs)) or 1.0)
    up = (end - min(ys)) / ((max(ys) - min(ys)) or 1.0)
    side = 1 if across < 0.15 else -1 if across > 0.85 else 0
    return side, -1 if up > 0.85 else 1


def _shortened(name: str) -> str:
    half = MAX_LABEL // 2
    return name if len(name) <= MAX_LABEL else f"{name[:half]}…{name[-half:]}"


def _panel(key: str, runs: Sequence[RunCurves], axis: Axis, unit: int) -> Panel:
    lines: list[Line] = []
    for index, run in enumerate(runs):
        points = run.series.get(key)
        if not points:
            continue
        best = best_point(key, points)
        lines.append(
            Line(
                run=index,
                xs=[(point.at(axis) or 0.0) / unit for point in points],
                ys=[shown(key, point.value) for point in points],
                mark=points.index(best),
                label=format_number(key, best.value),
                ending=(run.kind or run.state) if run.went_wrong else "",
            )
        )
    values = [y for line in lines for y in line.ys]
    is_log = not is_score(key) and min(values) > 0
    is_log = is_log and max(values) > LOG_RATIO * statistics.median(values)
    # An axis from zero would hide the differences of scores that are close to one another.
    from_zero = not is_log and min(values) >= 0 and min(values) <= 0.5 * max(values)
    title = _title(key) + (" (logarithmic)" if is_log else "")
    return Panel(key, title, lines, direction(key) is not None, is_log, from_zero)


def _title(key: str) -> str:
    name = last_part(key)
    title = key.removesuffix(name) + TITLES.get(name, name)
    head, _, tail = name.partition(".")
    if is_score(key) and tail:
        title = f"{'IoU' if head == 'iou' else head.capitalize()} of {tail}"
    return f"{title} (%)" if is_score(key) else title


def shown(key: str, value: float) -> float:
    """Return a value as it is drawn: scores in per cent."""
    return 100 * value if is_score(key) else value


def format_number(key: str, value: float) -> str:
    """Return a value as text: scores in per cent with two digits, others with four figures."""
    return f"{100 * value:.2f}" if is_score(key) else f"{value:.4g}"


def spread(heights: Sequence[float], gap: float) -> list[float]:
    """Move labels along an axis from 0 to 1 until they are `gap` apart, and return their places.

    Keeps their order. If there is no room for all, they are as far apart as possible.
    """
    if len(heights) < 2:
        return [min(max(height, 0.0), 1.0) for height in heights]
    gap = min(gap, 1 / (len(heights) - 1))
    order = sorted(range(len(heights)), key=lambda index: heights[index])
    places = [0.0] * len(heights)
    # Groups of labels that touch: each lies as near to its labels as possible.
    groups: list[tuple[list[int], float]] = []  # the labels of a group, and its lowest place
    for index in order:
        members, low = [index], min(max(heights[index], 0.0), 1.0)
        while groups and low < groups[-1][1] + gap * len(groups[-1][0]):
            members = groups.pop()[0] + members
            wanted = [heights[m] - gap * position for position, m in enumerate(members)]
            low = min(max(statistics.fmean(wanted), 0.0), 1.0 - gap * (len(members) - 1))
        groups.append((members, low))
    for members, low in groups:
        for position, member in enumerate(members):
            places[member] = low + gap * position
    return places


def num_labels(num_lines: int, gap: float) -> int:
    """Return how many labels that are `gap` apart fit on an axis from 0 to 1."""
    return min(num_lines, math.floor(1 / gap) + 1)


def labelled_lines(panel: Panel, styles: Sequence[Style], gap: float) -> list[Line]:
    """Return the lines that get a label: all in colour, or the best ones if not all fit."""
    lines = [line for line in panel.lines if styles[line.run].is_told_apart]
    if panel.marks_best:
        lines.sort(key=lambda line: line.ys[line.mark], reverse=direction(panel.key) == "max")
    return lines[: num_labels(len(lines), gap)]


def figure_format(path: Path) -> str:
    """Return the format of a file by its suffix: png, svg, pdf or html; otherwise ConfigError."""
    formats = (".png", ".html", ".svg", ".pdf")
    if path.suffix.lower() in formats:
        return path.suffix.lower()[1:]
    if path.is_dir():
        example = path / "curves.png"
        raise ConfigError([f"--out: {path} is a folder; expected a file, as in {example}"])
    problem = f"--out: {path}: unknown suffix {path.suffix!r}{nearest(path.suffix, formats)}"
    raise ConfigError([f"{problem}; allowed are {', '.join(formats)}"])
