"""How ignored pixels are drawn."""

from __future__ import annotations

import numpy as np

# Ignored pixels are stripes, which no class colour can be mistaken for.
STRIPES = ((255, 255, 255), (150, 150, 150))
STRIPE = 4  # pixels


def stripes(height: int, width: int) -> np.ndarray:
    """Return diagonal stripes, uint8 [height, width, 3]."""
    rows, columns = np.indices((height, width))
    return np.array(STRIPES, np.uint8)[(rows + columns) // STRIPE % 2]
