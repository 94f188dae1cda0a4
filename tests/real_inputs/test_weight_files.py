"""Files of weights as users have them: the encoder's tensors exactly, or the reason and a way out.

Each file is made on the spot from a small model with random weights.
"""

import json
import logging
import re
import shlex
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from segtune.config.model_config import ModelConfig
from segtune.config.schema import ExperimentConfig
from segtune.errors import WeightsError
from segtune.models.segformer import SegFormer
from segtune.models.upernet import UPerNet
from segtune.training import checkpoint
from segtune.training.checkpoint import Manifest

Weights = dict[str, Tensor]

NANO = {"encoder": "mit_nano", "decoder_channels": 8}
RESNET = {"name": "upernet", "encoder": "resnet18", "decoder_channels": 8}


def segformer(weights: object = None) -> SegFormer:
    path = None if weights is None else str(weights)
    return SegFormer(ModelConfig.parse({**NANO, "weights": path}), num_classes=3)


def upernet(weights: object = None) -> UPerNet:
    path = None if weights is None else str(weights)
    return UPerNet(ModelConfig.parse({**RESNET, "weights": path}), num_classes=3)


@pytest.fixture(scope="module")
def model() -> SegFormer:
    """Return a model that has other weights than a new one, also in norms and biases."""
    trained = segformer()
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return trained


@pytest.fixture(scope="module")
def encoder(model: SegFormer) -> Weights:
    return model.net.segformer.state_dict()


@pytest.fixture(scope="module")
def resnet() -> Weights:
    """Return the weights of a whole ResNet-18, whose names timm and torchvision share."""
    return timm.create_model("resnet18", pretrained=False).state_dict()


def under(prefix: str, weights: Mapping[str, Tensor]) -> Weights:
    return {prefix + name: value for name, value in weights.items()}


def zeros(weights: Mapping[str, Tensor]) -> Weights:
    return {name: torch.zeros_like(value) for name, value in weights.items()}


def is_loaded(loaded: nn.Module, weights: Mapping[str, Tensor]) -> bool:
    return all(
        torch.equal(value, weights[name].to(value.dtype))
        for name, value in loaded.state_dict().items()
    )


HEAD = {"decode_head.conv_seg.weight": torch.zeros(3, 8)}

