"""What the files of a data set hold: sizes of images, values and colours of masks, odd files.

Reads the header of every image and mask, and decodes a share of the masks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from segtune.config.data_config import DataConfig
from segtune.data.image_files import StoredImage, open_header
from segtune.data.label_colours import pack
from segtune.data.mask_values import open_mask, read_values
from segtune.data.pairs import Pair
from segtune.errors import DataError

# Masks that are decoded, evenly spaced. Rare classes are in few masks, so it is many.
MAX_MASKS = 400
# Headers that are read: about 0.1 ms each on a local disk.
MAX_HEADERS = 5000
MAX_MEGAPIXELS = float(DataConfig.model_fields["max_megapixels"].default)
# More distinct values or colours are no classes, but smoothed edges, numbers of objects or depths.
MAX_DISTINCT = 1000

Watch = Callable[[Sequence[Pair]], Iterable[Pair]]  # shows progress


@dataclass
class Survey:
    """What the files of a data set hold."""

    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)  # (width, height) of images
    values: Counter[int] = field(default_factory=Counter)  # pixels of each value in the masks
    colours: Counter[int] = field(default_factory=Counter)  # pixels of each colour, as in `pack`
    palettes: dict[int, set[int]] = field(default_factory=dict)  # {index: its packed colours}
    odd: dict[str, str] = field(default_factory=dict)  # {image: why the pair cannot be used}
    num_masks: int = 0  # that were decoded
    has_colours: bool = False  # a mask has unequal channels

    @property
    def needs_palette(self) -> bool:
        """Whether labels follow from colours: no grey values, or palettes that differ."""
        return self.has_colours or any(len(colours) > 1 for colours in self.palettes.values())


def survey(pairs: Sequence[Pair], watch: Watch = lambda pairs: pairs) -> Survey:
    """Look at the pairs of a data set. Files that cannot be read are in `odd`."""
    result = Survey()
    checked = [pairs[index] for index in _spaced(len(pairs), MAX_HEADERS)]
    decoded = {pairs[index] for index in _spaced(len(pairs), MAX_MASKS)}
    for pair in watch(checked):
        try:
            _look_at_headers(pair, result)
            if pair in decoded:
                _look_at_mask(pair, result)
        except DataError as error:
            result.odd[pair.image] = str(error)
    return result


def _spaced(count: int, limit: int) -> list[int]:
    spaced = np.linspace(0, max(0, count - 1), min(count, limit)).round().astype(int)
    return np.unique(spaced).tolist()


def _look_at_headers(pair: Pair, result: Survey) -> None:
    image, mask = (open_header(path, MAX_MEGAPIXELS) for path in (pair.image, pair.mask))
    sizes = {image.upright_size, image.stored_size}
    if not {mask.upright_size, mask.stored_size} & sizes:
        wide, high = mask.upright_size
        width, height = image.upright_size
        raise DataError(
            f"{pair.mask}: has {wide}x{high} pixels, and its image {Path(pair.image).name} has "
            f"{width}x{height}"
        )
    result.sizes[image.upright_size] += 1


def _look_at_mask(pair: Pair, result: Survey) -> None:
    stored = open_mask(pair.mask, MAX_MEGAPIXELS)
    if stored.is_lossy:
        raise DataError(
            f"{pair.mask}: has lossy compression, which changes the labels along every edge; save "
            "the masks as PNG"
        )
    values = read_values(stored)
    result.num_masks += 1
    if values.ndim == 3:
        result.has_colours = True
        _add(result.colours, _counted(pack(values)))
        return
    counts = _counted(values)
    _add(result.values, counts)
    colour_of = _colours_of_palette(stored) if stored.image.mode == "P" else {}
    if colour_of:
        for value in counts:
            result.palettes.setdefault(value, set()).add(colour_of.get(value, 0))
    # A grey mask among masks of colours has colours, too.
    _add(result.colours, {colour_of.get(v, v * 0x010101): n for v, n in counts.items()})


def _counted(values: np.ndarray) -> dict[int, int]:
    """Return {value: number of pixels}."""
    if values.dtype == np.uint8:
        numbers = np.bincount(values.ravel(), minlength=256)
        distinct = np.flatnonzero(numbers)
        return dict(zip(distinct.tolist(), numbers[distinct].tolist(), strict=True))
    distinct, numbers = np.unique(values, return_counts=True)
    return dict(zip(distinct.tolist(), numbers.tolist(), strict=True))


def _add(counts: Counter[int], others: dict[int, int]) -> None:
    if len(counts) <= MAX_DISTINCT:
        counts.update(others)


def _colours_of_palette(stored: StoredImage) -> dict[int, int]:
    """Return the packed colour of each index of a palette image."""
    palette = np.array(stored.image.getpalette() or [0, 0, 0], np.uint8).reshape(-1, 3)
    return dict(enumerate(pack(palette).tolist()))
