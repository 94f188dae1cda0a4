"""Read files of weights as tensors by name, and identify all other files for a message.

A file is recognised by its content, because its suffix is often wrong. Nested wrappers become parts
of the names: `{"state_dict": {"conv1.weight": …}}` gives `state_dict.conv1.weight`. No pickled code
is run.
"""

from __future__ import annotations

import json
import pickle
import pickletools
import re
import shlex
import struct
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from segtune.errors import WeightsError, nearest

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar")
# The files of a folder that are read, in this order. An index lists the parts of large weights.
INDEX_SUFFIX = ".index.json"
FOLDER_FILES = (
    "model.safetensors",
    f"model.safetensors{INDEX_SUFFIX}",
    "pytorch_model.bin",
    f"pytorch_model.bin{INDEX_SUFFIX}",
    "weights.safetensors",  # segtune's own checkpoints
)
# Parts that PyTorch's wrappers add to the name of a parameter, anywhere in it.
WRAPPER_PARTS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
# Training frameworks store the weights under one of these keys.
WRAPPER_KEYS = ("state_dict", "model_state_dict", "model", "network", "params", "teacher")
# More levels than any file has; a pickled dict may contain itself.
MAX_DEPTH = 8
HEAD_BYTES = 1024
# The first bytes of files that hold no weights for PyTorch, with the way out.
SIGNATURES = (
    (b"version https://git-lfs", "a git-lfs pointer, not the weights: run git lfs pull"),
    (b"\x89HDF\r\n", "an HDF5 file, as Keras and TensorFlow write them: convert it to PyTorch"),
    (b"\x93NUMPY", "a NumPy array: save tensors by name with torch.save"),
    (b"GGUF", "a GGUF file of llama.cpp"),
    (b"\x1f\x8b", "compressed with gzip: unpack it with gunzip"),
    (b"BZh", "compressed with bzip2: unpack it with bunzip2"),
    (b"\xfd7zXZ", "compressed with xz: unpack it with unxz"),
    (b"7z\xbc\xaf", "a 7z archive: unpack it"),
    (b"Rar!", "a RAR archive: unpack it"),
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
)
# Errors of torch.load on files that are damaged. It has no exception of its own.
LOAD_ERRORS = (OSError, RuntimeError, EOFError, ValueError, LookupError, AttributeError, TypeError)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file, or of a folder with one set of weights, by dotted name.

    The tensors are on the CPU, in the types of the file. Raises WeightsError that
    names the probable kind of the file, and the way out, if it is not a file of tensors.
    """
    weights: dict[str, Tensor] = {}
    for file in _files_of(path):
        weights |= dict(named_tensors(_read_file(file)))
    if not weights:
        raise _problem(path, "holds no tensors by name; expected the state_dict of a model")
    return weights


def local_weights(source: str) -> Path | None:
    """Return the file or folder that `source` names on this machine; None if it does not exist."""
    path = Path(source).expanduser()
    return path if path.exists() else None


def named_tensors(content: Any, prefix: str = "", depth: int = 0) -> Iterator[tuple[str, Tensor]]:
    """Yield every tensor in nested dicts, with the keys on its way joined by dots.

    The parts that torch.compile and FSDP add to names are left out.
    """
    if not isinstance(content, Mapping) or depth > MAX_DEPTH:
        return
    for key, value in content.items():
        # The keys of an optimiser's state are numbers.
        if not isinstance(key, str):
            continue
        if isinstance(value, Tensor):
            parts = [part for part in (prefix + key).split(".") if part not in WRAPPER_PARTS]
            yield ".".join(parts), value.detach()
        else:
            yield from named_tensors(value, f"{prefix}{key}.", depth + 1)


def _problem(path: Path, text: str) -> WeightsError:
    return WeightsError(f"model.weights: {path}: {text}")


def _files_of(path: Path) -> list[Path]:
    """Return the files that hold the weights at `path`, a file or a folder."""
    if not path.is_dir():
        return _parts(path) if path.name.endswith(INDEX_SUFFIX) else [path]
    for name in FOLDER_FILES:
        if (path / name).is_file():
            return _files_of(path / name)
    files = sorted(file for file in path.iterdir() if file.suffix in SUFFIXES and file.is_file())
    if len(files) == 1:
        return files
    if files:
        names = ", ".join(file.name for file in files[:5])
        raise _problem(path, f"holds {len(files)} files of weights ({names}); name one of them")
    raise _problem(
        path,
        "no weights in this folder; expected model.safetensors, pytorch_model.bin, or one "
        f"file with {', '.join(SUFFIXES)}{_weights_further_down(path)}",
    )


def _weights_further_down(folder: Path) -> str:
    """Return `; did you mean …` with a folder that holds weights, or "" if there is none.

    This finds the best checkpoint of a training run, and the snapshot in a cache of the hub.
    """
    for pattern in ("checkpoints/best-*", "*", "*/*", "*/*/*"):
        for inner in sorted(folder.glob(pattern), reverse=True):
            if any((inner / name).is_file() for name in FOLDER_FILES):
                return f"; did you mean '{inner}'?"
    return ""


def _parts(index: Path) -> list[Path]:
    """Return the files that an index of sharded weights lists."""
    try:
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    except (OSError, ValueError, LookupError, AttributeError, TypeError):
        raise _problem(index, "not readable as the index of sharded weights") from None
    absent = [name for name in names if not (index.parent / name).is_file()]
    if absent:
        raise _problem(
            index,
            f"{len(absent)} of {len(names)} files are not in the folder, the first is {absent[0]}",
        )
    return [index.parent / name for name in names]


def _read_file(path: Path) -> Any:
    """Return the content of one file."""
    try:
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError as error:
        raise _problem(path, f"not readable: {error.strerror}") from None
    if text := _what_it_is(path, head):
        raise _problem(path, text)
    try:
        if _is_safetensors(head):
            return load_file(path)
        with path.open("rb") as file:  # torch.load decides by the suffix of a path
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # `weights_only` refuses the content
        raise _problem(path, _refused_pickle(path, str(error))) from None
    except (*LOAD_ERRORS, SafetensorError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise _problem(
            path, f"not readable as weights, probably damaged: {reason}; copy it again"
        ) from None


def _what_it_is(path: Path, head: bytes) -> str:
    """Return the kind of a file without weights for PyTorch, with the way out; otherwise ""."""
    if not head:
        return "is empty (0 bytes): copy or download it again"
    for signature, text in SIGNATURES:
        if head.startswith(signature):
            return f"is {text}"
    if re.match(rb"\s*<(!doctype|html|\?xml)", head, re.IGNORECASE):
        return (
            "is a web page (HTML), not the weights: download the file itself (on the hub, from the "
            "link with /resolve/ instead of /blob/)"
        )
    if head.startswith(b"PK"):
        return _zip_problem(path)
    if _is_safetensors(head):
        return _missing_bytes(path)
    if head[257:262] == b"ustar":
        return "is a tar archive: unpack it with tar xf"
    if path.suffix == ".onnx" or (head[0] == 8 and b"pytorch" in head[:64].lower()):
        return "is an ONNX file: segtune reads the state_dict that it was exported from"
    if head[0] != 0x80:  # the first byte of a pickle, as torch.save wrote it until 1.5
        return (
            f"is no file of weights (it begins with {head[:12]!r}); expected what torch.save or "
            "safetensors wrote"
        )
    return ""


def _zip_problem(path: Path) -> str:
    """Return the kind of a zip archive that torch.load does not read; otherwise ""."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError):
        return (
            f"is truncated ({path.stat().st_size:,} bytes; the end of the archive is absent): copy "
            "or download it again"
        )
    if any(name.endswith("constants.pkl") for name in names):
        code = "torch.save(torch.jit.load(a).state_dict(), b)"
        return f"is a TorchScript archive; save its state_dict: {_command(code, path)}"
    if any(name.endswith("/data.pkl") for name in names):
        return ""
    if all(name.endswith(".npy") for name in names):
        return "is a NumPy .npz file: save tensors by name with torch.save"
    if any(name.endswith(".h5") for name in names):
        return "is a Keras file: convert it to PyTorch"
    first = names[0] if names else "empty"
    return f"is a zip archive that torch.save did not write ({first}): unpack it"


