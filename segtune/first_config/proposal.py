"""A first config and a first study for a data set, as files that are not yet written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from segtune.config.schema import ExperimentConfig
from segtune.config.settings import set_value
from segtune.config.yaml_io import Tree
from segtune.data.shapes import CLASSES, ShapesSpec
from segtune.errors import DataError, first_of
from segtune.first_config.colours import labels_of_palette
from segtune.first_config.commented import commented_yaml
from segtune.first_config.comments import CONFIG_COMMENTS, STUDY_COMMENTS, config_head, study_head
from segtune.first_config.labels import ZERO, Choice, Labels, Meaning, labels_of_values
from segtune.first_config.layout import FoundLayout, find_layout
from segtune.first_config.machine import Machine
from segtune.first_config.splits import Split, list_text, make_split
from segtune.first_config.survey import Survey, Watch, survey
from segtune.first_config.training import (
    Basis,
    search_settings,
    shapes_settings,
    space_settings,
    training_settings,
)

# Asks which of `options` to take; the first argument is the question, the second the proposal.
Ask = Callable[[str, str, tuple[str, ...]], str]


def take_proposal(question: str, proposal: str, options: tuple[str, ...]) -> str:
    """Return the proposal: nobody is asked."""
    return proposal


@dataclass(frozen=True)
class Answers:
    """What the user has decided on the command line; None leaves it to a proposal."""

    meanings: Mapping[str, Meaning] = field(default_factory=dict)  # by value, see labels.Choice
    classes: tuple[str, ...] | None = None
    leave_out: bool | None = None  # images that cannot be used
    val_share: float = 0.2
    seed: int = 0
    data: Mapping[str, Any] = field(default_factory=dict)  # settings of `data` that stand


@dataclass(frozen=True)
class DataProposal:
    """The settings of `data` for a folder, and the lists that they need."""

    settings: Mapping[str, Any]
    labels: Labels
    survey: Survey
    split: Split
    lists: Mapping[Path, str]  # {path: text}
    lines: tuple[str, ...]  # what was found, in words


def propose_data(
    root: Path, stem: Path, answers: Answers, ask: Ask = take_proposal, watch: Watch | None = None
) -> DataProposal:
    """Look at a data set. `stem` is the beginning of the paths of lists that are needed.

    Raises DataError if the folder has no images with masks of classes.
    """
    found = find_layout(root, answers.data)
    seen = survey(found.pairs, watch) if watch else survey(found.pairs)
    root = Path(found.settings["root"])
    labels = _labels(root, found, seen, answers, ask)
    odd = {**{image: f"{image}: has no mask" for image in found.unpaired}, **seen.odd}
    _check_odd(odd, answers, ask)
    split = make_split(found, odd, answers.val_share, answers.seed)
    settings = {**_files(found, split, stem), **labels.settings, **answers.data}
    lists = {}
    if split.needs_lists:
        for name, pairs in (("train", split.train), ("val", split.val)):
            lists[_list_path(stem, name)] = list_text(pairs, root)
    lines = tuple(_lines(found, seen, labels, split, odd))
    return DataProposal(settings, labels, seen, split, lists, lines)


def _list_path(stem: Path, split: str) -> Path:
    return stem.with_name(f"{stem.name}_{split}.txt")


def _labels(root: Path, found: FoundLayout, seen: Survey, answers: Answers, ask: Ask) -> Labels:
    known = {**found.settings, **answers.data}
    if known.get("label_map") or known.get("palette") or known.get("layout") == "ade20k":
        return _labels_of_settings(known)
    if not seen.num_masks:
        first = next(iter(seen.odd.values()), f"{root}: no pair of an image and a mask")
        raise DataError(f"no mask can be read; the first problem: {first}")
    if seen.needs_palette:
        labels = labels_of_palette(root, seen)
    else:
        labels = _labels_of_choices(root, seen, dict(answers.meanings), ask)
    return labels.renamed(answers.classes) if answers.classes else labels


def _labels_of_choices(root: Path, seen: Survey, meanings: dict[str, Meaning], ask: Ask) -> Labels:
    """Return the labels of values after all open questions are answered."""
    labels = labels_of_values(root, seen, meanings)
    while open_choices := [c for c in labels.choices if c.value not in meanings]:
        choice = open_choices[0]
        meanings[choice.value] = _answer(choice, ask)
        labels = labels_of_values(root, seen, meanings)
    return labels


def _answer(choice: Choice, ask: Ask) -> Meaning:
    value = "0" if choice.value == ZERO else choice.value
    question = f"What does the value {value} in the masks mean? {choice.reason}"
    return "class" if ask(question, choice.proposal, ("class", "ignored")) == "class" else "ignored"


def _labels_of_settings(known: Mapping[str, Any]) -> Labels:
    """Return the labels that settings of the user, or of a well-known data set, decide."""
    from segtune.config.data_config import DataConfig
    from segtune.data.layouts import class_names

    names = ("classes", "label_map", "palette", "reduce_zero_label", "ignore_index")
    settings = {name: known[name] for name in names if name in known}
    return Labels(settings, class_names(DataConfig.parse(dict(known))), ["a well-known data set"])


def _check_odd(odd: Mapping[str, str], answers: Answers, ask: Ask) -> None:
    """Raise DataError if images cannot be used and are not to be left out."""
    if not odd:
        return
    leave_out = answers.leave_out
    count = "1 image" if len(odd) == 1 else f"{len(odd)} images"
    if leave_out is None:
        question = f"{count} cannot be used ({next(iter(odd.values()))}). Leave out?"
        leave_out = ask(question, "yes", ("yes", "no")) == "yes"
    if not leave_out:
        raise DataError(
            f"{count} cannot be used: {first_of(list(odd.values()), 5)}; repair, or leave out with "
            "--leave-out yes"
        )


def _files(found: FoundLayout, split: Split, stem: Path) -> dict[str, Any]:
    if not split.needs_lists:
        return dict(found.settings)
    lists = {name: str(_list_path(stem, name).absolute()) for name in ("train", "val")}
    return {
        "layout": "folder",
        "root": found.settings["root"],
        "train": [lists["train"]],
        "val": lists["val"],
    }


def _lines(
    found: FoundLayout, seen: Survey, labels: Labels, split: Split, odd: Mapping[str, str]
) -> list[str]:
    names = ("layout", "images", "masks", "image_suffix", "mask_suffix", "train", "val")
    shown = {name: found.settings[name] for name in names if name in found.settings}
    place = ", ".join(f"{name} {_plain(value)}" for name, value in shown.items())
    sizes = [f"{w}x{h}" for (w, h), _ in seen.sizes.most_common(3)]
    more = f" and {len(seen.sizes) - 3} more sizes" if len(seen.sizes) > 3 else ""
    num = f"{len(split.train)} training and {len(split.val)} validation images"
    how = "" if found.val else " (a proposed split of the only set)"
    lines = [
        f"data:    {found.settings['root']}: {place}",
        f"images:  {num}{how}; {', '.join(sizes)}{more}",
        f"classes: {len(labels.names)}: {first_of(list(labels.names), 12)}",
        *(f"         {reason}" for reason in labels.reasons),
    ]
    if seen.num_masks < len(found.pairs) - len(odd):
        lines.append(f"         from {seen.num_masks} of {len(found.pairs)} masks")
    lines += [f"odd:     {reason}" for reason in list(odd.values())[:5]]
    return lines + ([f"         and {len(odd) - 5} more"] if len(odd) > 5 else [])


def _plain(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def shapes_proposal(root: Path) -> DataProposal:
    """Return the proposal for the generated data set, which is written into `root` when used."""
    spec = ShapesSpec()
    settings = {"layout": "shapes", "root": str(root), "classes": "shapes"}
    labels = Labels(settings, CLASSES, ())
    lines = (
        f"data:    {root}: generated shapes, written when they are needed first",
        f"images:  {spec.num_train} training and {spec.num_val} validation images",
        f"classes: {len(CLASSES)}: {first_of(list(CLASSES), 12)}",
    )
    return DataProposal(settings, labels, Survey(), Split((), (), False), {}, lines)


def config_text(
    data: DataProposal, machine: Machine, weights: str | None, changes: Mapping[str, Any]
) -> str:
    """Return the config as commented YAML; `changes` are {dotted name: value} of --set."""
    if data.settings["layout"] == "shapes":
        tree: Tree = shapes_settings()
    else:
        tree = training_settings(Basis(machine, data.survey.sizes, len(data.split.train), weights))
    tree = {**tree, "data": {**data.settings, **tree["data"]}}
    for name, value in changes.items():
        set_value(tree, name, value)
    tree = {"data": tree.pop("data"), **tree}
    return commented_yaml(tree, config_head(data.lines, str(machine)), CONFIG_COMMENTS)


def study_text(config: ExperimentConfig, config_name: str, machine: Machine) -> str:
    """Return the study as commented YAML."""
    tree = {
        "config": config_name,
        "space": space_settings(config.optim.lr),
        "search": search_settings(machine),
    }
    return commented_yaml(tree, study_head(config_name), STUDY_COMMENTS)
