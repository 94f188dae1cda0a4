"""Sends the notices of a search to a command and a webhook. A failure is one warning."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import logging
import os
import signal
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

from segtune.checks.notices import Notice, notice_tree
from segtune.checks.search_limits import SearchEnd
from segtune.errors import SegtuneError
from segtune.runs.results import best_trial, read_trials
from segtune.runs.rundir import SearchDir
from segtune.tuning.notify_config import HIDDEN, VARIABLE, NotifyConfig, hide_secrets

log = logging.getLogger(__name__)

# What a command says of its failure, at most.
MAX_SHOWN = 200


class Notifier:
    """Sends notices in threads, so that the search never waits for a command or a server."""

    def __init__(self, config: NotifyConfig, run: SearchDir, num_trials: int) -> None:
        """Warn at once if the webhook cannot be used."""
        self._config = config
        self._run = run
        self._num_trials = num_trials
        self._threads: list[threading.Thread] = []
        self._told: set[str] = set()  # events
        self._failed: set[str] = set()  # ways that have been warned of
        self._webhook = self._expanded(config.webhook)

    def __reduce__(self) -> tuple[Any, ...]:
        """Return a copy that tells nobody: Tune writes its callbacks into the run folder."""
        return Notifier, (NotifyConfig(), self._run, self._num_trials)

    def tell_end(self, interrupted: bool, end: SearchEnd | None) -> None:
        """Tell that a search has ended, unless this has been told as a pause."""
        if "pause" in self._told:
            return
        best = best_trial(read_trials(self._run))
        words = f"; the best is trial {best.id}, mIoU {100 * (best.miou or 0):.2f}" if best else ""
        if end:
            self.tell(Notice("end", f"the search has ended: {end.sentence}{words}"))
        elif interrupted:
            self.tell(Notice("end", f"the search was interrupted, and can be resumed{words}"))
        else:
            self.tell(Notice("end", f"the search has ended{words or ' without a winner'}"))

    def tell_error(self, error: Exception) -> None:
        """Tell that the driver ends with an error."""
        first = (str(error).splitlines() or [""])[0][:MAX_SHOWN]
        name = "" if isinstance(error, SegtuneError) else f"{type(error).__name__}: "
        self.tell(Notice("error", f"the driver has ended with an error: {name}{first}"))

    def tell(self, notice: Notice) -> None:
        """Send a notice if its event is wanted; return without waiting."""
        self._told.add(notice.event)
        if notice.event not in self._config.events:
            return
        ways = []
        if self._config.command:
            ways.append(self._run_command)
        if self._webhook:
            ways.append(self._post)
        if not ways:
            return
        tree = notice_tree(notice, self._run, self._num_trials)
        for way in ways:
            thread = threading.Thread(target=way, args=(tree,), daemon=True)
            thread.start()
            self._threads.append(thread)

    def close(self) -> None:
        """Wait for notices that are on their way, no longer than they may take."""
        for thread in self._threads:
            thread.join(self._config.timeout_s + 1)

    def _expanded(self, url: str | None) -> str | None:
        """Return the URL with the values of its variables; None if it cannot be used."""
        if url is None:
            return None
        absent = [name for name in VARIABLE.findall(url) if not os.environ.get(name)]
        if absent:
            self._warn("webhook", f"the variable {absent[0]} is not set, so nothing is sent")
            return None
        if url.endswith(f"/{HIDDEN}"):
            text = "the folder of a search run does not hold it; write it as ${NAME} in the study"
            self._warn("webhook", text)
            return None
        return VARIABLE.sub(lambda match: os.environ[match[1]], url)

    def _run_command(self, tree: Mapping[str, Any]) -> None:
        environment = {**os.environ, **_variables(tree)}
        pipe = subprocess.PIPE
        try:
            process = subprocess.Popen(
                str(self._config.command),
                shell=True,
                env=environment,
                text=True,
                errors="replace",
                start_new_session=True,  # so that a timeout ends what the shell has started, too
                stdin=pipe,
                stdout=subprocess.DEVNULL,
                stderr=pipe,
            )
        except OSError as error:
            self._warn("command", str(error.strerror))
            return
        try:
            _, said = process.communicate(json.dumps(tree), timeout=self._config.timeout_s)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()  # not for stderr, which a process of another session may keep open
            self._warn("command", f"took longer than {self._config.timeout_s:g} s")
            return
        if process.returncode:
            reason = (said.strip().splitlines() or ["nothing on stderr"])[-1][:MAX_SHOWN]
            self._warn("command", f"ended with code {process.returncode}: {reason}")

    def _post(self, tree: Mapping[str, Any]) -> None:
        try:
            request = _request(str(self._webhook), json.dumps(tree).encode())
            with urllib.request.urlopen(request, timeout=self._config.timeout_s):
                pass
        except urllib.error.HTTPError as error:
            self._warn("webhook", f"the server answered {error.code}")
        # The text of other errors may repeat the URL.
        except (OSError, ValueError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", None)
            cause = reason if isinstance(reason, OSError) else error
            words = getattr(cause, "strerror", None) or type(cause).__name__
            self._warn("webhook", "timed out" if isinstance(cause, TimeoutError) else words)

    def _warn(self, way: str, problem: str) -> None:
        """Warn once of each way."""
        if way in self._failed:
            return
        self._failed.add(way)
        url = self._config.webhook
        place = f" ({hide_secrets(url)})" if way == "webhook" and url else ""
        log.warning(
            "search.notify.%s%s: %s; the search goes on, and this is said once", way, place, problem
        )


def _request(url: str, body: bytes) -> urllib.request.Request:
    """Return a request with a JSON body; user and password of the URL become a header.

    Raise ValueError for another scheme than http and https, such as file.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https"):
        raise ValueError("no http or https URL")
    headers = {"Content-Type": "application/json"}
    user, at, host = parts.netloc.rpartition("@")
    if at:
        headers["Authorization"] = f"Basic {base64.b64encode(unquote(user).encode()).decode()}"
    plain = parts._replace(netloc=host).geturl()
    return urllib.request.Request(plain, body, headers, method="POST")


def _variables(tree: Mapping[str, Any]) -> dict[str, str]:
    """Return a notice as variables of the environment: SEGTUNE_EVENT, SEGTUNE_TEXT, …"""
    values = {name: "" if value is None else str(value) for name, value in tree.items()}
    # No value of an environment may hold the character NUL.
    return {f"SEGTUNE_{name.upper()}": value.replace("\0", "") for name, value in values.items()}
