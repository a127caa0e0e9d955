"""Alerts and dashboard of docs/operate: every metric they ask for is one that a running gateway or worker serves, and
Prometheus's own promtool reads them and plays the alerts."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.requirements import requires_tools
from tests.tiny_swarm import TinySwarm

pytestmark = pytest.mark.timeout(300)

OPERATE = Path(__file__).parents[2] / "docs" / "operate"
STORIES = Path(__file__).parent / "alerts_test.yml"
UNITS = {"short", "percentunit", "reqps", "ops", "s", "bytes"}
"""Of Grafana, those that are used."""

PROMETHEUS_OWN = {"up"}
"""Made by Prometheus for each target."""

KEYWORDS = {"and", "or", "unless", "bool", "offset"}


@pytest.fixture(scope="module")
def exported(tiny_swarm: TinySwarm) -> set[str]:
    """The names of all series that a gateway and a worker serve."""
    pages = [f"{tiny_swarm.url}/metrics", tiny_swarm.workers[0].ready.metrics or ""]
    return {name for page in pages for name in series_of(httpx.get(page, timeout=30).raise_for_status().text)}


def test_alerts_ask_for_metrics_that_exist(exported: set[str]) -> None:
    for rule in rules():
        assert metrics_in(rule["expr"]), rule["alert"]
        assert metrics_in(rule["expr"]) <= exported | PROMETHEUS_OWN, rule["alert"]
        assert set(rule["annotations"]) == {"summary", "description"}, "what is wrong, and what to do"


def test_the_dashboard_asks_for_metrics_that_exist(exported: set[str]) -> None:
    for panel, expression in expressions():
        assert metrics_in(expression), panel["title"]
        assert metrics_in(expression) <= exported | PROMETHEUS_OWN, panel["title"]
    for variable in dashboard()["templating"]["list"]:
        if variable["type"] == "query":
            asked = re.fullmatch(r"label_values\((\w+), instance\)", variable["query"]["query"])
            assert asked is not None
            assert asked[1] in exported


def test_the_dashboards_panels_say_what_they_show() -> None:
    """Each has a title, a unit and a description, its data from the variable, and a place of its own."""
    shown = dashboard()
    assert shown["templating"]["list"][0] == shown["templating"]["list"][0] | {
        "name": "datasource",
        "type": "datasource",
    }
    taken: set[tuple[int, int]] = set()
    for panel in shown["panels"]:
        assert panel["title"], panel
        assert panel["description"], panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"] in UNITS, panel["title"]
        for asks in (panel, *panel["targets"]):
            assert asks["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24, panel["title"]
        taken |= cells
    assert len({panel["id"] for panel in shown["panels"]}) == len(shown["panels"])


def test_promtool_reads_all_of_it(tmp_path: Path) -> None:
    requires_tools("promtool")
    (tmp_path / "alerts.yml").write_text((OPERATE / "alerts.yml").read_text(encoding="utf-8"))
    (tmp_path / "prometheus.yml").write_text((OPERATE / "prometheus.yml").read_text(encoding="utf-8"))
    _promtool("check", "config", tmp_path / "prometheus.yml")
    recorded = [{"record": f"panel_{number}", "expr": asked} for number, (_, asked) in enumerate(expressions())]
    queries = {"groups": [{"name": "dashboard", "rules": recorded}]}
    (tmp_path / "dashboard.yml").write_text(yaml.safe_dump(queries))
    _promtool("check", "rules", tmp_path / "dashboard.yml")


def test_promtool_plays_the_alerts(tmp_path: Path) -> None:
    requires_tools("promtool")
    stories = STORIES.read_text(encoding="utf-8").replace("RULES", str(OPERATE / "alerts.yml"))
    (tmp_path / "stories.yml").write_text(stories)
    _promtool("test", "rules", tmp_path / "stories.yml")


def test_metrics_are_found_in_expressions() -> None:
    ratio = 'sum by (instance) (rate(a_total{b!~"|c"}[5m])) / on (instance) d_count > 0.5 and up{job="e"} == 1'
    assert metrics_in(ratio) == {"a_total", "d_count", "up"}
    assert metrics_in("histogram_quantile(0.95, sum by (le) (rate(f_bucket[5m])))") == {"f_bucket"}


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((OPERATE / "alerts.yml").read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def dashboard() -> dict[str, Any]:
    read: dict[str, Any] = json.loads((OPERATE / "grafana.json").read_text(encoding="utf-8"))
    return read


def expressions() -> Iterator[tuple[dict[str, Any], str]]:
    """Each panel of the dashboard with each of its queries, the variables filled in."""
    for panel in dashboard()["panels"]:
        for target in panel["targets"]:
            expression = target["expr"].replace("$__rate_interval", "5m").replace("$gateway", ".+")
            yield panel, expression.replace("$worker", ".+")


def series_of(page: str) -> Iterator[str]:
    """The series of a page in Prometheus's text format, also those that have no sample yet."""
    for name, kind in re.findall(r"^# TYPE (\S+) (\S+)$", page, re.MULTILINE):
        yield from (f"{name}_{end}" for end in ("bucket", "sum", "count")) if kind == "histogram" else (name,)


def metrics_in(expression: str) -> set[str]:
    """What a PromQL expression asks for: names that are no functions, labels or words of the language."""
    text = re.sub(r'"[^"]*"', "", expression)
    text = re.sub(r"\{[^}]*\}|\[[^\]]*\]", " ", text)
    text = re.sub(r"\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)", " ", text)
    return set(re.findall(r"\b[a-zA-Z_:][\w:]*\b(?!\s*\()", text)) - KEYWORDS - {"sum"}


def _promtool(*arguments: object) -> None:
    done = subprocess.run(["promtool", *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
