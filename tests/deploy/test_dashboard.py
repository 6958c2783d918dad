"""The dashboard and the exporter's mapping, compared with the metrics of the package."""

from __future__ import annotations

import json
import re
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
import yaml

from zoho_crm.telemetry import METRICS, Kind, Metric

DEPLOY = Path(__file__).parents[2] / "deploy"
MAPPINGS: list[dict[str, Any]] = yaml.safe_load((DEPLOY / "statsd-mapping.yaml").read_text())["mappings"]
DASHBOARD: dict[str, Any] = json.loads((DEPLOY / "grafana" / "zoho-delinks.json").read_text())
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
EXPRESSIONS = [target["expr"] for panel in PANELS for target in panel["targets"]]

_MATCHED_TYPE = {Kind.COUNTER: "counter", Kind.GAUGE: "gauge", Kind.TIMER: "observer"}
_SERIES = re.compile(r"(zoho_crm_\w+)(?:\{([^}]*)\})?")
_GROUPED = re.compile(r"(?:by|without) \(([^)]*)\)")
_LEGEND = re.compile(r"\{\{(\w+)\}\}")


def mapping_of(metric: Metric) -> dict[str, Any]:
    """Return the first match, like the exporter; `*` matches one part of a dotted name."""
    name = f"airflow.{metric.name}"
    (mapping, *_) = [
        one
        for one in MAPPINGS
        if fnmatchcase(name, one["match"]) and one["match"].count(".") == name.count(".")
    ]
    return mapping


def exported() -> dict[str, Metric]:
    """Return the metric of each Prometheus series."""
    found = {}
    for metric in METRICS:
        name = mapping_of(metric)["name"]
        ends = ("_bucket", "_count", "_sum") if metric.kind is Kind.TIMER else ("",)
        found.update({name + end: metric for end in ends})
    return found


def test_each_metric_has_one_mapping_of_its_type_and_each_mapping_a_metric() -> None:
    assert [one["match"] for one in MAPPINGS] == [f"*.{metric.name}" for metric in METRICS]
    for metric in METRICS:
        assert mapping_of(metric)["match_metric_type"] == _MATCHED_TYPE[metric.kind], metric.name
    assert len({one["name"] for one in MAPPINGS}) == len(MAPPINGS)


def test_names_follow_the_conventions_of_prometheus() -> None:
    for metric in METRICS:
        mapping = mapping_of(metric)
        assert mapping["name"].endswith("_total") == (metric.kind is Kind.COUNTER)
        assert mapping["name"].endswith("_seconds") == (metric.kind is Kind.TIMER)
        assert {"job", "instance", "le", "quantile"}.isdisjoint(metric.tags)
        if metric.kind is Kind.TIMER:
            buckets = mapping["histogram_options"]["buckets"]
            assert mapping["observer_type"] == "histogram"
            assert buckets == sorted(set(buckets))


def test_panels_show_exactly_the_emitted_metrics() -> None:
    shown = {name for expr in EXPRESSIONS for name, _ in _SERIES.findall(expr)}
    assert shown <= exported().keys()
    assert {exported()[name] for name in shown} == set(METRICS)


@pytest.mark.parametrize("panel", PANELS, ids=[panel["title"] for panel in PANELS])
def test_panel_uses_only_tags_of_its_metric(panel: dict[str, Any]) -> None:
    for target in panel["targets"]:
        expr = target["expr"]
        ((name, matchers),) = _SERIES.findall(expr)
        tags = {*exported()[name].tags, "le"}
        used_tags = re.findall(r"(\w+)=", matchers)
        for group in _GROUPED.findall(expr):
            used_tags += group.split(", ")
        assert used_tags
        assert set(used_tags) <= tags
        assert set(_LEGEND.findall(target["legendFormat"])) <= tags
        assert name.endswith(("_total", "_bucket", "_count", "_sum")) == (
            "rate(" in expr or "increase(" in expr
        )


def test_dashboard_has_the_fields_grafana_needs() -> None:
    assert (DASHBOARD["uid"], DASHBOARD["id"]) == ("zoho-delinks", None)
    assert DASHBOARD["schemaVersion"] >= 39
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    variables = {one["name"]: one for one in DASHBOARD["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    used = set(re.findall(r"\$(\w+)", " ".join(EXPRESSIONS)))
    assert used - {"__range", "__rate_interval"} == variables.keys() - {"datasource"}
    for one in variables.values():
        series = [name for name, _ in _SERIES.findall(str(one["query"]))]
        assert set(series) <= exported().keys()
    for panel in PANELS:
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["description"], panel["title"]
        assert {target["datasource"]["uid"] for target in panel["targets"]} == {"${datasource}"}
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])


def test_panels_fill_the_width_and_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in PANELS:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells
    assert {x for x, _ in taken} == set(range(24))
    assert len(taken) == 24 * len({y for _, y in taken})
