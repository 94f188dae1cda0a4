"""The label audit of a study's data set as a section of `segtune check`."""

from __future__ import annotations

from segtune.checks.audit import AuditReport, audit
from segtune.checks.findings import Finding, Section
from segtune.checks.label_findings import SEVERITIES
from segtune.config.data_config import DataConfig
from segtune.errors import ConfigError, DataError

NAME = "labels"


def label_section(data: DataConfig, is_here: bool) -> Section:
    """Read every image and mask of a data set, and return its errors and warnings.

    Notes are counted only: `segtune data check` prints them. Generated shapes are not read, because
    their labels are right by construction. `is_here`: whether this machine has the data set.
    """
    if data.layout == "shapes":
        return Section(NAME, "not read: generated shapes have the labels that were drawn", [])
    if not is_here:
        return Section(NAME, f"not read: {data.root} is not on this machine, or has no pairs", [])
    try:
        report = audit(data)
    except (DataError, ConfigError) as error:
        reason = "each trial would end with this message"
        way_out = "repair this, then run segtune data check"
        finding = Finding("error", "not-readable", "data", str(error), reason, way_out)
        return Section(NAME, f"the data set {data.root} cannot be read", [finding])
    serious = [*report.of("error"), *report.of("warning")]
    rows = [{"severity": name, "findings": len(report.of(name))} for name in SEVERITIES]
    return Section(NAME, _about(report), serious, rows)


def _about(report: AuditReport) -> str:
    return (
        f"{report.train.num_images} training and {report.val.num_images} validation images of "
        f"{report.root}, {report.count_text()}; segtune data check prints all"
    )