def _is_safetensors(head: bytes) -> bool:
    """Whether a file begins with the length of a header and the header, which is JSON."""
    return len(head) > 8 and head[8:9] == b"{" and struct.unpack("<Q", head[:8])[0] < 2**30


def _missing_bytes(path: Path) -> str:
    """Return how much of a safetensors file is absent, or "" if it is complete."""
    size = path.stat().st_size
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = file.read(length)
    try:
        tensors = json.loads(header)
        ends = [v["data_offsets"][1] for k, v in tensors.items() if k != "__metadata__"]
    except (ValueError, LookupError, TypeError, AttributeError):
        ends = []
        if len(header) == length:
            return ""  # safetensors names what is wrong with the header
    expected = 8 + length + max(ends, default=0)
    if size >= expected:
        return ""
    return f"is truncated ({size:,} of {expected:,} bytes): copy or download it again"


def _refused_pickle(path: Path, message: str) -> str:
    """Return what a pickle holds besides tensors, and the command that saves only the tensors."""
    found = re.search(r"(?:GLOBAL|class|function) ([\w.]+\.\w+)", message)
    refused = f" ({found[1]})" if found else ""
    opcodes = _opcodes(path)
    if opcodes is None:
        return (
            "is a pickle that torch.save did not write, such as a model zoo's .pkl file with NumPy "
            f"arrays{refused}; save its weights as tensors by name with torch.save"
        )
    trust = "this runs code in the file, so do it only if you trust its source"
    top = next((text for name, text in opcodes if name in ("GLOBAL", "EMPTY_DICT")), "")
    if top and top != "collections OrderedDict":
        whole = top.replace(" ", ".")
        code = "torch.save(torch.load(a, weights_only=False).state_dict(), b)"
        return (
            f"holds a pickled object of {whole}, not a state_dict; save its state_dict in an "
            f"environment that has this class ({trust}): {_command(code, path)}"
        )
    keys = {text for name, text in opcodes if "UNICODE" in name}
    key = next((key for key in WRAPPER_KEYS if key in keys), "state_dict")
    code = f"torch.save(torch.load(a, weights_only=False)['{key}'], b)"
    return (
        f"holds more than plain tensors{refused}, such as settings or the state of a trainer; save "
        f"only its state_dict ({trust}): {_command(code, path)}"
    )


