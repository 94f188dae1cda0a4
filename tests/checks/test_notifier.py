"""Notices reach a real command and a real server; what fails is one warning and no secret."""

import json
import logging
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from segtune.checks.notices import Notice, UnhealthyShare
from segtune.checks.notifier import Notifier
from segtune.config.schema import ExperimentConfig
from segtune.config.yaml_io import write_yaml
from segtune.errors import ConfigError, RunError
from segtune.runs.atomic import write_atomic
from segtune.runs.rundir import SearchDir
from segtune.tuning.notify_config import NotifyConfig, hide_secrets
from segtune.tuning.preparation import prepare_study
from segtune.tuning.study import Study
from segtune.tuning.study_reader import load_study

SECRET = "T0ken-of-the-team"


class Server(ThreadingHTTPServer):
    """Keeps what it receives. Answers /fail with 500, /slow after the test, /odd with no HTTP."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.received: list[tuple[str, dict]] = []
        self.over = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.received.append((self.path, json.loads(body)))
        if self.path.startswith("/slow"):
            self.server.over.wait(60)
        if self.path.startswith("/odd"):
            self.wfile.write(b"no HTTP\r\n")
            return
        self.send_response(500 if self.path.startswith("/fail") else 200)
        self.end_headers()

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server
        server.over.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def run(tmp_path: Path) -> SearchDir:
    return SearchDir(tmp_path / "runs" / "a")


def send(run: SearchDir, *sentences: str, **settings: object) -> None:
    notifier = Notifier(NotifyConfig.parse(settings), run, 12)
    for sentence in sentences or ("the search has ended",):
        notifier.tell(Notice("end", sentence))
        notifier.close()


def test_a_webhook_receives_the_notice_as_json(
    server: Server, run: SearchDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEAM_TOKEN", SECRET)
    send(run, webhook=f"{server.url}/hooks/${{TEAM_TOKEN}}")
    ((path, tree),) = server.received
    assert path == f"/hooks/{SECRET}"
    assert tree["text"] == "segtune: a: the search has ended"
    assert (tree["event"], tree["run"], tree["trials"], tree["ended"]) == (
        "end",
        str(run.path),
        12,
        0,
    )


def test_a_command_receives_json_and_variables(run: SearchDir, tmp_path: Path) -> None:
    out = tmp_path / "said"
    command = f'cat > {out}; echo " $SEGTUNE_EVENT $SEGTUNE_NAME $SEGTUNE_TEXT" >> {out}'
    send(run, 'it\'s "over"; $(false)', command=command)
    text = out.read_text()
    tree, end = json.JSONDecoder().raw_decode(text)
    assert tree["text"] == 'segtune: a: it\'s "over"; $(false)'
    assert text[end:] == ' end a segtune: a: it\'s "over"; $(false)\n'


def test_only_the_wanted_events_are_told(server: Server, run: SearchDir) -> None:
    config = NotifyConfig.parse({"webhook": server.url, "events": ["error"]})
    notifier = Notifier(config, run, 1)
    notifier.tell_end(False, None)
    notifier.tell_error(RunError("the disk is full\nmore"))
    notifier.close()
    (received,) = server.received
    assert received[1]["text"].endswith("the driver has ended with an error: the disk is full")


def test_after_a_pause_no_end_is_told(server: Server, run: SearchDir) -> None:
    notifier = Notifier(NotifyConfig.parse({"webhook": server.url}), run, 1)
    notifier.tell(Notice("pause", "the search pauses"))
    notifier.tell_end(True, None)
    notifier.close()
    assert [tree["event"] for _, tree in server.received] == ["pause"]


@pytest.mark.parametrize(
    ("webhook", "problem"),
    [
        ("{url}/fail/" + SECRET, "the server answered 500"),
        ("http://user:{secret}@127.0.0.1:1/{secret}", "Connection refused"),
        ("http://absent.invalid/{secret}?key={secret}", ""),
        ("{url}/slow/{secret}", "imed out"),
        ("{url}/odd/{secret}", "BadStatusLine"),
        ("{url}/a blank/{secret}", "InvalidURL"),
        ("${{ABSENT_VARIABLE}}", "the variable ABSENT_VARIABLE is not set"),
        ("https://hooks.example.com/***", "write it as ${NAME}"),
    ],
)
def test_a_failing_webhook_warns_once_without_its_secret(
    webhook: str,
    problem: str,
    server: Server,
    run: SearchDir,
    caplog: pytest.LogCaptureFixture,
) -> None:
    url = webhook.format(url=server.url, secret=SECRET)
    send(run, "one", "two", webhook=url, timeout_s=0.5)
    (warning,) = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert problem in warning
    assert SECRET not in caplog.text


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        ("echo no such team >&2; exit 3", "ended with code 3: no such team"),
        ("sleep 100", "took longer than 0.3 s"),
        ("setsid sleep 20 & sleep 100", "took longer than 0.3 s"),  # keeps stderr open
        (r"printf '\377' >&2; exit 3", "ended with code 3"),  # no UTF-8
        ("exec 0<&-; exit 0", None),  # reads nothing of what it is sent
    ],
)
def test_a_failing_command_warns_once(
    command: str, problem: str | None, run: SearchDir, caplog: pytest.LogCaptureFixture
) -> None:
    began = time.monotonic()
    send(run, "one", "two", command=command, timeout_s=0.3)
    messages = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert len(messages) == (problem is not None)
    assert problem is None or problem in messages[0]
    assert time.monotonic() - began < 50


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://hooks.slack.com/services/T0/B1/abc", "https://hooks.slack.com/***"),
        ("http://me:pw@host:8080/x?key=1", "http://host:8080/***"),
        ("http://me@[::1]:8080/x", "http://[::1]:8080/***"),
        ("https://host/${TOKEN}", "https://host/${TOKEN}"),
        ("${SLACK_URL}", "${SLACK_URL}"),
    ],
)
def test_what_may_be_secret_in_a_url_is_hidden(url: str, shown: str) -> None:
    assert hide_secrets(url) == shown


@pytest.mark.parametrize(
    "url", ["hooks.slack.com/x", "ftp://host/x", "http://", "http://[x", "http://h:99999/x"]
)
def test_a_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match=r"webhook: .*expected http"):
        NotifyConfig.parse({"webhook": url})


@pytest.fixture
def study(tiny_config: ExperimentConfig, tmp_path: Path) -> Study:
    tree = {
        "config": tiny_config.dump(),
        "space": {"optim.lr": {"loguniform": [1e-5, 1e-1]}},
        "search": {"trials": 2, "notify": {"webhook": f"https://host/{SECRET}"}},
    }
    write_atomic(tmp_path / "s.yaml", write_yaml(tree))
    return load_study(tmp_path / "s.yaml")


def test_the_run_folder_has_no_secret_and_notify_may_change_at_a_resume(
    study: Study, run: SearchDir
) -> None:
    prepare_study(run, study.without_secrets())
    assert SECRET not in run.study.read_text()
    assert load_study(run.study).search.notify.webhook == "https://host/***"
    changes = {"notify.webhook": None, "notify.command": "true", "notify.events": ["end"]}
    other = load_study(run.study, search={**changes, "notify.unhealthy_share": 0.5})
    prepare_study(run, other, resume=True)
    assert load_study(run.study).search.notify.command == "true"


def test_many_unhealthy_trials_are_told_once() -> None:
    share = UnhealthyShare(0.4)
    states = ["unhealthy", "failed", "completed", "pruned", "interrupted", "paused", "unhealthy"]
    notices = [share.ended(number, state) for number, state in enumerate(states)]
    assert [number for number, notice in enumerate(notices) if notice] == [5]
    assert notices[5].sentence.startswith("2 of 5 trials have ended unhealthy or failed")
