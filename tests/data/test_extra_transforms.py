"""`augment.extra`: transforms of albumentations by name, checked when a config is read."""

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segtune.config.augment_config import AugmentConfig
from segtune.config.data_config import DataConfig
from segtune.config.schema import ExperimentConfig, load_config
from segtune.config.transforms import transform_names
from segtune.config.yaml_io import parse_yaml, write_yaml
from segtune.data.augment import Augmentation
from segtune.data.photometric import MEAN_COLOUR
from segtune.errors import ConfigError

PLAIN = {"ratio": [1.0, 1.0], "cat_max_ratio": 1.0, "flip": 0.0, "photometric": False}
# Each quarter has a colour and a label of its own.
MASK = np.kron(np.array([[0, 1], [2, 3]], np.uint8), np.ones((32, 32), np.uint8))
IMAGE = np.stack([MASK * 80, 255 - MASK * 80, MASK], -1)


def transformed(
    *extra: dict[str, Any], crop: tuple[int, int] = (64, 64), seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """IMAGE and MASK after the transforms `extra`."""
    augmentation = Augmentation(
        DataConfig.parse({"resize": [64, 64], "crop": list(crop)}),
        AugmentConfig.parse({**PLAIN, "extra": extra}),
    )
    return augmentation(IMAGE, MASK, np.random.default_rng(seed))


def refusal(*extra: object) -> str:
    """The message for a config with `extra`."""
    with pytest.raises(ConfigError) as caught:
        ExperimentConfig().override({"augment.extra": list(extra)})
    return str(caught.value)


def test_a_geometric_transform_changes_image_and_mask_together() -> None:
    image, mask = transformed({"name": "Transpose", "p": 1.0})
    assert np.array_equal(mask, MASK.T)
    assert np.array_equal(image, IMAGE.transpose(1, 0, 2))


def test_a_colour_transform_leaves_the_mask_alone() -> None:
    image, mask = transformed({"name": "GaussNoise", "std_range": [0.2, 0.2], "p": 1.0})
    assert np.array_equal(mask, MASK)
    difference = (image.astype(float) - IMAGE)[..., 1][(IMAGE[..., 1] > 80) & (IMAGE[..., 1] < 180)]
    assert difference.std() == pytest.approx(0.2 * 255, rel=0.15)


def test_borders_get_the_mean_colour_and_ignore_index() -> None:
    shift = {"name": "Affine", "translate_px": {"x": 16, "y": 0}, "scale": 1.0, "p": 1.0}
    image, mask = transformed(shift)
    assert (mask[:, :16] == 255).all()
    assert (image[:, :16] == MEAN_COLOUR).all()
    assert np.array_equal(mask[:, 16:], MASK[:, :48])
    _, filled = transformed({**shift, "fill_mask": 2})
    assert (filled[:, :16] == 2).all()


def test_a_rotated_mask_has_no_label_between_two_others() -> None:
    _, mask = transformed({"name": "Affine", "rotate": [30, 30], "p": 1.0})
    assert set(np.unique(mask)) == {0, 1, 2, 3, 255}


def test_holes_of_albumentations_keep_their_labels_unless_fill_mask_is_set() -> None:
    holes = {"name": "CoarseDropout", "fill": 0, "p": 1.0}
    image, mask = transformed(holes)
    assert np.array_equal(mask, MASK)
    _, ignored = transformed({**holes, "fill_mask": 255})
    # A colour of the image has no two zeros, so a black pixel is in a hole.
    assert np.array_equal(ignored == 255, (image == 0).all(-1))
    assert (ignored == 255).any()


def test_transforms_are_applied_in_their_order() -> None:
    invert, posterize = (
        {"name": "InvertImg", "p": 1.0},
        {"name": "Posterize", "num_bits": 1, "p": 1.0},
    )
    image, _ = transformed(invert, posterize)
    assert np.array_equal(image, (255 - IMAGE) & 128)
    image, _ = transformed(posterize, invert)
    assert np.array_equal(image, 255 - (IMAGE & 128))


def test_a_sample_depends_on_its_seed_and_on_nothing_before_it() -> None:
    augmentation = Augmentation(
        DataConfig.parse({"resize": [64, 64], "crop": [64, 64]}),
        AugmentConfig.parse(
            {**PLAIN, "extra": [{"name": "GaussNoise"}, {"name": "ElasticTransform"}]}
        ),
    )
    copy = pickle.loads(pickle.dumps(augmentation))
    first = augmentation(IMAGE, MASK, np.random.default_rng(3))
    for seed in range(5):
        copy(IMAGE, MASK, np.random.default_rng(seed))
    again = copy(IMAGE, MASK, np.random.default_rng(3))
    assert all(np.array_equal(ours, theirs) for ours, theirs in zip(first, again, strict=True))
    images = [augmentation(IMAGE, MASK, np.random.default_rng(seed))[0] for seed in range(8)]
    assert len({image.tobytes() for image in images}) > 4


def test_padding_comes_before_the_transforms() -> None:
    image, mask = transformed({"name": "VerticalFlip", "p": 1.0}, crop=(96, 64))
    assert (mask[:32] == 255).all()
    assert (image[:32] == MEAN_COLOUR).all()
    assert np.array_equal(mask[32:], MASK[::-1])


@pytest.mark.parametrize(
    "name",
    [
        "GaussNoise",
        "ImageCompression",
        "MotionBlur",
        "Downscale",
        "ShiftScaleRotate",
        "GridDistortion",
        "RandomRotate90",
        "CLAHE",
    ],
)
@pytest.mark.filterwarnings("ignore:ShiftScaleRotate is a special case of Affine")
def test_usual_transforms_are_accepted_with_their_defaults(name: str) -> None:
    image, mask = transformed({"name": name, "p": 1.0})
    assert image.shape == IMAGE.shape
    assert mask.shape == MASK.shape
    assert set(np.unique(mask)) <= {0, 1, 2, 3, 255}


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        ({"name": "GausNoise"}, "extra.0.name: albumentations 2.0.8 has no transform 'GausNoise'; "
         "did you mean 'GaussNoise'?"),
        ({"name": "gaussnoise"}, "did you mean 'GaussNoise'?"),
        ({"p": 0.5}, "extra.0.name: must be given"),
        ({"name": "BasicTransform"}, "has no transform 'BasicTransform'"),
        ({"name": "GaussNoise", "var_limit": 3}, "extra.0.var_limit: GaussNoise has no such "
         "parameter; allowed is std_range, mean_range"),
        ({"name": "GaussNoise", "std_rnge": [0, 1]}, "did you mean 'std_range'?"),
        ({"name": "GaussNoise", "std_range": [2, 3]}, "extra.0.std_range: All values in "
         "(2.0, 3.0) must be >= 0 and <= 1; got [2, 3]"),
        ({"name": "GaussNoise", "p": 1.5}, "extra.0.p: Input should be less than or equal to 1"),
        ({"name": "Resize", "height": 8}, "extra.0.width: must be given for Resize"),
        ({"name": "RandomScale"}, "extra.0.name: RandomScale: turns a crop of 97 x 97 into"),
        ({"name": "Normalize"}, "extra.0.name: Normalize: changes the type of the image"),
        ({"name": "ToTensorV2"}, "ToTensorV2: changes the type of the image"),
        ({"name": "FDA"}, "FDA: cannot be applied to a crop of 97 x 97: FDA requires"),
        ({"name": "Affine", "rotate": 20, "mask_interpolation": 1}, "set mask_interpolation to 0"),
        ("GaussNoise", "extra.0: a transform is a name with parameters; write {name: GaussNoise}"),
    ],
)  # fmt: skip
def test_a_wrong_transform_is_refused_with_place_and_way_out(
    transform: object, message: str
) -> None:
    assert message in refusal(transform)


