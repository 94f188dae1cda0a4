"""Where the Ray dashboard is, and how to reach it: the lines that a search prints at its start."""

from __future__ import annotations

import getpass
import os
from collections.abc import Mapping
from urllib.parse import urlsplit


def dashboard_lines(url: str, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return {label: text}; `url` is empty if Ray runs without a dashboard.

    Never contains the token itself: the output of a search is copied into tickets and job logs.
    """
    if not url:
        return {"dashboard": "none, because Ray was started without it"}
    text = url
    if environ.get("RAY_AUTH_MODE") == "token":
        text += "; it asks for a token, which `ray get-auth-token` prints"
    lines = {"dashboard": text}
    # The addresses and ports of the client and of this machine.
    connection = environ.get("SSH_CONNECTION", "").split()
    if len(connection) == 4:
        place = urlsplit(url)
        tunnel = f"{place.port}:{place.hostname}:{place.port}"
        lines["from afar"] = f"ssh -N -L {tunnel} {getpass.getuser()}@{connection[2]}"
    return lines
