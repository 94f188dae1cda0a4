"""Export a trained model for other programs: transformers, ONNX, torch.export, mmsegmentation.

Parses no command line and prints nothing, like `api.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from segtune.config.schema import ExperimentConfig
from segtune.errors import ConfigError

if TYPE_CHECKING:
    from segtune.exporting.source import ExportSource

ONNX_LIBRARIES = ("onnx", "onnxscript", "onnxruntime")


@dataclass(frozen=True)
class ExportedFile:
    """A file or a folder that was written, and what it is in one line."""

    path: Path
    sentence: str


@dataclass(frozen=True)
class ExportTargets:
    """Where the forms of a model are written; None: this form is not written."""

    hf: Path | None = None  # a folder
    onnx: Path | None = None
    onnx_output: Literal["logits", "labels"] = "logits"
    pt2: Path | None = None
    mmseg: Path | None = None
    card: Path | None = None

    def check(self, *, overwrite: bool) -> None:
        """Raise RunError if a target exists that must not be replaced, or a library is absent."""
        from segtune.exporting.targets import check_extra, check_file, check_folder

        if self.onnx:
            check_extra("--onnx", *ONNX_LIBRARIES)
        if self.hf:
            check_folder("--hf", self.hf, overwrite=overwrite)
        files = {"onnx": self.onnx, "pt2": self.pt2, "mmseg": self.mmseg, "card": self.card}
        for option, path in files.items():
            if path:
                check_file(f"--{option}", path, overwrite=overwrite)


def export_model(
    path: str | Path,
    *,
    hf: str | Path | None = None,
    onnx: str | Path | None = None,
    onnx_output: Literal["logits", "labels"] = "logits",
    pt2: str | Path | None = None,
    mmseg: str | Path | None = None,
    card: str | Path | None = None,
    trial: int | None = None,
    config: ExperimentConfig | None = None,
    overrides: Sequence[str] = (),
    overwrite: bool = False,
) -> list[ExportedFile]:
    """Write a trained model in one or more forms, each checked against segtune's own predictions.

    `path` is a checkpoint, a training run, or a search run: its best trial, or number `trial`.
    `hf` is a folder for transformers if it has the architecture, otherwise for segtune; `onnx`,
    `pt2` (torch.export) and `mmseg` (SegFormer only) are files; `card` is a model card, which `hf`
    has in any case. `config` replaces the config in the checkpoint, and is needed for a model of
    the user's own code; `overrides` change it. What exists is replaced only with `overwrite`, and a
    folder that segtune has not exported never.

    Raise CheckpointError if there is no checkpoint, and RunError if the training run ended
    unhealthy, a target exists, a library of the extra `export` is absent, the architecture has no
    such form, or the result predicts something else.
    """
    targets = ExportTargets(
        *(Path(hf) if hf else None, Path(onnx) if onnx else None, onnx_output),
        *(Path(target) if target else None for target in (pt2, mmseg, card)),
    )
    if not any((hf, onnx, pt2, mmseg, card)):
        raise ConfigError(["nothing to export: name at least one of hf, onnx, pt2, mmseg and card"])
    targets.check(overwrite=overwrite)
    from segtune.exporting.source import open_source

    source = open_source(Path(path), trial, config, overrides)
    return _write(source, targets)


def _write(source: ExportSource, targets: ExportTargets) -> list[ExportedFile]:
    from segtune.exporting import mmseg_file, model_card

    if targets.mmseg:  # before the other forms, which take longer
        mmseg_file.check_has_counterpart(source.config)
    if targets.onnx or targets.pt2:
        from segtune.exporting.program import check_has_free_sizes

        check_has_free_sizes(source)
    written: list[ExportedFile] = []
    if targets.hf:
        from segtune.exporting.hf_folder import write_hf

        card = model_card.collect(source)
        written.append(ExportedFile(targets.hf, write_hf(source, targets.hf, card)))
    written += _write_programs(source, targets)
    if targets.mmseg:
        sentence = mmseg_file.write_mmseg(source, targets.mmseg)
        written.append(ExportedFile(targets.mmseg, sentence))
    if targets.card:
        sentence = model_card.write_card(source, targets.card)
        written.append(ExportedFile(targets.card, sentence))
    return written


def _write_programs(source: ExportSource, targets: ExportTargets) -> list[ExportedFile]:
    """Write the forms that torch.export makes. Tracing takes longest, so logits are traced once."""
    if not (targets.onnx or targets.pt2):
        return []
    from segtune.exporting.program import export_program, write_pt2

    outputs = {targets.onnx_output} if targets.onnx else set()
    outputs |= {"logits"} if targets.pt2 else set()
    programs = {output: export_program(source, output) for output in outputs}
    written: list[ExportedFile] = []
    if targets.onnx:
        from segtune.exporting.onnx_file import write_onnx

        program = programs[targets.onnx_output]
        sentence = write_onnx(source, targets.onnx, program, targets.onnx_output)
        written.append(ExportedFile(targets.onnx, sentence))
    if targets.pt2:
        sentence = write_pt2(source, targets.pt2, programs["logits"])
        written.append(ExportedFile(targets.pt2, sentence))
    return written
