"""The audit of a data set: everything that is wrong or suspicious about its images and labels.

Reads every image and mask once. Prints nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from segtune.checks.class_rules import class_findings
from segtune.checks.duplicate_rules import (
    duplicate_findings,
    equal_findings,
    leak_findings,
    listing_findings,
    near_findings,
)
from segtune.checks.file_rules import (
    fit_findings,
    numbering_findings,
    refused_findings,
    wrong_values,
)
from segtune.checks.findings import Severity
from segtune.checks.label_findings import SEVERITIES, LabelFinding, by_severity
from segtune.config.data_config import DataConfig
from segtune.data.fingerprint import NearPair
from segtune.data.layouts import class_names, open_split, pairs_by_list
from segtune.data.leaks import ContentPair, equal_across, equal_images, masks_differ, near_across
from segtune.data.masks import check_mask_settings
from segtune.data.statistics import SplitStatistics, Watch, read_split
from segtune.data.value_range import with_value_range

# Of the file of `segtune data check --json`.
FORMAT = 1


@dataclass(frozen=True)
class AuditReport:
    """The content of both splits and the findings, errors first."""

    root: str
    classes: Sequence[str]
    ignore_index: int
    train: SplitStatistics
    val: SplitStatistics
    findings: Sequence[LabelFinding]
    equal: Sequence[ContentPair]  # in both splits
    near: Sequence[tuple[ContentPair, NearPair]]  # in both splits

    def of(self, severity: Severity) -> list[LabelFinding]:
        """Return the findings of a severity."""
        return [finding for finding in self.findings if finding.severity == severity]

    @property
    def problems(self) -> list[str]:
        """Each error in one line."""
        return [str(finding) for finding in self.of("error")]

    @property
    def notes(self) -> list[str]:
        """Each warning and each note in one line."""
        return [str(finding) for finding in self.findings if finding.severity != "error"]

    def count_text(self) -> str:
        """Return `2 errors, 1 warning, 3 notes`, or `no errors, 1 note`."""
        if not self.findings:
            return "no problems found"
        numbers = [(len(self.of(severity)), severity) for severity in SEVERITIES]
        parts = [
            f"{number} {noun}{'' if number == 1 else 's'}" for number, noun in numbers if number
        ]
        return ", ".join(parts if self.of("error") else ["no errors", *parts])

    def summary(self, max_lines: int = 3) -> list[str]:
        """Return the numbers of findings, and the first errors and warnings in one line each."""
        first = [
            f"{finding.severity} {finding.rule}: {finding}"
            for finding in self.findings
            if finding.severity != "note"
        ]
        return [f"{self.root}: {self.count_text()}", *first[:max_lines]]

    def dump(self) -> dict[str, Any]:
        """Return everything as plain JSON values."""
        splits = {"train": self.train, "val": self.val}
        return {
            "format": FORMAT,
            "root": self.root,
            "ignore_index": self.ignore_index,
            "splits": {name: self._split_tree(split) for name, split in splits.items()},
            "findings": [finding.dump() for finding in self.findings],
            "duplicates": self._duplicates_tree(),
        }

    def _split_tree(self, split: SplitStatistics) -> dict[str, Any]:
        classes = [
            {
                "label": label,
                "name": name,
                "pixels": int(split.pixels[label]),
                "pixel_share": split.pixel_share(label),
                "images": int(split.images[label]),
            }
            for label, name in enumerate(self.classes)
        ]
        wrong = wrong_values(split.refused)
        return {
            "num_images": split.num_images,
            "num_read": sum(content.mask is not None for content in split.content),
            "ignored_share": split.pixel_share(self.ignore_index),
            "classes": classes,
            "wrong_values": {str(value): pixels for value, pixels in wrong.items()},
        }

    def _duplicates_tree(self) -> dict[str, Any]:
        return {
            "equal_in_both_splits": [
                {
                    "val": pair.val.pair.image,
                    "train": pair.train.pair.image,
                    "equal_masks": not masks_differ(pair),
                }
                for pair in self.equal
            ],
            "near_in_both_splits": [
                {
                    "val": pair.val.pair.image,
                    "train": pair.train.pair.image,
                    "different_bits": near.bits,
                    "distance": near.distance,
                    "mirrored": near.is_mirrored,
                }
                for pair, near in self.near
            ],
            "equal_in_train": _groups(self.train),
            "equal_in_val": _groups(self.val),
        }


def _groups(split: SplitStatistics) -> list[list[str]]:
    return [[content.pair.image for content in group] for group in equal_images(split.content)]


def audit(config: DataConfig, watch: Watch | None = None) -> AuditReport:
    """Read the whole data set and return its content and its findings.

    `watch` is called with each split before it is read, and yields its pairs. Raises DataError only
    if the class names, the colours of `data.palette` or a split cannot be found, and ConfigError if
    the settings of the labels contradict each other.
    """
    classes = class_names(config)
    check_mask_settings(config)
    config = with_value_range(config)
    train = read_split(config, "train", len(classes), watch)
    val = read_split(config, "val", len(classes), watch)
    equal = equal_across(train.content, val.content)
    near = near_across(train.content, val.content)
    findings = [
        *numbering_findings(config, len(classes), (train, val)),
        *refused_findings((train, val)),
        *class_findings(config, classes, train, val),
        *_list_findings(config),
        *equal_findings(equal, len(val.content)),
        *near_findings(near, len(val.content)),
        *_split_findings(train, val),
    ]
    return AuditReport(
        *(config.root, classes, config.ignore_index, train, val),
        *(by_severity(findings), equal, near),
    )


def _list_findings(config: DataConfig) -> list[LabelFinding]:
    """Return the findings on the lists. Reads lists and folders, no image."""
    train_lists, val_lists = pairs_by_list(config, "train"), pairs_by_list(config, "val")
    train, val = open_split(config, "train"), open_split(config, "val")
    return [*listing_findings(train_lists, val_lists), *leak_findings(train, val, train_lists)]


def _split_findings(train: SplitStatistics, val: SplitStatistics) -> Iterator[LabelFinding]:
    for split, statistics in (("train", train), ("val", val)):
        yield from duplicate_findings(split, statistics.content)
        yield from fit_findings(split, statistics)