# Name: what users pass to torch.save, made from the encoder's weights; the prefix in the message.
WRAPPED: dict[str, tuple[Callable[[Weights], Any], str]] = {
    "lightning": (
        lambda w: {
            "state_dict": under("model.encoder.", w) | under("model.", HEAD),
            "epoch": 3,
            "global_step": 100,
            "pytorch-lightning_version": "2.4.0",
            "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": []}],
            "hyper_parameters": {"lr": 1e-3},
        },
        "state_dict.model.encoder.",
    ),
    "lightning, net": (lambda w: {"state_dict": under("net.", w)}, "state_dict.net."),
    "compiled": (lambda w: under("_orig_mod.encoder.", w), "encoder."),
    "compiled inside": (lambda w: under("encoder._orig_mod.", w), "encoder."),
    "ddp": (lambda w: under("module.", w), "module."),
    "ddp of compiled": (
        lambda w: {"model": under("module._orig_mod.backbone.", w)},
        "model.module.backbone.",
    ),
    "compiled ddp in lightning": (
        lambda w: {"state_dict": under("model._orig_mod.module.net.segformer.", w)},
        "state_dict.model.module.net.segformer.",
    ),
    "fsdp": (lambda w: under("_fsdp_wrapped_module.encoder.", w), "encoder."),
    "averaged model of torch": (
        lambda w: {"n_averaged": torch.tensor(5), **under("module.", w)},
        "module.",
    ),
    "timm with ema": (
        lambda w: {
            "epoch": 9,
            "arch": "mit",
            "state_dict": zeros(w),
            "state_dict_ema": w,
            "metric": 0.5,
        },
        "state_dict_ema.",
    ),
    "model_ema": (lambda w: {"model": zeros(w), "model_ema": w}, "model_ema."),
    "ema_state_dict": (lambda w: {"ema_state_dict": {"module": w}}, "ema_state_dict.module."),
    "basicsr": (lambda w: {"params": zeros(w), "params_ema": w}, "params_ema."),
    "dino": (
        lambda w: {
            "student": under("module.backbone.", zeros(w)),
            "teacher": under("backbone.", w) | {"head.mlp.0.weight": torch.zeros(2)},
            "epoch": 100,
        },
        "teacher.backbone.",
    ),
    "student and optimizer": (lambda w: {"student": zeros(w), "net": w}, "net."),
    "moco": (
        lambda w: {
            "state_dict": under("module.encoder_q.", w) | under("module.encoder_k.", zeros(w))
        },
        "state_dict.module.encoder_q.",
    ),
    "model_state_dict": (
        lambda w: {"model_state_dict": w, "optimizer_state_dict": {"state": {}}, "loss": 0.1},
        "model_state_dict.",
    ),
    "network": (lambda w: {"network": w}, "network."),
    "a name of the user's own": (lambda w: {"weights_v2": {"best": w}}, "weights_v2.best."),
    "ordinary parameters": (
        lambda w: {"state_dict": {name: nn.Parameter(value) for name, value in w.items()}},
        "state_dict.",
    ),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_encoder_is_found_under_every_wrapper_and_the_prefix_is_named(
    name: str, encoder: Weights, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    wrap, prefix = WRAPPED[name]
    torch.save(wrap(encoder), tmp_path / "last.ckpt")
    with caplog.at_level(logging.INFO, "segtune"):
        loaded = segformer(tmp_path / "last.ckpt")
    assert is_loaded(loaded.net.segformer, encoder)
    assert f"{len(encoder)} tensors of the encoder, under the prefix '{prefix}'" in caplog.text


def test_what_is_left_out_is_named(
    encoder: Weights, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = {"state_dict": under("model.encoder.", encoder) | under("model.", HEAD)}
    content["state_dict"]["loss.weight"] = torch.ones(3)
    torch.save(content, tmp_path / "last.ckpt")
    with caplog.at_level(logging.INFO, "segtune"):
        segformer(tmp_path / "last.ckpt")
    assert "left out: state_dict.model.decode_head (1), state_dict.loss (1)" in caplog.text


def test_two_sets_of_weights_are_not_taken_in_silence(
    encoder: Weights, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.save({"model": zeros(encoder), "model_ema": encoder}, tmp_path / "last.pth")
    segformer(tmp_path / "last.pth")
    assert "holds the encoder more than once; took 'model_ema.', not 'model.'" in caplog.text


def own_checkpoint(model: nn.Module, folder: Path, settings: Mapping[str, object]) -> Path:
    config = ExperimentConfig().override({f"model.{k}": v for k, v in settings.items()})
    manifest = Manifest(1, step=1, lr=1e-4, miou=0.5, config=config.dump())
    return checkpoint.save(folder / "checkpoints", "best", model.state_dict(), None, manifest)


@pytest.mark.parametrize("inner", ["", "weights.safetensors"])
def test_own_checkpoint_gives_its_encoder(
    inner: str, model: SegFormer, encoder: Weights, tmp_path: Path
) -> None:
    path = own_checkpoint(model, tmp_path, NANO)
    assert is_loaded(segformer(path / inner).net.segformer, encoder)


def test_own_checkpoint_of_upernet_gives_its_encoder(tmp_path: Path) -> None:
    trained = upernet()
    path = own_checkpoint(trained, tmp_path, RESNET)
    assert is_loaded(upernet(path).encoder, trained.encoder.state_dict())


def test_folder_of_a_training_run_points_to_its_best_checkpoint(
    model: SegFormer, tmp_path: Path
) -> None:
    path = own_checkpoint(model, tmp_path, NANO)
    with pytest.raises(WeightsError, match=f"did you mean '{path}'"):
        segformer(tmp_path)


RESNET_WRAPPED: dict[str, Callable[[Weights], Any]] = {
    "torchvision": lambda w: w,
    "timm": lambda w: {"epoch": 1, "arch": "resnet18", "state_dict": w, "optimizer": {"state": {}}},
    "segmentation_models_pytorch": lambda w: (
        under("encoder.", w)
        | {"decoder.blocks.0.conv1.0.weight": torch.zeros(2)}
        | {"segmentation_head.0.weight": torch.zeros(2)}
    ),
    "torchvision deeplab": lambda w: {
        "model": under("backbone.", w) | {"classifier.4.weight": torch.zeros(2)}
    },
    "old file without counters": lambda w: {
        name: value for name, value in w.items() if "num_batches_tracked" not in name
    },
}


@pytest.mark.parametrize("name", RESNET_WRAPPED)
def test_resnet_is_found_in_the_files_of_other_libraries(
    name: str, resnet: Weights, tmp_path: Path
) -> None:
    torch.save(RESNET_WRAPPED[name](resnet), tmp_path / "best.pth.tar")
    assert is_loaded(upernet(tmp_path / "best.pth.tar").encoder, resnet)


def write_shards(weights: Weights, folder: Path, suffix: str) -> None:
    names = list(weights)
    files = {name: f"part-{names.index(name) % 2}{suffix}" for name in names}
    for file in sorted(set(files.values())):
        part = {name: weights[name].contiguous() for name in names if files[name] == file}
        (save_file if suffix == ".safetensors" else torch.save)(part, folder / file)
    stem = "model.safetensors" if suffix == ".safetensors" else "pytorch_model.bin"
    (folder / f"{stem}.index.json").write_text(
        json.dumps({"metadata": {"total_size": 1}, "weight_map": files})
    )


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
@pytest.mark.parametrize("inner", ["", "INDEX"])
def test_sharded_weights_are_read_from_all_files(
    suffix: str, inner: str, encoder: Weights, resnet: Weights, tmp_path: Path
) -> None:
    for load, weights, folder in (
        (lambda path: segformer(path).net.segformer, encoder, tmp_path / "mit"),
        (lambda path: upernet(path).encoder, resnet, tmp_path / "resnet"),
    ):
        folder.mkdir()
        write_shards(weights, folder, suffix)
        path = next(folder.glob("*.index.json")) if inner else folder
        assert is_loaded(load(path), weights)
    (folder / f"part-1{suffix}").unlink()
    with pytest.raises(WeightsError, match=f"1 of 2 files are not in the folder.*part-1{suffix}"):
        upernet(folder)


@pytest.mark.parametrize("file", ["model.safetensors", "mit.safetensors", "weights.pth"])
def test_folder_needs_no_config(file: str, encoder: Weights, tmp_path: Path) -> None:
    save = torch.save if file.endswith(".pth") else save_file
    save({name: value.contiguous() for name, value in encoder.items()}, tmp_path / file)
    (tmp_path / "README.md").write_text("weights")
    assert is_loaded(segformer(tmp_path).net.segformer, encoder)


def test_folder_with_several_files_asks_for_one(encoder: Weights, tmp_path: Path) -> None:
    for name in ("a.pth", "b.pth"):
        torch.save(encoder, tmp_path / name)
    with pytest.raises(WeightsError, match=r"2 files of weights \(a\.pth, b\.pth\); name one"):
        segformer(tmp_path)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_float_types_become_float32(
    dtype: torch.dtype, encoder: Weights, tmp_path: Path
) -> None:
    other = {name: value.to(dtype) for name, value in encoder.items()}
    torch.save(other, tmp_path / "half.pth")
    loaded = segformer(tmp_path / "half.pth").net.segformer
    assert {value.dtype for value in loaded.state_dict().values()} == {torch.float32}
    assert is_loaded(loaded, other)


def test_suffix_does_not_decide_how_a_file_is_read(encoder: Weights, tmp_path: Path) -> None:
    save_file({name: v.contiguous() for name, v in encoder.items()}, tmp_path / "mit.pth")
    torch.save(encoder, tmp_path / "mit.safetensors")
    torch.save(encoder, tmp_path / "mit", _use_new_zipfile_serialization=False)
    for name in ("mit.pth", "mit.safetensors", "mit"):
        assert is_loaded(segformer(tmp_path / name).net.segformer, encoder)


def test_views_into_larger_tensors_are_read_exactly(encoder: Weights, tmp_path: Path) -> None:
    views = {name: torch.stack([value, value], -1)[..., 0] for name, value in encoder.items()}
    torch.save(views, tmp_path / "views.pth")
    assert is_loaded(segformer(tmp_path / "views.pth").net.segformer, encoder)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused_with_the_tensor(
    value: float, encoder: Weights, tmp_path: Path
) -> None:
    name = "stages.1.layer_norm.bias"
    bad = encoder[name].clone()
    bad[2] = value
    torch.save({"state_dict": {**encoder, name: bad}}, tmp_path / "nan.pth")
    pattern = rf"'state_dict\.{re.escape(name)}' has 1 of 32 values that are not finite"
    with pytest.raises(WeightsError, match=pattern):
        segformer(tmp_path / "nan.pth")


def test_quantised_weights_are_refused(encoder: Weights, tmp_path: Path) -> None:
    name = "stages.1.layer_norm.bias"
    torch.save({**encoder, name: encoder[name].to(torch.int8)}, tmp_path / "int8.pth")
    with pytest.raises(WeightsError, match=f"'{name}' has the type int8, as quantised"):
        segformer(tmp_path / "int8.pth")


def test_deeper_encoder_is_not_cut_to_a_shallower_one(resnet: Weights, tmp_path: Path) -> None:
    # ResNet-34 has every parameter of ResNet-18, with its shape, and more blocks.
    deeper = timm.create_model("resnet34", pretrained=False).state_dict()
    assert resnet.keys() <= deeper.keys()
    torch.save(deeper, tmp_path / "resnet34.pth")
    with pytest.raises(WeightsError, match=r"layer1\.2\.conv1\.weight is unknown"):
        upernet(tmp_path / "resnet34.pth")


def test_encoder_with_absent_tensors_is_refused_with_prefix_and_nearest_name(
    encoder: Weights, tmp_path: Path
) -> None:
    weights = dict(encoder)
    weights["stages.3.layer_norm.biass"] = weights.pop("stages.3.layer_norm.bias")
    torch.save({"state_dict": under("net.", weights)}, tmp_path / "net.pth")
    with pytest.raises(WeightsError) as error:
        segformer(tmp_path / "net.pth")
    message = str(error.value)
    assert "stages.3.layer_norm.bias is missing; did you mean 'stages.3.layer_norm.bia" in message
    fitting = f"{len(encoder) - 1} of {len(encoder)} tensors fit"
    assert f"{fitting}, under the prefix 'state_dict.net.'" in message


def test_weights_of_another_mit_name_their_encoder(tmp_path: Path, encoder: Weights) -> None:
    torch.save({"state_dict": under("backbone.", encoder)}, tmp_path / "nano.pth")
    settings = {"encoder": "mit_b0", "weights": str(tmp_path / "nano.pth")}
    with pytest.raises(WeightsError, match=r"seem to be .* mit_nano: set model\.encoder: mit_nano"):
        SegFormer(ModelConfig.parse(settings), num_classes=3)


# ---- files with pickled objects ----


class HistoryBuffer:
    """As in mmengine's checkpoints."""


class Net(nn.Module):
    """A model that a user pickled as a whole."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)


@pytest.mark.parametrize("new_format", [True, False])
@pytest.mark.parametrize(
    ("content", "refused"),
    [
        ({"meta": {}, "message_hub": {"loss": HistoryBuffer()}}, "HistoryBuffer"),
        ({"hyper_parameters": {"net": Net()}}, "Net"),
        ({"best_score": np.float64(0.5)}, r"multiarray\.scalar"),
        ({"args": Path("runs")}, "PosixPath"),
    ],
)
def test_pickled_objects_beside_the_weights_are_refused_with_a_command_that_works(
    content: dict[str, Any],
    refused: str,
    new_format: bool,
    encoder: Weights,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "iter_1.pth"
    content = {**content, "state_dict": encoder}
    torch.save(content, path, _use_new_zipfile_serialization=new_format)
    with pytest.raises(WeightsError, match=rf"more than plain tensors \(.*{refused}\)") as error:
        segformer(path)
    command = str(error.value).rpartition("): ")[2]
    run_in_this_process(command, monkeypatch)
    assert is_loaded(segformer(tmp_path / "iter_1_state_dict.pth").net.segformer, encoder)


def run_in_this_process(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the `python -c` command of a message, which a user would paste into a shell."""
    python, option, code, *arguments = shlex.split(command)
    assert (python, option) == ("python", "-c")
    monkeypatch.setattr(sys, "argv", ["-c", *arguments])
    exec(code, {})


def test_pickled_model_is_refused_with_a_command_that_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(Net(), tmp_path / "model.pt")
    with pytest.raises(WeightsError, match=r"pickled object of \S+\.Net, not a state") as error:
        segformer(tmp_path / "model.pt")
    run_in_this_process(str(error.value).rpartition("): ")[2], monkeypatch)
    saved = torch.load(tmp_path / "model_state_dict.pth", weights_only=True)
    assert list(saved) == ["layer.weight", "layer.bias"]


def test_command_of_a_message_works_in_a_shell(encoder: Weights, tmp_path: Path) -> None:
    path = tmp_path / "it's 1.pth"
    torch.save({"model": encoder, "best": np.float64(1)}, path)
    with pytest.raises(WeightsError) as error:
        segformer(path)
    command = str(error.value).rpartition("): ")[2].removeprefix("python")
    subprocess.run(f"{shlex.quote(sys.executable)} {command}", shell=True, check=True)
    assert is_loaded(segformer(tmp_path / "it's 1_state_dict.pth").net.segformer, encoder)


# ---- files that hold no weights ----


def write_torchscript(path: Path) -> None:
    traced: Any = torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2))
    traced.save(str(path))


def write_tar(path: Path) -> None:
    (path.parent / "a.txt").write_text("a")
    with tarfile.open(path, "w") as archive:
        archive.add(path.parent / "a.txt")


def write_zip(name: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(name, "content")

    return write


def cut(save: Callable[[Any, Any], object]) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        save({"weight": torch.zeros(1000)}, path)
        path.write_bytes(path.read_bytes()[:2000])

    return write


def write_bytes(content: bytes) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_bytes(content)

    return write


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 14300000\n"
FOREIGN: dict[str, tuple[Callable[[Path], None], str]] = {
    "empty": (write_bytes(b""), r"is empty \(0 bytes\): copy or download it again"),
    "html": (write_bytes(b"\n<!DOCTYPE html><html>"), r"web page \(HTML\).*download the file"),
    "git-lfs": (write_bytes(LFS), "git-lfs pointer, not the weights: run git lfs pull"),
    "torchscript": (write_torchscript, r"TorchScript archive; save its state_dict: python -c"),
    "keras h5": (write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(99)), "HDF5 file, as Keras"),
    "keras zip": (write_zip("model.weights.h5"), "is a Keras file"),
    "npz": (lambda path: np.savez(path.open("wb"), a=np.zeros(2)), r"is a NumPy \.npz file"),
    "npy": (lambda path: np.save(path.open("wb"), np.zeros(2)), "is a NumPy array"),
    "onnx": (write_bytes(b"\x08\x08\x12\x07pytorch\x1a\x051.0"), "is an ONNX file"),
    "other zip": (write_zip("weights/model.bin"), "that torch.save did not write.*unpack it"),
    "tar": (write_tar, "is a tar archive: unpack it"),
    "gzip": (write_bytes(b"\x1f\x8b\x08" + bytes(20)), "compressed with gzip"),
    "truncated pth": (cut(torch.save), r"is truncated \(2,000 bytes;.*copy or download it again"),
    "truncated safetensors": (cut(save_file), r"is truncated \(2,000 of 4,\d+ bytes\)"),
    "text": (write_bytes(b"lr: 0.1\n"), r"no file of weights \(it begins with b'lr: 0.1"),
    "json": (write_bytes(b'{"a": 1}'), r"no file of weights"),
    "safetensors header": (
        write_bytes(b"\x10" + bytes(7) + b"{no json at all}"),
        "not readable as weights, probably damaged",
    ),
    "model zoo pickle": (
        write_bytes(b"\x80\x04}\x94\x8c\x05model\x94K\x01s."),
        r"a pickle that torch\.save did not write",
    ),
    "cut pickle": (write_bytes(b"\x80\x02"), r"pickle|damaged"),
    "state without tensors": (lambda path: torch.save({"epoch": 3}, path), "no tensors by name"),
    "list of tensors": (lambda path: torch.save([torch.zeros(2)], path), "no tensors by name"),
    "one tensor": (lambda path: torch.save(torch.zeros(2), path), "no tensors by name"),
}


@pytest.mark.filterwarnings("ignore:`torch.jit", "ignore:Detected pickle protocol")
@pytest.mark.parametrize("name", FOREIGN)
def test_file_that_holds_no_weights_is_named_for_what_it_is(name: str, tmp_path: Path) -> None:
    write, pattern = FOREIGN[name]
    path = tmp_path / "weights.pth"
    write(path)
    with pytest.raises(WeightsError, match=rf"model\.weights: {path}: .*({pattern})"):
        segformer(path)


@pytest.mark.parametrize("load", [segformer, upernet])
def test_absent_file_names_its_neighbour_without_asking_the_hub(
    load: Callable[[object], nn.Module], tmp_path: Path
) -> None:
    (tmp_path / "resnet18.pth").touch()
    pattern = r"no file or folder on this machine; did you mean 'resnet18\.pth'"
    with pytest.raises(WeightsError, match=pattern):
        load(tmp_path / "resnet_18.pth")
