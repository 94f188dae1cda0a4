"""The `search.notify` of a study: whom a search tells that it has ended or needs attention."""

from __future__ import annotations

import re
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from segtune.config.settings import Settings

NoticeEvent = Literal["end", "pause", "unhealthy", "error"]

# A variable of the environment in a URL: its value is put in when the URL is used.
VARIABLE = re.compile(r"\$\{([A-Za-z_]\w*)\}")
HIDDEN = "***"


def _check_webhook(url: str) -> str:
    """Return the URL. Raise ValueError that does not repeat it if it is none."""
    if VARIABLE.match(url):
        return url
    try:
        parts = urlsplit(url)
        is_url = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # of brackets or of a port above 65535
        is_url = False
    if not is_url:
        raise ValueError("expected http://… or https://…, or a variable such as ${SLACK_URL}")
    return url


def hide_secrets(url: str) -> str:
    """Return a URL without what may be secret: https://hooks.example.com/***.

    User, password, path and query may be. A URL with a variable is kept, because the secret is in
    the variable.
    """
    if VARIABLE.search(url):
        return url
    parts = urlsplit(url)
    host_and_port = parts.netloc.rpartition("@")[2]  # an IPv6 address keeps its brackets
    return f"{parts.scheme}://{host_and_port}/{HIDDEN}"


class NotifyConfig(Settings):
    """Whom a search tells that it has ended or needs attention. A failure never ends the search."""

    command: str | None = Field(
        default=None,
        min_length=1,
        description="Shell command to run at each event, on the machine of the driver. It gets the "
        "notice as JSON on stdin and as variables SEGTUNE_EVENT, SEGTUNE_TEXT, SEGTUNE_RUN, …; see "
        "docs/notifications.md. null: none.",
    )
    webhook: Annotated[str, AfterValidator(_check_webhook)] | None = Field(
        default=None,
        description="URL to which each notice is sent as JSON (POST). ${NAME} stands for a "
        "variable of the environment, for secrets. Otherwise, the folder of the search run holds "
        "only the host. null: none.",
    )
    events: tuple[NoticeEvent, ...] = Field(
        default=("end", "pause", "unhealthy", "error"),
        description="The events of which the search tells. end: the search has ended. pause: it "
        "has paused because trials end for one cause. unhealthy: unhealthy_share of the trials "
        "have ended unhealthy or failed; sent once per session. error: the driver has ended with "
        "an error.",
    )
    unhealthy_share: float = Field(
        default=0.3,
        gt=0,
        le=1,
        description="For the event unhealthy: share of the trials that have ended. It is not sent "
        "before 5 trials have ended.",
    )
    timeout_s: float = Field(
        default=10.0,
        gt=0,
        le=600,
        description="How long a command or a request may take, in seconds.",
    )
