"""The classes of well-known data sets: their names, and the colours that overlays give them."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from segtune.data.shapes import CLASSES as SHAPES_CLASSES

# Names in the order of the labels, as mmsegmentation has them (mmseg/utils/class_names.py).
# ADE20K's agree with objectInfo150 of its benchmark, of which they are the first synonyms.
# Cityscapes' are the 19 labels with a trainId (cityscapesscripts/helpers/labels.py). CamVid's are
# the 11 classes of SegNet (Badrinarayanan et al. 2017).
_NAMES = {
    "voc": """
    background, aeroplane, bicycle, bird, boat, bottle, bus, car, cat, chair, cow, diningtable,
    dog, horse, motorbike, person, pottedplant, sheep, sofa, train, tvmonitor
    """,
    "ade20k": """
    wall, building, sky, floor, tree, ceiling, road, bed, windowpane, grass, cabinet, sidewalk,
    person, earth, door, table, mountain, plant, curtain, chair, car, water, painting, sofa,
    shelf, house, sea, mirror, rug, field, armchair, seat, fence, desk, rock, wardrobe, lamp,
    bathtub, railing, cushion, base, box, column, signboard, chest of drawers, counter, sand,
    sink, skyscraper, fireplace, refrigerator, grandstand, path, stairs, runway, case, pool
    table, pillow, screen door, stairway, river, bridge, bookcase, blind, coffee table, toilet,
    flower, book, hill, bench, countertop, stove, palm, kitchen island, computer, swivel chair,
    boat, bar, arcade machine, hovel, bus, towel, light, truck, tower, chandelier, awning,
    streetlight, booth, television receiver, airplane, dirt track, apparel, pole, land,
    bannister, escalator, ottoman, bottle, buffet, poster, stage, van, ship, fountain, conveyer
    belt, canopy, washer, plaything, swimming pool, stool, barrel, basket, waterfall, tent, bag,
    minibike, cradle, oven, ball, food, step, tank, trade name, microwave, pot, animal, bicycle,
    lake, dishwasher, screen, blanket, sculpture, hood, sconce, vase, traffic light, tray,
    ashcan, fan, pier, crt screen, plate, monitor, bulletin board, shower, radiator, glass,
    clock, flag
    """,
    "cityscapes": """
    road, sidewalk, building, wall, fence, pole, traffic light, traffic sign, vegetation,
    terrain, sky, person, rider, car, truck, bus, train, motorcycle, bicycle
    """,
    "camvid": """
    sky, building, pole, road, pavement, tree, signsymbol, fence, car, pedestrian, bicyclist
    """,
}
# Red, green and blue as hexadecimal digits, in the order of the names. VOC's follow from a formula.
# ADE20K's are color150.mat of its benchmark (CSAILVision/semantic-segmentation-pytorch); road and
# skyscraper share 8c8c8c there. CamVid's are those of its label_colors.txt.
_COLOURS = {
    "ade20k": """
    787878 b47878 06e6e6 503232 04c803 787850 8c8c8c cc05ff e6e6e6 04fa07 e005ff ebff07 96053d
    787846 08ff33 ff0652 8fff8c ccff04 ff3307 cc4603 0066c8 3de6fa ff0633 0b66ff ff0747 ff09e0
    0907e6 dcdcdc ff095c 7009ff 08ffd6 07ffe0 ffb806 0aff47 ff290a 07ffff e0ff08 6608ff ff3d06
    ffc207 ff7a08 00ff14 ff0829 ff0599 0633ff eb0cff a09614 00a3ff 8c8c8c fa0a0f 14ff00 1fff00
    ff1f00 ffe000 99ff00 0000ff ff4700 00ebff 00adff 1f00ff 0bc8c8 ff5200 00fff5 003dff 00ff70
    00ff85 ff0000 ffa300 ff6600 c2ff00 008fff 33ff00 0052ff 00ff29 00ffad 0a00ff adff00 00ff99
    ff5c00 ff00ff ff00f5 ff0066 ffad00 ff0014 ffb8b8 001fff 00ff3d 0047ff ff00cc 00ffc2 00ff52
    000aff 0070ff 3300ff 00c2ff 007aff 00ffa3 ff9900 00ff0a ff7000 8fff00 5200ff a3ff00 ffeb00
    08b8aa 8500ff 00ff5c b800ff ff001f 00b8ff 00d6ff ff0070 5cff00 00e0ff 70e0ff 46b8a0 a300ff
    9900ff 47ff00 ff00a3 ffcc00 ff008f 00ffeb 85ff00 ff00eb f500ff ff007a fff500 0abed4 d6ff00
    00ccff 1400ff ffff00 0099ff 0029ff 00ffcc 2900ff 29ff00 ad00ff 00f5ff 4700ff 7a00ff 00ffb8
    005cff b8ff00 0085ff ffd600 19c2c2 66ff00 5c00ff
    """,
    "cityscapes": """
    804080 f423e8 464646 66669c be9999 999999 faaa1e dcdc00 6b8e23 98fb98 4682b4 dc143c ff0000
    00008e 000046 003c64 005064 0000e6 770b20
    """,
    "camvid": """
    808080 800000 c0c080 804080 0000c0 808000 c08080 404080 400080 404000 0080c0
    """,
}

NAMED_CLASSES = {
    data_set: tuple(" ".join(name.split()) for name in names.split(","))
    for data_set, names in _NAMES.items()
} | {"shapes": SHAPES_CLASSES}
# What earlier versions called the classes of ADE20K.
_EARLIER_ADE20K = tuple(f"class_{label}" for label in range(1, 151))


def current_names(names: Sequence[str]) -> tuple[str, ...]:
    """Return the class names of a checkpoint, with ADE20K names of earlier versions replaced."""
    return NAMED_CLASSES["ade20k"] if tuple(names) == _EARLIER_ADE20K else tuple(names)


def colours_of(data_set: str) -> np.ndarray:
    """Return the colour of each class of ade20k, cityscapes or camvid as uint8 [C, 3]."""
    return np.array([list(bytes.fromhex(c)) for c in _COLOURS[data_set].split()], np.uint8)


def voc_colours(num_colours: int) -> np.ndarray:
    """Return PASCAL VOC's colour of each label, uint8 [num_colours, 3]."""
    labels = np.arange(num_colours)
    colours = np.zeros((num_colours, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= (((labels >> (3 * bit + channel)) & 1) << (7 - bit)).astype(
                np.uint8
            )
    return colours


def class_colours(names: Sequence[str], num_classes: int) -> np.ndarray:
    """Return a colour for each class, uint8 [num_classes, 3].

    If `names` are those of ADE20K, Cityscapes or CamVid, these are the colours of that data set,
    otherwise PASCAL VOC's, which go by label. Upper case, and the second and later synonyms in
    `building;edifice` do not matter.
    """
    keys = [_key(name) for name in names]
    for data_set in _COLOURS:
        if len(keys) == num_classes and keys == [_key(name) for name in NAMED_CLASSES[data_set]]:
            return colours_of(data_set)
    return voc_colours(num_classes)


def _key(name: str) -> str:
    first = re.split("[;,]", name)[0]
    return " ".join(first.casefold().replace("_", " ").split())
