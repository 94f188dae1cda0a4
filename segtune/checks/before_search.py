"""The rules that `segtune search` applies before anything is queued; they take tenths of a second.

`segtune check` applies them too, and looks further.
"""

from __future__ import annotations

import logging

from segtune.checks.data_sizes import data_sizes
from segtune.checks.findings import errors_of
from segtune.checks.space_rules import space_findings
from segtune.errors import ConfigError
from segtune.tuning.study import Study

log = logging.getLogger(__name__)


def refuse_mistakes(study: Study) -> None:
    """Log each warning about a study. Raise ConfigError that lists the errors, if there are any."""
    findings = space_findings(study, data_sizes(study.config))
    errors = errors_of(findings)
    for finding in findings:
        if finding not in errors:
            log.warning("note: %s", finding)
    if errors:
        skip = "nothing was started; --no-check starts the search in spite of this"
        raise ConfigError([*map(str, errors), skip])