def test_all_mistakes_of_a_file_are_listed_with_their_lines(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(
        "augment:\n  extra:\n  - name: Blur\n    blur_limit: 4.5.6\n    x: 1\n  - name: Blurr\n"
    )
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    places = [problem.removeprefix(str(path)).split(": ")[:2] for problem in caught.value.problems]
    assert places == [[":5", "augment.extra.0.x"], [":6", "augment.extra.1.name"]]


def test_a_transform_that_needs_a_square_crop_is_refused_for_other_crops() -> None:
    with pytest.raises(
        ConfigError, match=r"augment.extra.1.name: RandomRotate90: .*data.crop a square"
    ):
        transformed({"name": "Blur"}, {"name": "RandomRotate90"}, crop=(64, 96))


def test_every_transform_is_accepted_or_refused_without_a_traceback() -> None:
    names = transform_names()
    refused = []
    for name in names:
        try:
            AugmentConfig.parse({"extra": [{"name": name}]})
        except ConfigError as error:
            refused += error.problems
    assert all(problem.startswith("AugmentConfig: extra.0.") for problem in refused)
    assert len(names) - len(refused) > 70


@pytest.mark.slow
def test_a_config_without_transforms_does_not_load_albumentations() -> None:
    code = (
        "import sys; from segtune.config.schema import ExperimentConfig; "
        "ExperimentConfig().override({'optim.lr': 1e-3}); print('albumentations' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_transforms_survive_the_way_to_a_file_and_back() -> None:
    config = ExperimentConfig().override(
        {"augment.extra": [{"name": "Affine", "translate_px": {"x": 3, "y": [1, 2]}, "p": 0.3}]}
    )
    tree, source = parse_yaml(write_yaml(config.dump()), "config.yaml")
    assert ExperimentConfig.parse(tree, source) == config
