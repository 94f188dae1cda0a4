"""Axes and marks of a chart as inline SVG. The style sheet of the page gives them their colours.

A mark of a trial carries its number as `data-t`, by which the script of the page finds it. Text is
escaped here; a class is always one of ours.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

# Powers of ten alone are too few marks on an axis with fewer decades than this.
FEW_DECADES = 1.5
LETTER = 6.6  # mean width of a letter at 12 pixels


@dataclass(frozen=True)
class Axis:
    """An axis from `low` to `high`, or with the categories `labels` at 0, 1, …"""

    title: str = ""
    low: float = 0.0
    high: float = 1.0
    is_log: bool = False
    labels: Sequence[str] = ()
    is_whole: bool = False  # only whole numbers have a mark

    @classmethod
    def over(
        cls,
        values: Iterable[float],
        title: str = "",
        *,
        is_log: bool = False,
        is_whole: bool = False,
        from_zero: bool = False,
        margin: float = 0.05,
    ) -> Axis:
        """Return an axis that shows all `values`; a logarithmic one leaves out those up to 0."""
        shown = [value for value in values if value > 0 or not is_log]
        low, high = min(shown, default=1.0), max(shown, default=1.0)
        if is_log:
            factor = (high / low) ** margin if high > low else 2.0
            return cls(title, low / factor, high * factor, is_log=True)
        space = margin * (high - low) or 0.1 * abs(high) or 1.0
        low = 0.0 if from_zero and low >= 0 else low - space
        return cls(title, low, high + space, is_whole=is_whole)

    @classmethod
    def categories(cls, labels: Sequence[str], title: str = "") -> Axis:
        """Return an axis of categories."""
        return cls(title, -0.5, max(1, len(labels)) - 0.5, labels=labels)

    def at(self, value: float) -> float:
        """Return where a value lies: 0 at the low end, 1 at the high end."""
        if self.is_log:
            value, low, high = (math.log10(v) for v in (max(value, 1e-300), self.low, self.high))
        else:
            low, high = self.low, self.high
        return min(1.5, max(-0.5, (value - low) / (high - low)))

    def ticks(self, number: int = 6) -> list[tuple[float, str]]:
        """Return about `number` values and their labels."""
        if self.labels:
            return list(enumerate(self.labels))
        from matplotlib import ticker

        if self.is_log:
            decades = math.log10(self.high / self.low)
            subs = (1.0, 2.0, 5.0) if decades < FEW_DECADES else (1.0,)
            values = ticker.LogLocator(subs=subs, numticks=number + 2).tick_values(
                self.low, self.high
            )
        else:
            locator = ticker.MaxNLocator(number, integer=self.is_whole)
            values = locator.tick_values(self.low, self.high)
        inside = [float(v) for v in values if self.low <= v <= self.high]
        return [(value, f"{value:.6g}") for value in inside]


class Plot:
    """A chart of one pair of axes, in pixels. The first mark that is drawn is the lowest."""

    def __init__(
        self,
        x: Axis,
        y: Axis,
        width: int = 760,
        height: int = 360,
        left: int = 56,
        bottom: int = 44,
        top: int = 14,
        right: int = 14,
    ) -> None:
        self.x = x
        self.y = y
        self.width = width
        self.height = height
        self._left = left
        self._top = top
        self._right = right
        self._bottom = bottom
        self._marks: list[str] = []

    def px(self, value: float) -> float:
        """Return the horizontal place of a value."""
        return self.px_at(self.x.at(value))

    def py(self, value: float) -> float:
        """Return the vertical place of a value."""
        return self.py_at(self.y.at(value))

    def px_at(self, share: float) -> float:
        """Return the horizontal place of a share of the axis."""
        return round(self._left + share * (self.width - self._left - self._right), 1)

    def py_at(self, share: float) -> float:
        """Return the vertical place of a share of the axis."""
        inner = self.height - self._top - self._bottom
        return round(self.height - self._bottom - share * inner, 1)

    def line(
        self, points: Iterable[tuple[float, float]], kind: str, trial: int | None = None
    ) -> None:
        """Draw a line through points."""
        places = " ".join(f"{self.px(x):g},{self.py(y):g}" for x, y in points)
        self._marks.append(f'<polyline class="{kind}" points="{places}"{_of(trial)}/>')

    def point(self, x: float, y: float, kind: str, trial: int | None = None, tip: str = "") -> None:
        """Draw a star or a cross if `kind` has that word, otherwise a circle.

        Only a circle shows `tip`.
        """
        px, py = self.px(x), self.py(y)
        words = kind.split()
        if "star" in words or "cross" in words:
            shape = "star" if "star" in words else "cross"
            self._marks.append(
                f'<use href="#{shape}" class="{kind}" x="{px:g}" y="{py:g}"{_of(trial)}/>'
            )
            return
        tail = f">{_title(tip)}</circle>" if tip else "/>"
        self._marks.append(
            f'<circle class="{kind}" cx="{px:g}" cy="{py:g}" r="4"{_of(trial)}{tail}'
        )

    def bar(
        self,
        low: tuple[float, float],
        high: tuple[float, float],
        kind: str,
        trial: int | None = None,
    ) -> None:
        """Draw a rectangle between two corners."""
        left, right = sorted((self.px(low[0]), self.px(high[0])))
        top, bottom = sorted((self.py(low[1]), self.py(high[1])))
        self.cell(left, top, max(0.5, right - left), max(0.5, bottom - top), kind, trial)

    def cell(
        self,
        left: float,
        top: float,
        width: float,
        height: float,
        kind: str,
        trial: int | None = None,
    ) -> None:
        """Draw a rectangle at a place in pixels."""
        size = f'x="{left:.5g}" y="{top:.5g}" width="{width:.5g}" height="{height:.5g}"'
        self._marks.append(f'<rect class="{kind}" {size}{_of(trial)}/>')

    def upright(self, x: float, label: str) -> None:
        """Draw a dotted line over the whole height, with a label at its top."""
        px = self.px(x)
        bottom = self.height - self._bottom
        self._marks.append(
            f'<line class="rung" x1="{px:g}" x2="{px:g}" y1="{self._top}" y2="{bottom}"/>'
            f'<text class="rung" x="{px + 4:g}" y="{self._top + 10}">{escape(label)}</text>'
        )

    def text(self, x: float, y: float, words: str, anchor: str = "middle") -> None:
        """Write words around a place."""
        place = f'x="{self.px(x):g}" y="{self.py(y) + 4:g}"'
        self._marks.append(f'<text text-anchor="{anchor}" {place}>{escape(words)}</text>')

    def svg(self, alternative: str) -> str:
        """Return the chart; `alternative` says in words what it shows."""
        return (
            f'<svg role="img" aria-label="{escape(alternative)}" '
            f'viewBox="0 0 {self.width} {self.height}" width="{self.width}">'
            f"{''.join([*self._axes(), *self._marks])}</svg>"
        )

    def _axes(self) -> Iterable[str]:
        bottom, right = self.height - self._bottom, self.width - self._right
        num_x = max(2, (self.width - self._left) // 80)
        for value, label in self.x.ticks(num_x):
            px = self.px(value)
            yield f'<line class="grid" x1="{px:g}" x2="{px:g}" y1="{self._top}" y2="{bottom}"/>'
            room = (right - self._left) / max(1, len(self.x.labels)) if self.x.labels else 200
            shown = escape(shortened(label, room))
            yield f'<text text-anchor="middle" x="{px:g}" y="{bottom + 16}">{shown}</text>'
        for value, label in self.y.ticks(max(2, (bottom - self._top) // 50)):
            py = self.py(value)
            yield f'<line class="grid" x1="{self._left}" x2="{right}" y1="{py:g}" y2="{py:g}"/>'
            shown = escape(shortened(label, self._left - 10))
            yield f'<text text-anchor="end" x="{self._left - 6}" y="{py + 4:g}">{shown}</text>'
        middle = (self._left + right) / 2
        if self.x.title:
            shown = escape(self.x.title)
            yield f'<text text-anchor="middle" x="{middle:g}" y="{self.height - 8}">{shown}</text>'
        if self.y.title:
            yield (
                f'<text text-anchor="middle" transform="translate(12 {(self._top + bottom) / 2:g}) '
                f'rotate(-90)">{escape(self.y.title)}</text>'
            )


def shortened(text: str, room: float) -> str:
    """Return a text that fits into `room` pixels; its end may become `…`."""
    letters = max(2, int(room / LETTER))
    return text if len(text) <= letters else f"{text[: letters - 1]}…"


def _of(trial: int | None) -> str:
    return "" if trial is None else f' data-t="{trial}"'


def _title(tip: str) -> str:
    return f"<title>{escape(tip)}</title>" if tip else ""
