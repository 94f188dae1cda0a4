"""A real search tells a real server that it pauses and that it has ended, and leaks no secret."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from segtune.api import run_study
from segtune.config.schema import ExperimentConfig
from segtune.config.yaml_io import write_yaml
from segtune.tuning.study_reader import load_study

pytestmark = [pytest.mark.ray, pytest.mark.slow]

SECRET = "T0ken-of-the-team"


@pytest.fixture
def received() -> Iterator[tuple[str, list[dict]]]:
    """The URL of a server, and the list of what it receives."""
    notices: list[dict] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = int(self.headers["Content-Length"])
            notices.append({"path": self.path, **json.loads(self.rfile.read(length))})
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/{SECRET}", notices
        server.shutdown()
        thread.join()


def test_a_pause_and_the_end_are_told(
    cluster: None,
    received: tuple[str, list[dict]],
    tiny_config: ExperimentConfig,
    tmp_path: Path,
) -> None:
    url, notices = received
    diverging = {"optim.name": "sgd", "optim.lr": 1e6, "optim.clip_norm": None}
    tree = {
        "config": tiny_config.override(diverging).dump(),
        "space": {"optim.lr": {"loguniform": [1e6, 1e8]}},
        "search": {
            "trials": 4,
            "sampler": "random",
            "scheduler": "none",
            "corner_steps": 0,
            "max_concurrent": 1,
            "breaker": {"first": 2},
            "notify": {"webhook": url, "unhealthy_share": 0.5},
        },
    }
    (tmp_path / "s.yaml").write_text(write_yaml(tree))
    study = load_study(tmp_path / "s.yaml")
    result = run_study(study, tmp_path, "a")
    assert result.interrupted
    assert [notice["event"] for notice in notices] == ["pause"]
    assert "all of the first 2 trials have ended as" in notices[0]["text"]
    assert (notices[0]["path"], notices[0]["ended"], notices[0]["unhealthy"]) == (
        f"/{SECRET}",
        2,
        2,
    )

    run_study(study, tmp_path, "a", resume=True)
    assert [notice["event"] for notice in notices] == ["pause", "end"]
    assert notices[1]["text"] == "segtune: a: the search has ended without a winner"
    files = [path for path in (tmp_path / "a").rglob("*") if path.is_file()]
    assert any("ray" in path.parts for path in files)
    assert [path for path in files if SECRET.encode() in path.read_bytes()] == []
