"""Alert rules and dashboard are sound for their own tools, and ask only for metrics there are."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from coordinator.admin import metrics
from coordinator.admin.overview import Overview
from coordinator.authority import Authority
from coordinator.config import Config, Gateway
from coordinator.configfile import load
from coordinator.listeners import Listeners
from coordinator.reception import Reception
from coordinator.store import Store, redis_url
from coordinator.workforce import Workforce

DEPLOY = Path(__file__).parents[2] / "deploy"


@pytest.fixture
def known(tmp_path: Path) -> set[str]:
    """The names that a gateway shows at /metrics."""
    config = Config(gateway=Gateway(domains=("a.example",), state_dir=str(tmp_path)))
    overview = Overview(
        config,
        Listeners(),
        Workforce(1, tmp_path, [], [], lambda slot, code: None),
        Reception(tmp_path, Authority(tmp_path)),
        Store(redis_url(config)),
    )
    return set(re.findall(r"^# TYPE (\w+)", metrics.render(overview), re.MULTILINE))


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((DEPLOY / "alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def expressions() -> Iterator[str]:
    yield from (rule["expr"] for rule in rules())
    dashboard = json.loads((DEPLOY / "grafana" / "fedgate.json").read_text())
    for panel in dashboard["panels"]:
        yield from (target["expr"] for target in panel["targets"])
    yield from (variable["query"] for variable in dashboard["templating"]["list"])


def test_prometheus_accepts_the_rules_and_the_configuration() -> None:
    for kind, name in (("rules", "alerts.yml"), ("config", "prometheus.yml")):
        done = subprocess.run(
            ["promtool", "check", kind, DEPLOY / name], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_every_expression_asks_for_metrics_that_exist(known: set[str]) -> None:
    asked = {name for text in expressions() for name in re.findall(r"\bfedgate_\w+", text)}
    assert len(asked) > 15
    assert asked <= known


def test_every_alert_says_what_to_do() -> None:
    for rule in rules():
        assert rule["alert"].startswith("Fedgate")
        assert rule["annotations"]["summary"] and rule["annotations"]["action"], rule["alert"]
        assert rule["labels"]["severity"] in ("warning", "critical")


def test_thresholds_are_those_of_the_defaults() -> None:
    config = load(str(DEPLOY / "fedgate.toml"))
    by_name = {rule["alert"]: rule["expr"] for rule in rules()}
    assert str(config.journal.max_bytes) in by_name["FedgateJournalFull"]
    assert str(config.gateway.max_worker_rss) in by_name["FedgateMemoryGrows"]


def test_panels_stand_side_by_side_and_show_the_one_source() -> None:
    panels = json.loads((DEPLOY / "grafana" / "fedgate.json").read_text())["panels"]
    source = yaml.safe_load((DEPLOY / "grafana" / "datasource.yml").read_text())["datasources"][0]
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not taken & cells and place["x"] + place["w"] <= 24, panel["title"]
        taken |= cells
        assert panel["datasource"]["uid"] == source["uid"]