def _opcodes(path: Path) -> list[tuple[str, str]] | None:
    """Return the (name, argument) of a pickle's opcodes, without running it.

    Returns None for a pickle that torch.save did not write.
    """
    opcodes: list[tuple[str, str]] = []
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                name = next(n for n in archive.namelist() if n.endswith("/data.pkl"))
                pickles = [archive.read(name)]
        else:
            content = path.read_bytes()
            first = next(arg for _, arg, _ in pickletools.genops(content) if arg not in (None, 2))
            if first != torch.serialization.MAGIC_NUMBER:
                return None
            # The magic number, the protocol and the system come first, in pickles of their own.
            pickles = content.split(b".\x80\x02", 3)[3:]
            pickles = [b"\x80\x02" + rest for rest in pickles]
        for data in pickles:
            opcodes += [(op.name, str(arg or "")) for op, arg, _ in pickletools.genops(data)]
    except (ValueError, StopIteration, OSError):  # damaged
        return opcodes
    return opcodes


def _command(code: str, path: Path) -> str:
    """Return the shell command that reads `a`, which is `path`, and writes `b` beside it."""
    target = path.with_name(f"{path.stem}_state_dict.pth")
    script = f"import sys, torch; a, b = sys.argv[1:]; {code}"
    return shlex.join(["python", "-c", script, str(path), str(target)])


def local_weights_or_word(source: str, words: Sequence[str], model: str) -> Path | None:
    """Return the file or folder that `source` names; None for a word: the weights of a library.

    Raises WeightsError for anything else.
    """
    path = local_weights(source)
    if path is None and source not in words:
        kind = "file" if Path(source).suffix in SUFFIXES else "word"
        raise weights_not_found(source, f"for {model}, the only other {kind} is {words[0]}")
    return path


def weights_not_found(
    source: str,
    error: object,
    download: str = "huggingface-cli download nvidia/mit-b2 --local-dir weights/mit-b2",
) -> WeightsError:
    """Return the error for weights that are neither on this machine nor available from the hub.

    `download` is an example of a command that downloads weights.
    """
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    path = Path(source)
    similar = ""
    if path.parent.is_dir() and path.name:
        similar = nearest(path.name, [entry.name for entry in path.parent.iterdir()])
    return WeightsError(
        f"model.weights: {source!r} is no file or folder on this machine{similar}, and the hub "
        f"does not provide it ({reason[:160]}). Download it on a machine with a network (for "
        f"example: {download}), copy it here and set model.weights to its path; null starts from "
        "random weights"
    )
