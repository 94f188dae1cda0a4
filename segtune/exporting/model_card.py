"""A model card: README.md in the form of the Hugging Face hub, from what a run has recorded."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from segtune.checks.confirmed_best import confirmation_words
from segtune.config.short import short_text
from segtune.config.yaml_io import write_yaml
from segtune.data.class_coverage import LabelCounts
from segtune.data.layouts import open_split
from segtune.data.statistics import count_masks
from segtune.errors import DataError
from segtune.exporting.licence import OTHER, licence_of
from segtune.exporting.public_config import data_set_name, public_config
from segtune.exporting.source import ExportSource
from segtune.exporting.targets import new_file
from segtune.runs.records import ValidationScores
from segtune.runs.results import RUNNING, best_trial, read_trials
from segtune.runs.rundir import SearchDir, TrialDir, search_of
from segtune.training.windows import Windows
from segtune.tuning.study_reader import load_study

log = logging.getLogger(__name__)

Library = Literal["transformers", "segtune"]


@dataclass(frozen=True)
class Card:
    """What is known of a model besides its weights and its config."""

    scores: ValidationScores | None  # of the validation that has chosen the checkpoint
    val: LabelCounts | None  # None: the data set is not on this machine
    num_train: int | None
    chosen: Sequence[str]  # how the config was chosen: one sentence per line


def collect(source: ExportSource) -> Card:
    """Return what the run of a checkpoint and its data set say. Reads all validation masks."""
    run = source.training_run
    records = run.read_epochs() if run else []
    record = next((record for record in records if record.epoch == source.manifest.epoch), None)
    val, num_train = _counts(source)
    return Card(record.validation if record else None, val, num_train, _choice(run))


def _counts(source: ExportSource) -> tuple[LabelCounts | None, int | None]:
    data = source.config.data
    if data.layout == "shapes" and not Path(data.root).is_dir():
        return None, None  # it would be generated
    try:
        num_train = len(open_split(data, "train"))
        return count_masks(data, "val", len(source.classes)), num_train
    except DataError as error:
        log.warning("the card has no numbers of images: %s", error)
        return None, None


def _choice(run: TrialDir | None) -> list[str]:
    """Return how the config was chosen, as sentences."""
    if run is None:
        return ["The checkpoint was copied out of its training run; how it was chosen is unknown."]
    if retraining := run.read_retraining():
        origin = f"A retraining of trial {retraining['trial']} of a search run"
        result = retraining["sentence"] or "the comparison has not been made"
        return [f"{origin}, at full length and with a fresh seed: {result}."]
    search = search_of(run.path)
    if search is None:
        return ["One training run of one config; nothing was searched."]
    return _searched(search, run)


def _searched(search: SearchDir, run: TrialDir) -> list[str]:
    study, trials = load_study(search.study), read_trials(search)
    ended = sum(trial.state not in (RUNNING, "interrupted") for trial in trials)
    names = ", ".join(f"`{name}`" for name in study.space.names)
    lines = [f"Trial {run.id} of a search of {ended} trials over {names}."]
    best = best_trial(trials)
    if best is None or best.id != run.id:
        return [*lines, "It is not the best trial of that search."]
    itself = next((trial.miou for trial in trials if trial.number == 0), None)
    if itself is not None and best.miou is not None and best.number != 0:
        lines.append(
            f"It is the best of them, with mIoU {100 * best.miou:.2f}; the config that the search "
            f"began with has {100 * itself:.2f}. The best of many is partly lucky."
        )
    verdict, problem = confirmation_words(search, best)
    return [*lines, f"Confirmed: {verdict}." if verdict else f"Not confirmed: {problem}."]


def write_card(source: ExportSource, path: Path) -> str:
    """Write the card of a checkpoint, which says how segtune loads it. Return one line on it."""
    text = card_text(source, collect(source), path.stem, "segtune", source.checkpoint)
    with new_file(path) as copy:
        copy.write_text(text)
    return f"model card, {len(source.classes)} classes"


def card_text(
    source: ExportSource,
    card: Card,
    name: str,
    library: Library,
    checkpoint: Path | None = None,
) -> str:
    """Return the card as Markdown with the hub's front matter.

    `name` is the model's name, and that of its folder. `library` loads it. `checkpoint` is where it
    lies; None: in the folder of the card.
    """
    sections = {
        "": f"# {name}\n\n{_summary(source, card)}",
        "How to load it": _loading(
            source, name if checkpoint is None else str(checkpoint), library
        ),
        "Intended use": _intended_use(source),
        "Data": _data(source, card),
        "Scores": _scores(source, card),
        "How it was chosen": "\n".join(card.chosen),
        "Limits": _limits(source, card, library),
        "Licence": licence_of(source.config.model)[1]
        + "\nThe licence of the data set and yours for these weights have to be added here.",
        "Config": "The settings that differ from segtune's defaults:\n\n```yaml\n"
        + short_text(public_config(source.config), {})
        + "```",
    }
    body = "\n\n".join(f"## {t}\n\n{text}" if t else text for t, text in sections.items())
    return f"---\n{write_yaml(_front_matter(source, card, name, library))}---\n\n{body}\n"


def _front_matter(source: ExportSource, card: Card, name: str, library: Library) -> dict[str, Any]:
    model = source.config.model
    licence, _ = licence_of(model)
    matter: dict[str, Any] = {
        "license": licence or "unknown",
        "library_name": library,
        "pipeline_tag": "image-segmentation",
        "tags": ["semantic-segmentation", "segtune", model.name.replace(":", "-"), "vision"],
    }
    if licence == OTHER:
        matter["license_name"] = "nvidia-source-code-license"
    if card.scores:
        metrics = {"mean_iou": card.scores.miou, "pixel_accuracy": card.scores.aacc}
        values = [
            {"type": metric, "value": round(value, 6), "name": words}
            for (metric, value), words in zip(metrics.items(), ("mIoU", "aAcc"), strict=True)
        ]
        dataset = {
            "name": data_set_name(source.config),
            "type": "image-segmentation",
            "split": "validation",
        }
        task = {"type": "image-segmentation", "name": "semantic segmentation"}
        results = [{"task": task, "dataset": dataset, "metrics": values}]
        matter["model-index"] = [{"name": name, "results": results}]
    return matter


def _summary(source: ExportSource, card: Card) -> str:
    model = source.config.model
    num_classes = len(source.classes)
    text = (
        f"Semantic segmentation of {data_set_name(source.config)} into {num_classes} classes: "
        f"{model.name} with the encoder {model.encoder}, trained by segtune (checkpoint of epoch "
        f"{source.manifest.epoch} of {source.config.schedule.epochs})."
    )
    if card.scores:
        text += f" mIoU {100 * card.scores.miou:.2f} on the validation images."
    return text


def _loading(source: ExportSource, place: str, library: Library) -> str:
    if library == "transformers":
        lines = [
            "from transformers import pipeline",
            "",
            f'segment = pipeline("image-segmentation", model="{place}")',
            'for part in segment("image.png"):',
            '    print(part["label"], part["mask"].size)',
        ]
        needs = "transformers, torch, torchvision and Pillow"
        if source.config.model.name != "segformer":
            needs += f", and timm for the encoder {source.config.model.encoder}"
        note = f"Needs {needs}; not segtune."
    else:
        lines = [
            "import torch",
            "from segtune.training.prediction import load_model",
            "",
            f'model, config, _ = load_model("{place}", None, torch.device("cpu"))',
            "images = torch.zeros(1, 3, 128, 128)  # RGB, (value 0..255 - mean) / std",
            "with torch.no_grad():",
            "    labels = model(images).argmax(1)",
        ]
        note = (
            f"Needs segtune. `segtune predict --checkpoint {place} IMAGE` draws predictions. The "
            f"encoder is {source.config.model.encoder}."
        )
    return "\n".join(["```python", *lines, "```", "", note])


def _intended_use(source: ExportSource) -> str:
    return (
        f"Images like those of {data_set_name(source.config)}, as they come from the same source. "
        f"Every pixel gets one of the classes {', '.join(source.classes)}; there is no answer for "
        "a pixel of no class."
    )


def _data(source: ExportSource, card: Card) -> str:
    data = source.config.data
    lines = [f"- data set: {data_set_name(source.config)}, layout {data.layout}"]
    train = f"{', '.join(data.train)}"
    num_train = data.num_images or card.num_train
    lines.append(f"- training: {train}" + (f", {num_train} images" if num_train else ""))
    images = f", {card.val.num_images} images" if card.val else ""
    lines.append(f"- validation: {data.val}{images}")
    lines.append(
        f"- images are scaled to fit into {max(data.resize)} x {min(data.resize)} pixels (long "
        f"side, short side); training crops are {data.crop[0]} x {data.crop[1]}"
    )
    if data.reduces_zero_label:
        lines.append("- the value 0 of the mask files is no class: class 0 has the value 1 there")
    return "\n".join(lines)


def _scores(source: ExportSource, card: Card) -> str:
    if card.scores is None:
        return "No validation of this checkpoint is recorded."
    scores = card.scores
    lines = [
        f"Validated at epoch {source.manifest.epoch}, in per cent: mIoU {100 * scores.miou:.2f}, "
        f"aAcc {100 * scores.aacc:.2f}, mAcc {100 * scores.macc:.2f}.",
        "",
        "| label | class | IoU | validation images with the class |",
        "| ---: | --- | ---: | ---: |",
    ]
    for label, name in enumerate(source.classes):
        iou = scores.class_iou[label] if label < len(scores.class_iou) else None
        shown = "-" if iou is None else f"{100 * iou:.2f}"
        images = card.val.images[label] if card.val else "-"
        cell = name.replace("|", "\\|")
        lines.append(f"| {label} | {cell} | {shown} | {images} |")
    return "\n".join(lines)


def _limits(source: ExportSource, card: Card, library: Library) -> str:
    limits = [
        "- The checkpoint is the one with the best validation, so its score is a little too high "
        "for new images."
    ]
    if card.scores:
        unlearnt = [
            name
            for name, iou in zip(source.classes, card.scores.class_iou, strict=False)
            if iou is not None and iou < 0.01
        ]
        if unlearnt:
            limits.append(f"- Not learnt (IoU below 1 %): {', '.join(unlearnt)}.")
    if library == "transformers" and Windows.of(source.config):
        limits.append("- segtune validated in sliding windows; transformers sees whole images.")
    if source.config.data.value_range:
        low, high = source.config.data.value_range
        limits.append(
            f"- Images of more than 8 bits: {low:g}..{high:g} has to become 0..255 first."
        )
    if library == "transformers":
        limits.append(
            "- The image processor scales with antialiasing, segtune without: labels at borders "
            "differ if an image has another size than the one above."
        )
    return "\n".join(limits)
