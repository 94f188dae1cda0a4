"""From a config of mmsegmentation to a config of segtune, and the report on every key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from segtune.config.schema import ExperimentConfig
from segtune.config.yaml_io import Source, Tree, write_yaml
from segtune.errors import ConfigError
from segtune.mmseg.ledger import Entry, Ledger, Ref
from segtune.mmseg.map_data import map_data
from segtune.mmseg.map_loss import NO_TERMS
from segtune.mmseg.map_model import map_model
from segtune.mmseg.map_optim import map_optimiser
from segtune.mmseg.map_pipeline import map_pipelines
from segtune.mmseg.map_rest import map_rest
from segtune.mmseg.map_schedule import map_schedule
from segtune.mmseg.reader import MmsegConfig

# What mmseg does if a config says nothing, as settings of segtune: augmentation is off.
SILENT = {
    "augment.ratio": [1.0, 1.0],
    "augment.cat_max_ratio": 1.0,
    "augment.flip": 0.0,
    "augment.photometric": False,
    **NO_TERMS,
}


def convert(config: MmsegConfig, gpus: int = 1, images: int | None = None) -> Ledger:
    """Return the settings of segtune for a config, and what became of every key.

    `gpus` is the number of GPUs that it was written for, `images` that of the training images.
    """
    ledger = Ledger(settings=dict(SILENT))
    root = Ref("", config.root, ledger)
    facts = map_data(root)
    map_pipelines(root)
    map_model(root, facts.num_classes)
    map_optimiser(root)
    map_schedule(root, facts, gpus, images)
    map_rest(root)
    for place in config.not_executed:
        text = f"{place}: not executed; what this statement sets is not known"
        ledger.note(text, changes_numbers=True)
    ledger.settle(config.root)
    return ledger


def as_yaml(ledger: Ledger, source: str) -> str:
    """Return the config as YAML, with the name of its source in a comment.

    Raises ConfigError if the settings do not go together.
    """
    tree = nested(ledger.settings)
    try:
        ExperimentConfig.parse(tree, Source(""))
    except ConfigError as error:
        problems = [f"{source}: the imported settings do not fit: {p}" for p in error.problems]
        raise ConfigError(problems) from None
    return f"# Imported from {source}, a config of mmsegmentation.\n{write_yaml(tree)}"


def nested(settings: Mapping[str, Any]) -> Tree:
    """Return {dotted name: value} as a tree, in the order of the settings in docs/config.md."""
    tree: Tree = {}
    for name in ExperimentConfig.names():
        if name not in settings:
            continue
        *sections, last = name.split(".")
        place = tree
        for section in sections:
            place = place.setdefault(section, {})
        place[last] = settings[name]
    return tree


def report(ledger: Ledger) -> list[str]:
    """Return the lines of the report: every key of the source in one of three groups."""
    left = ledger.of_group("left")
    lines = [
        *(_carried(entry, ledger) for entry in ledger.of_group("carried")),
        *_same(ledger.of_group("same")),
        *(_left(entry) for entry in sorted(left, key=lambda entry: not entry.changes_numbers)),
        *(f"note: {text}" for text in ledger.notes),
    ]
    num_changes = sum(entry.changes_numbers for entry in left)
    num_carried = len(ledger.of_group("carried"))
    counts = f"{num_carried} key{'' if num_carried == 1 else 's'} carried over, {len(left)} not"
    verb = "changes" if num_changes == 1 else "change"
    ends = f", of which {num_changes} {verb} the numbers" if left else ""
    return [*lines, f"{counts}{ends}"]


def changes_numbers(ledger: Ledger) -> bool:
    """Whether something that changes the numbers of a training run was not carried over."""
    return ledger.notes_change_numbers or any(
        entry.changes_numbers for entry in ledger.of_group("left")
    )


def _carried(entry: Entry, ledger: Ledger) -> str:
    remark = ledger.remarks.get(entry.key)
    line = f"carried over: {entry.key} ({entry.place}): {entry.text}"
    return f"{line} (about the same: {remark})" if remark else line


def _left(entry: Entry) -> str:
    ends = "" if entry.changes_numbers else " (does not change the numbers)"
    return f"not carried over: {entry.key} ({entry.place}): {entry.text}{ends}"


def _same(entries: list[Entry]) -> list[str]:
    """Return one line for each reason, with all its keys."""
    keys: dict[str, list[str]] = {}
    for entry in entries:
        keys.setdefault(entry.text, []).append(entry.key)
    return [f"the same in segtune: {', '.join(names)}: {text}" for text, names in keys.items()]
