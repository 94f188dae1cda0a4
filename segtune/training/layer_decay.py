"""How deep in its encoder each parameter lies, for a learning rate that falls towards the input.

Knows only names: the blocks of an encoder are numbered in their names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

# The name of a block: `blocks.3`, `blocks.0.1` in EfficientNet, `stages.0.blocks.1` in MiT and
# `layers_0.blocks.1` in Swin; in ResNet `layer1.0`, in RegNet `s1.b1`.
BLOCK = re.compile(r"^(.*?\bblocks?(?:\.\d+)+|.*?\blayer\d\.\d+|.*?\bs\d\.b\d+)\.")


def depths(names: Iterable[str]) -> dict[str, int]:
    """Return the number of the block of each parameter of an encoder, from 1, in their order.

    Parameters before the first block, such as the patch embedding, have 0. A parameter between
    blocks, such as a norm or a downsampling, has the number of the block before it.
    """
    numbers: dict[str, int] = {}
    result: dict[str, int] = {}
    for name in names:
        if found := BLOCK.match(name):
            result[name] = numbers.setdefault(found[1], len(numbers) + 1)
        else:
            result[name] = len(numbers)
    return result


def layer_factors(names: Iterable[str], decay: float) -> dict[str, float]:
    """Return the learning rate of each parameter of an encoder relative to that of the head.

    The last block has `decay`, the block before it decay^2, and so on; what lies before the first
    of n blocks has decay^(n + 1). Source: Bao et al. 2022 (BEiT), and `layer_wise` in mmseg's
    LearningRateDecayOptimizerConstructor.
    """
    depth_of = depths(names)
    num_blocks = max(depth_of.values(), default=0)
    return {name: decay ** (num_blocks + 1 - depth) for name, depth in depth_of.items()}
