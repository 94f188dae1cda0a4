"""A network as an ONNX file with free sizes, checked with ONNX Runtime."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import torch
from torch.export import ExportedProgram

from segtune.exporting.preprocessing import description
from segtune.exporting.program import cases_for, check_difference, difference
from segtune.exporting.source import ExportSource
from segtune.exporting.targets import new_file
from segtune.models.exportable import sides_of

# The operators of torch's exporter are written for this one; ONNX Runtime has it since 1.14.
OPSET = 18


def write_onnx(
    source: ExportSource, path: Path, program: ExportedProgram, output: str = "logits"
) -> str:
    """Write an ONNX file and compare it with segtune on two sizes. Return one line on the result.

    `program` returns `output`, which is logits or labels. Raise RunError if the file predicts
    something else. It needs onnx, onnxscript and onnxruntime, of the extra `export`.
    """
    with new_file(path) as copy:
        onnx = _to_onnx(program, output)
        onnx.model.metadata_props.update(description(source, sides_of(source.model), output))
        onnx.model.producer_name = "segtune"
        onnx.save(copy)
        words = check_difference(path, _difference(source, copy, output), output)
    return f"ONNX, opset {OPSET}, free batch and sizes, output {output}; {words}"


def _to_onnx(program: ExportedProgram, output: str) -> torch.onnx.ONNXProgram:
    # The exporter logs each of its steps, and warns of its own use of torch.
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            onnx = torch.onnx.export(
                program,
                dynamo=True,
                opset_version=OPSET,
                input_names=["images"],
                output_names=[output],
                dynamic_shapes={"images": {0: "batch", 2: "height", 3: "width"}},
                verbose=False,
            )
    finally:
        logger.setLevel(level)
    assert onnx is not None, "the exporter returns a program with dynamo=True"
    return onnx


def _difference(source: ExportSource, file: Path, output: str) -> float:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    cases = cases_for(source, output)
    outputs = [
        torch.from_numpy(session.run(None, {"images": case.images.numpy()})[0]) for case in cases
    ]
    return difference(outputs, cases)
