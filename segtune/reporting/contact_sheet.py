"""A contact sheet: a table of images over their masks, with a legend of the classes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image, ImageDraw, ImageFont

# All sizes in pixels.
TILE = 200  # largest side of an image
GAP = 10
FONT = 15
LINE = 20
SWATCH = 16
LEGEND_COLUMN = 190
BACKGROUND, INK, FAINT = (255, 255, 255), (20, 20, 20), (110, 110, 110)
FRAME = (205, 205, 205)
# A legend of more classes has only those that the sheet shows.
MAX_LEGEND = 48


class Tile(NamedTuple):
    """An image uint8 [h, w, 3], its mask in class colours uint8 [h, w, 3], and its ignored pixels.

    `ignored` is bool [h, w].
    """

    image: np.ndarray
    colours: np.ndarray
    ignored: np.ndarray


class SheetColumn(NamedTuple):
    """A column: a name, a second line that may be empty, and one tile for each row."""

    name: str
    detail: str
    tiles: Sequence[Tile]


class LegendEntry(NamedTuple):
    """A class in the legend; the colour None means ignored pixels."""

    text: str
    colour: tuple[int, int, int] | None


def draw_sheet(
    columns: Sequence[SheetColumn], row_names: Sequence[str], legend: Sequence[LegendEntry]
) -> np.ndarray:
    """Return the sheet as RGB uint8 [H, W, 3].

    A row has the images, the masks below them, and above them the name of the image.
    """
    import numpy as np
    from PIL import Image, ImageDraw

    font = _font()
    widths = [_column_width(column, font) for column in columns]
    heights = [_row_height(columns, row) for row in range(len(row_names))]
    width = GAP + sum(width + GAP for width in widths)
    legend_rows = math.ceil(len(legend) / _per_row(width))
    head = 2 * GAP + 2 * LINE
    height = head + sum(heights) + GAP + legend_rows * LINE + GAP
    sheet = Image.new("RGB", (width, height), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    x = GAP
    for column, column_width in zip(columns, widths, strict=True):
        draw.text((x, GAP), column.name, INK, font)
        draw.text((x, GAP + LINE), column.detail, FAINT, font)
        y = head
        for tile, row_height in zip(column.tiles, heights, strict=True):
            _paste(sheet, tile, x, y + LINE)
            y += row_height
        x += column_width + GAP
    y = head
    for name, row_height in zip(row_names, heights, strict=True):
        draw.line((GAP, y - GAP // 2, width - GAP, y - GAP // 2), FRAME)
        draw.text((GAP, y), shortened(name, width - 2 * GAP, font), INK, font)
        y += row_height
    _draw_legend(sheet, draw, legend, y + GAP, font)
    return np.asarray(sheet)


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    from PIL import ImageFont

    return ImageFont.load_default(FONT)


def shortened(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """Return a text that is at most `width` pixels wide: its middle may become `…`."""
    if font.getlength(text) <= width:
        return text
    kept = len(text)
    while kept > 2 and font.getlength(_without_middle(text, kept)) > width:
        kept -= 1
    return _without_middle(text, kept)


def _without_middle(text: str, kept: int) -> str:
    return f"{text[: (kept + 1) // 2]}…{text[len(text) - kept // 2 :]}"


def tile_size(height: int, width: int) -> tuple[int, int]:
    """Return height and width at which an image is drawn: its longer side becomes TILE."""
    factor = TILE / max(height, width)
    return max(1, round(height * factor)), max(1, round(width * factor))


def _column_width(column: SheetColumn, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> int:
    tiles = max(tile_size(*tile.ignored.shape)[1] for tile in column.tiles)
    texts = max(font.getlength(text) for text in (column.name, column.detail))
    return max(tiles, math.ceil(texts))


def _row_height(columns: Sequence[SheetColumn], row: int) -> int:
    """Return the height of a row: its name, images, masks and gaps."""
    tiles = max(tile_size(*column.tiles[row].ignored.shape)[0] for column in columns)
    return LINE + 2 * tiles + 3 * GAP


def _paste(sheet: Image.Image, tile: Tile, x: int, y: int) -> None:
    """Draw the image with its top left corner at x, y, and the mask below it."""
    import cv2
    import numpy as np
    from PIL import Image

    from segtune.data.mask_colours import stripes

    height, width = tile_size(*tile.ignored.shape)
    shrinks = height < tile.ignored.shape[0]
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    image = cv2.resize(tile.image, (width, height), interpolation=how)
    colours = cv2.resize(tile.colours, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
    ignored = cv2.resize(
        tile.ignored.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST_EXACT
    )
    mask = np.where(ignored[..., None] > 0, stripes(height, width), colours)
    for part, top in ((image, y), (mask, y + height + GAP // 2)):
        framed = cv2.copyMakeBorder(part, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=FRAME)
        sheet.paste(Image.fromarray(framed), (x - 1, top - 1))


def _per_row(width: int) -> int:
    return max(1, (width - GAP) // LEGEND_COLUMN)


def _draw_legend(
    sheet: Image.Image,
    draw: ImageDraw.ImageDraw,
    legend: Sequence[LegendEntry],
    top: int,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
) -> None:
    import numpy as np
    from PIL import Image

    from segtune.data.mask_colours import stripes

    for entry, (x, y) in zip(legend, _positions(len(legend), sheet.width, top), strict=True):
        if entry.colour is None:
            swatch = stripes(SWATCH, SWATCH)
        else:
            swatch = np.full((SWATCH, SWATCH, 3), entry.colour, np.uint8)
        sheet.paste(Image.fromarray(swatch), (x, y))
        draw.rectangle((x, y, x + SWATCH - 1, y + SWATCH - 1), outline=FAINT)
        text = shortened(entry.text, LEGEND_COLUMN - SWATCH - 2 * GAP, font)
        draw.text((x + SWATCH + GAP // 2, y - 1), text, INK, font)


def _positions(num_entries: int, width: int, top: int) -> Iterator[tuple[int, int]]:
    """Yield the place of each entry: the entries fill rows from left to right."""
    per_row = _per_row(width)
    for index in range(num_entries):
        row, column = divmod(index, per_row)
        yield GAP + column * LEGEND_COLUMN, top + row * LINE


def class_legend(
    names: Sequence[str], colours: np.ndarray, shown: Sequence[int], ignore_index: int
) -> list[LegendEntry]:
    """Return the legend: the classes with their labels, and the ignored pixels.

    `colours` uint8 [C, 3] are those of the classes, `shown` the labels that occur in the sheet. Of
    more than MAX_LEGEND classes, only these are listed, and how many others there are.
    """
    labels = range(len(names))
    listed = list(labels) if len(names) <= MAX_LEGEND else [i for i in labels if i in set(shown)]
    entries = []
    for label in listed:
        red, green, blue = (int(value) for value in colours[label])
        if label != ignore_index:
            entries.append(LegendEntry(f"{label} {names[label]}", (red, green, blue)))
    entries.append(LegendEntry(f"{ignore_index} ignored", None))
    if len(listed) < len(names):
        entries.append(LegendEntry(f"{len(names) - len(listed)} more classes", BACKGROUND))
    return entries
