from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from tests.support.releases import NoStatsLogger, SafeOtelLogger, set_stats_backend
from tests.support.statsd import Sample
from zoho_crm import telemetry
from zoho_crm.core.links import Relation
from zoho_crm.core.outcomes import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.statsd import StatsdServer

DOCS = Path(__file__).parents[3] / "docs" / "monitoring.md"
RELATION = Relation("Contacts", "External_Contact_ID", "Deals", "Deals", "External_Deal_ID")
OUTSIDE = "nightly, of=Ünïcode; and much longer than the usual name of a Dag that should be found again"
JOB = "nightly__of__n_code__and_much_longer_than_the_usua"


def measure_everything() -> None:
    """Measure each metric once, for a job with an unusual name."""
    telemetry.count_links(
        {Outcome.REMOVED: 3, Outcome.FAILED: 0},
        job=OUTSIDE,
        relation=RELATION,
        operation="delink",
        dry_run=False,
    )
    telemetry.time_request("zoho:one", "DELETE", 200, 0.125)
    telemetry.count_throttled("zoho:one", credits_used_up=True)
    telemetry.set_credits_remaining("zoho:one", 4_711)
    telemetry.set_slots_leased("zoho:one", 7, 10)
    telemetry.count_token_refresh("zoho:one", "ok")
    telemetry.count_run(OUTSIDE, "delink", "succeeded", dry_run=True)


ONE = {"connection": "zoho_one"}
LINKS = {"delink_job": JOB, "relation": "Contacts.Deals", "operation": "delink", "outcome": "removed"}
EXPECTED = [
    Sample("zoho_crm.links", "counter", 3, {**LINKS, "dry_run": "false"}),
    Sample("zoho_crm.request", "timer", 125, {**ONE, "method": "DELETE", "status": "200"}),
    Sample("zoho_crm.throttled", "counter", 1, {**ONE, "kind": "credits"}),
    Sample("zoho_crm.credits_remaining", "gauge", 4_711, ONE),
    Sample("zoho_crm.in_flight", "gauge", 7, ONE),
    Sample("zoho_crm.in_flight_limit", "gauge", 10, ONE),
    Sample("zoho_crm.token_refreshes", "counter", 1, {**ONE, "result": "ok"}),
    Sample(
        "zoho_crm.runs",
        "counter",
        1,
        {"delink_job": JOB, "operation": "delink", "status": "succeeded", "dry_run": "true"},
    ),
]


def test_every_metric_reaches_statsd_with_its_tags_whatever_a_job_is_called(statsd: StatsdServer) -> None:
    measure_everything()
    statsd.until(lambda: len(statsd.samples()) == len(EXPECTED))
    assert statsd.samples() == EXPECTED


def test_all_metrics_are_emitted_with_the_kinds_and_tags_of_the_list() -> None:
    reported = {one.name: (one.kind, tuple(one.tags)) for one in EXPECTED}
    assert reported == {metric.name: (metric.kind.value, metric.tags) for metric in telemetry.METRICS}


@pytest.fixture
def otel() -> Iterator[InMemoryMetricReader]:
    """Airflow's own metrics on OpenTelemetry, kept in memory."""
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    set_stats_backend(lambda: SafeOtelLogger(provider))
    yield reader
    set_stats_backend(NoStatsLogger)
    provider.shutdown()


def test_every_metric_reaches_opentelemetry_with_the_same_values(otel: InMemoryMetricReader) -> None:
    measure_everything()
    data: Any = otel.get_metrics_data()
    points = {
        metric.name: point
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        for point in metric.data.data_points
    }
    reported = {name: getattr(point, "sum", None) or point.value for name, point in points.items()}
    assert reported == {f"airflow.{one.name}": one.value for one in EXPECTED}
    assert {name: dict(point.attributes) for name, point in points.items()} == {
        f"airflow.{one.name}": one.tags for one in EXPECTED
    }


def test_a_backend_that_raises_does_no_harm_and_is_logged_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken:
        def __getattr__(self, name: str) -> Any:
            raise ZeroDivisionError("c-00001")

    monkeypatch.setattr(telemetry, "_warned", set())
    set_stats_backend(Broken)
    with caplog.at_level("WARNING"):
        measure_everything()
    set_stats_backend(NoStatsLogger)
    assert [record.getMessage() for record in caplog.records] == [
        "Metrics not written: error=ZeroDivisionError"
    ]


def test_the_document_lists_every_metric() -> None:
    rows = [
        [cell.strip().strip("`") for cell in line.strip("| ").split("|")]
        for line in DOCS.read_text().splitlines()
        if line.startswith("| `zoho_crm.")
    ]
    listed = [(row[0], row[1], row[2], row[3].replace("`", "")) for row in rows]
    assert listed == [
        (metric.name, metric.kind.value, metric.unit, ", ".join(metric.tags)) for metric in telemetry.METRICS
    ]
