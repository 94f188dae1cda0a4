"""The numbers of a running search that Prometheus can read, and the dashboard that shows them."""

import json
import re
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from prometheus_client.parser import text_string_to_metric_families
from shipped import ROOT

from segtune.api import run_study
from segtune.cluster.ray_session import ray_connection
from segtune.config.schema import ExperimentConfig
from segtune.config.yaml_io import write_yaml
from segtune.tuning.study_reader import load_study

DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "segtune.json").read_text())
SOURCE = (ROOT / "segtune" / "cluster" / "live_metrics.py").read_text()
# Sample: labels and value.
Sample = tuple[dict[str, str], float]


@pytest.fixture
def fast_reports(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Start a Ray that collects metrics more often than every 10 s."""
    ray.shutdown()
    monkeypatch.setenv("RAY_metrics_report_interval_ms", "500")
    with ray_connection(None):
        yield


class Scraper(threading.Thread):
    """Reads the endpoint for Prometheus again and again; keeps the last sample of each series."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        (node,) = ray.nodes()
        self.url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
        self.samples: dict[str, dict[str, Sample]] = {}
        self.ended = threading.Event()

    def run(self) -> None:
        while not self.ended.wait(0.3):
            try:
                with urllib.request.urlopen(self.url, timeout=5) as answer:
                    text = answer.read().decode()
            except OSError:  # not ready
                continue
            for family in text_string_to_metric_families(text):
                for sample in family.samples:
                    if "segtune" in sample.name:
                        key = json.dumps(sample.labels, sort_keys=True)
                        kept = self.samples.setdefault(sample.name, {})
                        kept[key] = (sample.labels, sample.value)

    def values(self, name: str, **labels: str) -> list[float]:
        return [
            value
            for tags, value in self.samples.get(name, {}).values()
            if labels.items() <= tags.items()
        ]


@pytest.mark.ray
@pytest.mark.slow
def test_running_search_can_be_read_by_prometheus(
    fast_reports: None, tiny_config: ExperimentConfig, tmp_path: Path
) -> None:
    tree = {
        "config": tiny_config.override({"schedule.epochs": 8}).dump(),
        "space": {"optim.lr": {"loguniform": [1e-4, 1e-2]}},
        "search": {
            "trials": 2,
            "scheduler": "none",
            "sampler": "random",
            "corner_steps": 0,
            "max_concurrent": 1,
        },
    }
    (tmp_path / "s.yaml").write_text(write_yaml(tree))
    scraper = Scraper()
    scraper.start()
    result = run_study(load_study(tmp_path / "s.yaml"), tmp_path, "watched")
    _wait_for(scraper, "ray_segtune_trials", state="completed", value=2.0)
    scraper.ended.set()
    scraper.join()
    assert result.best
    tags = {"study": "watched", "run": str(tmp_path / "watched")}
    assert scraper.values("ray_segtune_best_miou", **tags) == [pytest.approx(result.best.miou)]
    assert scraper.values("ray_segtune_trials_planned", **tags) == [2.0]
    assert scraper.values("ray_segtune_workers", **tags) == [1.0]
    assert scraper.values("ray_segtune_trials", state="failed", **tags) == [0.0]
    for trial in ("0000", "0001"):
        assert 0 < scraper.values("ray_segtune_trial_miou", trial=trial, **tags)[0] < 1
        assert scraper.values("ray_segtune_trial_epoch", trial=trial, **tags) == [8.0]
    epochs = sum(scraper.values("ray_segtune_epochs_total", **tags))
    assert 8 <= epochs <= 16  # the last ones may have been after the last report of the process
    assert sum(scraper.values("ray_segtune_images_total", **tags)) == 24 * epochs
    assert sum(scraper.values("ray_segtune_busy_seconds_total", **tags)) > 0
    assert _names_in(DASHBOARD) <= set(scraper.samples)


def _wait_for(scraper: Scraper, name: str, *, value: float, **labels: str) -> None:
    for _ in range(200):
        if value in scraper.values(name, **labels):
            return
        scraper.ended.wait(0.3)
    raise AssertionError(scraper.samples)


def _panels(node: dict[str, Any]) -> list[dict[str, Any]]:
    return [panel for panel in node["panels"] if panel["type"] != "row"]


def _names_in(dashboard: dict[str, Any]) -> set[str]:
    queries = [target["expr"] for panel in _panels(dashboard) for target in panel["targets"]]
    return {name for query in queries for name in re.findall(r"ray_segtune_\w+", query)}


def test_dashboard_shows_every_metric_that_is_exported_and_no_other() -> None:
    gauges = set(re.findall(r"_gauge\(\s*\"(\w+)\"", SOURCE))
    counters = set(re.findall(r"_counter\(\s*\"(\w+)\"", SOURCE))
    expected = {f"ray_{name}" for name in gauges} | {f"ray_{name}_total" for name in counters}
    assert len(expected) == 9
    assert _names_in(DASHBOARD) == expected


def test_dashboard_has_the_structure_that_grafana_imports() -> None:
    assert DASHBOARD["schemaVersion"] >= 36
    assert DASHBOARD["title"] == "segtune"
    assert DASHBOARD["uid"] == "segtune"
    assert "id" not in DASHBOARD  # Grafana gives it one
    variables = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
    assert set(variables) == {"datasource", "study", "run"}
    assert variables["datasource"]["type"] == "datasource"
    assert variables["run"]["query"]["query"].startswith("label_values(ray_segtune_trials_planned")
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
    for panel in _panels(DASHBOARD):
        assert panel["title"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert {"x", "y", "w", "h"} == set(panel["gridPos"])
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24
        assert all('run=~"$run"' in target["expr"] for target in panel["targets"])
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])


def test_panels_do_not_overlap() -> None:
    cells: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        own = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not own & cells, panel["title"]
        cells |= own
