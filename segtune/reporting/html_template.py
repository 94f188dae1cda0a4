"""The templates of the HTML pages, and how they show values."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from segtune.checks.findings import percent
from segtune.reporting.format import format_miou, format_value, reason_of

if TYPE_CHECKING:
    import jinja2

FOLDER = Path(__file__).parent


def html_template(name: str) -> jinja2.Template:
    """Return a template of this folder. It escapes all values, and fails if one is missing."""
    import jinja2
    import markupsafe

    from segtune.checks.confirm_record import format_p  # imports numpy

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.globals["script"] = markupsafe.Markup((FOLDER / "page.js").read_text())
    environment.filters |= {
        "value": format_value,
        "miou": format_miou,
        "percent": percent,
        "p_value": format_p,
        "reason": reason_of,
    }
    return environment.get_template(name)
