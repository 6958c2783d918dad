"""The content of the pages, and what they leave out."""

from __future__ import annotations

import html
import json
import re
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
import yaml

from tests.plugins.zoho_crm.ui.conftest import DAG_ID, RELATION, RUN_ID, SCRIPT
from tests.support.ledger import JOB, MOMENT, ORIGIN, TARGET
from zoho_crm import airflow_compat
from zoho_crm.airflow_compat import DagRunEnding, GivenResponse
from zoho_crm.core.approval import question_digest
from zoho_crm.core.links import pair_key
from zoho_crm.core.outcomes import DELINK_OUTCOMES, RELINK_OUTCOMES, Outcome
from zoho_crm.core.relink_request import RelinkFilter
from zoho_crm.core.run_request import RELINK_DAG_ID, RETRY_DAG_ID
from zoho_crm.ledger import link_queries
from zoho_crm.ledger.tables import runs
from zoho_crm.ui.audit_databases import AuditDatabases
from zoho_crm.ui.rendering import OUTCOME_COLUMNS, STATIC

if TYPE_CHECKING:
    from pathlib import Path

    from tests.plugins.zoho_crm.ui.conftest import Pages

# Airflow's API server imports deprecated names.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:Using `httpx`")

LINKS: list[tuple[object, object]] = [(f"c-{number:02}", f"d-{number:02}") for number in range(12)]
ALL_REMOVED = {(f"c-{number:02}", f"d-{number:02}"): Outcome.REMOVED for number in range(12)}


def ids(text: str) -> list[str]:
    """The external ids of a page's table of links."""
    return re.findall(r'<th scope="row"><a href="/links/[0-9a-f]{64}">([^<]*)</a>', text)


@pytest.mark.parametrize(
    ("automatic", "label"),
    [("dry_run", "automatic runs: dry run"), ("apply", "automatic runs: remove links")],
)
def test_overview_says_what_automatic_runs_of_a_job_do(
    pages: Pages, jobs_copy: Path, automatic: str, label: str
):
    set_automatic(jobs_copy, automatic)
    pages.store(LINKS[:1], finished="succeeded")
    assert label in pages.client.get("/").text


@pytest.mark.parametrize(
    ("automatic", "run_type", "mode", "shown"),
    [
        ("dry_run", "scheduled", "dry_run", True),
        ("dry_run", "backfill", "dry_run", True),
        ("dry_run", "manual", "dry_run", False),
        ("apply", "scheduled", "dry_run", False),
        ("dry_run", "scheduled", "apply", False),
    ],
)
def test_page_of_an_automatic_dry_run_says_how_to_make_such_runs_remove_links(
    pages: Pages, jobs_copy: Path, automatic: str, run_type: str, mode: str, shown: bool
):
    set_automatic(jobs_copy, automatic)
    pages.store(LINKS[:1], run_type=run_type, mode=mode, finished="succeeded")
    assert ("<code>automatic: apply</code>" in pages.client.get(pages.run()).text) is shown


def test_page_of_a_dry_run_says_to_keep_its_window(pages: Pages):
    day = datetime(2026, 6, 30, tzinfo=UTC)
    for run_id, start in (("of-a-day", day), ("of-everything", datetime(1970, 1, 1, tzinfo=UTC))):
        window = {"window_start": start, "window_end": day + timedelta(days=1)}
        pages.store(LINKS[:1], run_key=run_id, run_id=run_id, mode="dry_run", finished="succeeded", **window)
    of_a_day, of_everything = (
        pages.client.get(f"/dags/{DAG_ID}/runs/{run_id}").text for run_id in ("of-a-day", "of-everything")
    )
    assert "in mode <b>apply</b>, with the window of this run." in of_a_day
    assert "in mode <b>apply</b>." in of_everything


def test_page_of_a_dry_run_without_links_does_not_say_how_to_remove_them(pages: Pages):
    pages.store([], run_key="empty", run_id="empty", mode="dry_run", finished="failed")
    assert "in mode <b>apply</b>" not in pages.client.get(f"/dags/{DAG_ID}/runs/empty").text


def test_page_says_where_the_source_was_read_from_if_that_is_not_the_window(pages: Pages):
    start = datetime(2026, 6, 30, tzinfo=UTC)
    window = {"window_start": start, "window_end": start + timedelta(days=1)}
    pages.store(LINKS[:1], run_key="late", run_id="late", source_start=start - timedelta(hours=6), **window)
    pages.store(LINKS[:1], run_key="plain", run_id="plain", source_start=start, **window)
    late, plain = (pages.client.get(f"/dags/{DAG_ID}/runs/{run_id}").text for run_id in ("late", "plain"))
    assert "Source read from (UTC)" in late
    assert "2026-06-29 18:00:00" in late
    assert "Source read from" not in plain


def test_page_of_a_run_shows_what_was_decided_and_from_which_job_file_and_sql(pages: Pages):
    texts = {"job_file": "automatic: apply\n", "source.sql_file": "SELECT '<b>'"}
    pages.store(LINKS[:1], run_key="decided", run_id="decided", reason="of July", texts=texts)
    text = pages.client.get(f"/dags/{DAG_ID}/runs/decided").text
    assert "What was decided, by whom and when" in text
    assert re.search(r"<td>opened</td><td>[^<]*of July</td>", text)
    assert re.search(r"<td>planned</td><td>1 planned</td>", text)
    assert "Job file, as the run used it</summary><pre>automatic: apply\n</pre>" in text
    assert "source.sql_file, as the run used it</summary><pre>SELECT &#39;&lt;b&gt;&#39;</pre>" in text


def set_automatic(jobs: Path, automatic: str) -> None:
    file = jobs / f"{JOB}.yaml"
    file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text()), "automatic": automatic}))


@pytest.mark.parametrize("operation", ["delink", "relink"])
def test_columns_of_a_run_with_every_outcome_add_up_to_the_planned_links(pages: Pages, operation: str):
    possible = DELINK_OUTCOMES if operation == "delink" else RELINK_OUTCOMES
    # Of a different number of links each, so that no column can stand for another.
    outcomes = {
        (f"c-{place:02}-{number:02}", "d"): outcome
        for place, outcome in enumerate(possible)
        if outcome is not Outcome.INVALID
        for number in range(place + 1)
    }
    invalid: list[tuple[object, object]] = [(".", f"d-{number}") for number in range(3)]
    pages.store(
        [*outcomes, *invalid], outcomes, finished="failed", chunk_size=200, target={"operation": operation}
    )

    page = pages.client.get("/").text

    header = re.search(r"<thead>(.*?)</thead>", page[page.index('<table class="runs">') :], re.DOTALL)[1]  # type: ignore[index]
    names = re.findall(r"<th[^>]*>([^<]*)</th>", header)
    row = page[page.index("</thead>", page.index('<table class="runs">')) :]
    cells = re.findall(r'<td class="number[^"]*">([^<]*)</td>', row)
    counts = dict(zip(names[names.index("Planned") :], cells, strict=True))
    planned = int(counts.pop("Planned").replace("\u202f", ""))
    assert planned == len(outcomes) + len(invalid)
    for name in ("Duration", "API credits"):
        del counts[name]
    assert sum(0 if text == "–" else int(text) for text in counts.values()) == planned  # noqa: RUF001
    assert {name for column in OUTCOME_COLUMNS.values() for name in column} == set(Outcome)


def test_run_that_succeeded_without_finding_records_needs_attention(pages: Pages):
    pages.store(LINKS, dict.fromkeys(ALL_REMOVED, Outcome.PARENT_NOT_FOUND), finished="succeeded")

    for address in ("/", pages.run()):
        page = pages.client.get(address).text
        assert "succeeded, needs attention" in page
        assert "12 of 12 links without a record in Zoho" in page


def test_bar_shows_kinds_of_outcomes_and_says_them(pages: Pages):
    outcomes = {**ALL_REMOVED, ("c-00", "d-00"): Outcome.FAILED, ("c-01", "d-01"): Outcome.RELATED_NOT_FOUND}
    del outcomes["c-11", "d-11"]
    pages.store(LINKS, outcomes, chunk_size=20)

    page = pages.client.get(pages.run()).text

    assert 'aria-label="9 done, 1 not found or invalid, 1 failed or unknown, 1 remaining"' in page
    widths = re.findall(r'data-kind="([^"]*)"[^>]* width="([^"]*)"', page)
    assert dict(widths) == {
        "done": "75.0",
        "would change": "0.0",
        "nothing to do": "0.0",
        "not found or invalid": "8.33",
        "rejected": "0.0",
        "failed or unknown": "8.33",
        "remaining": "8.33",
    }


def test_overview_lists_runs_newest_first_with_counts(pages: Pages):
    pages.store(LINKS, ALL_REMOVED, run_key="first", run_id="one", finished="succeeded")
    pages.store(LINKS[:3], run_key="second", run_id="two", mode="dry_run", reason="a try")
    started = datetime.now(UTC) - timedelta(hours=1)
    with pages.ledger.engine.begin() as connection:
        connection.execute(sa.update(runs).where(runs.c.run_key == "first").values(started_at=started))

    page = pages.client.get("/")

    assert page.status_code == 200
    rows = re.findall(r"runs/(one|two)\?job=contacts_deals", page.text)
    assert rows == ["two", "one"]
    assert "dry run" in page.text
    chart = json.loads(
        re.search(r'data-chart="([^"]*)"', page.text)[1].replace("&#34;", '"')  # type: ignore[index]
    )
    (removed,) = chart["series"]
    assert removed["outcome"] == "removed"
    assert dict(zip(chart["days"], removed["counts"], strict=True))[f"{started:%Y-%m-%d}"] == 12
    assert (len(chart["days"]), sum(removed["counts"])) == (30, 12)


@pytest.mark.parametrize(
    ("query", "shown"),
    [
        ("search=campaigns_L", ["two"]),
        ("search=ONE", ["one"]),
        ("search=%25", []),
        ("job=contacts_deals", ["one"]),
        ("job=campaigns_leads", ["two"]),
        ("status=failed", ["two"]),
        ("status=succeeded", ["one"]),
        ("status=succeeded%2C+needs+attention", []),
        ("mode=dry_run", []),
        ("operation=relink", []),
        ("since=2020-01-01", ["one", "two"]),
        ("until=2020-01-01", []),
        ("job=unknown", []),
    ],
)
def test_overview_filters(pages: Pages, query: str, shown: list[str]):
    pages.store(LINKS, ALL_REMOVED, run_key="first", run_id="one", finished="succeeded")
    pages.store(LINKS, ALL_REMOVED, run_key="second", run_id="two", finished="failed", job="campaigns_leads")

    page = pages.client.get(f"/?{query}").text

    listed = page.partition('<table class="runs">')[2]
    assert sorted(re.findall(r'<th scope="row"><a href="[^"]*runs/(one|two)\?job=', listed)) == shown


def test_overview_of_a_job_shows_its_schedule_and_last_run(pages: Pages):
    pages.store(LINKS, ALL_REMOVED, run_key="first", run_id="one", finished="succeeded")

    text = pages.client.get(f"/?job={JOB}&status=failed").text

    assert f"<h1>Job {JOB}</h1>" in text
    assert "<dt>Schedule</dt>" in text
    assert re.search(rf'<dt>Last run</dt><dd><a href="/dags/{DAG_ID}/runs/one\?job={JOB}">', text)
    assert "<dt>Schedule</dt>" not in pages.client.get("/").text


def test_trend_of_a_job_shows_the_links_of_each_applied_run(pages: Pages):
    failed: dict[tuple[str, str], Outcome] = {
        ("c-00", "d-00"): Outcome.FAILED,
        ("c-01", "d-01"): Outcome.UNKNOWN,
        ("c-02", "d-02"): Outcome.PARENT_NOT_FOUND,
    }
    first = {**ALL_REMOVED, **failed}
    pages.store(LINKS, first, run_key="1", run_id="one", chunk_size=20, finished="failed")
    pages.store(LINKS[:3], ALL_REMOVED, run_key="2", run_id="two", finished="succeeded")
    pages.store(LINKS[:5], run_key="3", run_id="dry", mode="dry_run", finished="succeeded")
    pages.store(LINKS[:6], ALL_REMOVED, run_key="4", run_id="unfinished")
    pages.store(LINKS[:7], ALL_REMOVED, run_key="5", run_id="other", job="campaigns_leads", finished="failed")
    start_in_order(pages, ["1", "2", "3", "4", "5"])

    text = pages.client.get(f"/?job={JOB}&status=stopped").text

    trend = text[text.index('id="trend"') : text.index('id="per-day"')]
    assert re.findall(r'role="img" aria-label="([^"]*)"', trend) == [
        "Removed: 3 in the last run, at most 9",
        "Not found: 0 in the last run, at most 1",
        "Failed or unknown: 0 in the last run, at most 2",
    ]
    assert re.findall(r'height="([0-9.]+)"><title>', trend) == ["20.0", "6.67", "20.0", "0", "20.0", "0"]
    rows = re.findall(r"runs/([a-z]+)\?.*?</a></th>(.*?)</tr>", trend)
    cells = {run_id: re.findall(r'<td class="number">(\d+)</td>', row) for run_id, row in rows}
    assert cells == {"two": ["3", "0", "0"], "one": ["9", "1", "2"]}


def test_trend_of_a_job_without_applied_runs_says_how_to_get_one(pages: Pages):
    pages.store(LINKS[:5], run_key="1", mode="dry_run", finished="succeeded")
    assert "No finished runs in mode apply yet." in pages.client.get(f"/?job={JOB}").text


def test_trend_of_a_job_ends_after_thirty_runs(pages: Pages):
    keys = [f"{number:02}" for number in range(33)]
    for key in keys:
        pages.store(LINKS[:1], ALL_REMOVED, run_key=key, run_id=f"run-{key}", finished="succeeded")
    start_in_order(pages, keys)

    text = pages.client.get(f"/?job={JOB}").text

    trend = text[text.index('id="trend"') : text.index('id="per-day"')]
    assert re.findall(r"runs/run-(\d+)\?", trend) == keys[:-31:-1]


@pytest.mark.parametrize(
    ("rows", "outcomes", "texts"),
    [
        (LINKS[:1], ALL_REMOVED, ["</b> link</span>", "</b> chunk</span>", "1 row, 0 duplicates"]),
        (LINKS[:2], ALL_REMOVED, ["</b> links</span>", "2 rows, 0 duplicates"]),
        ([], None, ["The source has no links for this run.", ">no links</p>"]),
    ],
)
def test_run_page_words_the_number_of_links(
    pages: Pages,
    rows: list[tuple[object, object]],
    outcomes: dict[tuple[str, str], Outcome],
    texts: list[str],
):
    pages.store(rows, outcomes, finished="succeeded")
    page = pages.client.get(pages.run()).text
    assert [text for text in texts if text not in page] == []
    assert ("Filter links" in page) is bool(rows)


def test_run_page_lists_what_the_run_did_first(pages: Pages):
    outcomes = {**ALL_REMOVED, ("c-00", "d-00"): Outcome.FAILED}
    relinked = {
        pair: Outcome.RELINKED if outcome is Outcome.REMOVED else outcome
        for pair, outcome in outcomes.items()
    }
    pages.store(LINKS, outcomes, chunk_size=20)
    pages.store(
        LINKS, relinked, run_key="relink", run_id="relink", chunk_size=20, target={"operation": "relink"}
    )
    for address, first in ((pages.run(), "removed"), (f"/dags/{DAG_ID}/runs/relink", "relinked")):
        listed = re.findall(r'<tr data-outcome="([a-z_]+)"', pages.client.get(address).text)
        assert listed[0] == first
        assert listed[-2:] == ["failed", "unknown"]


def test_run_that_waits_for_approval_says_so_in_the_list(pages: Pages):
    pages.store(LINKS)
    pages.ledger.runs.ask_approval("a-run", "digest", until=MOMENT)
    assert '<span class="status planned">waiting for approval</span>' in pages.client.get("/").text
    assert f'waiting until <time datetime="{MOMENT.isoformat()}' in pages.client.get(pages.run()).text


def test_list_of_runs_leaves_out_columns_without_links(pages: Pages):
    pages.store(LINKS[:2], {("c-00", "d-00"): Outcome.PARENT_NOT_FOUND}, finished="succeeded")
    listed = pages.client.get("/").text.partition('<table class="runs">')[2]
    shown = [name for name in OUTCOME_COLUMNS if f">{name}</th>" in listed]
    assert shown == ["Removed", "Not found", "Failed"]


def test_job_without_runs_says_how_to_get_one(pages: Pages):
    assert "No runs yet. Trigger the Dag of the job" in pages.client.get(f"/?job={JOB}").text
    assert "No runs match these filters." in pages.client.get(f"/?job={JOB}&status=failed").text


def start_in_order(pages: Pages, run_keys: list[str]) -> None:
    with pages.ledger.engine.begin() as connection:
        for place, key in enumerate(run_keys):
            started = MOMENT + timedelta(minutes=place)
            connection.execute(sa.update(runs).where(runs.c.run_key == key).values(started_at=started))


@pytest.mark.parametrize(
    "query",
    [
        f"search={'x' * 251}",
        "since=yesterday",
        "until=2026-13-01",
        "after=x",
        "after=2026-01-01~k",
        "days=8",
        "since=0001-01-01",
        "since=9999-12-31",
        "until=9999-12-31",
        "after=0001-01-01T00:00:00%2B14:00~k",
        "after=9999-12-31T23:59:59-14:00~k",
        "after=0001-01-02T00:00:00%2B00:00~k",
    ],
)
def test_overview_refuses_invalid_filters(pages: Pages, query: str):
    page = pages.client.get(f"/?{query}")

    assert page.status_code == 400
    assert "Page not available" in page.text


def test_overview_pages_have_each_run_once(pages: Pages):
    for number in range(120):
        pages.store([], run_key=f"run-{number:03}", run_id=f"id-{number:03}")
    # Some of them started at the same moment.
    with pages.ledger.engine.begin() as connection:
        connection.execute(
            sa.update(runs)
            .where(runs.c.run_key < "run-070")
            .values(started_at=datetime(2026, 1, 1, tzinfo=UTC))
        )
    seen: list[str] = []
    address = "/"
    while address:
        page = pages.client.get(address).text
        seen += re.findall(r"runs/(id-\d+)\?job=", page)
        found = re.search(r'href="(\?[^"]*)" rel="next"', page)
        address = "/" + found[1].replace("&amp;", "&") if found else ""

    assert len(seen) == 120
    assert len(set(seen)) == 120


def test_overview_hides_runs_that_the_user_may_not_read(pages: Pages):
    pages.store(LINKS, ALL_REMOVED, run_key="first", run_id="one", finished="succeeded")
    pages.store(LINKS, ALL_REMOVED, run_key="other", run_id="two", finished="failed", job="campaigns_leads")
    pages.store(LINKS, run_key="later", run_id="three", dag_id=RETRY_DAG_ID, job="campaigns_leads")
    pages.rights.refused.add(("GET", "zoho_delink__campaigns_leads"))

    page = pages.client.get("/").text

    assert re.findall(r"runs/(one|two|three)\?job=", page) == ["one"]
    assert "[12]" not in page
    assert pages.client.get(f"/dags/{RETRY_DAG_ID}/runs/three").status_code == 404


def test_run_page_shows_guard_approval_and_advice(pages: Pages):
    outcomes = dict(ALL_REMOVED) | {("c-03", "d-03"): Outcome.REJECTED}
    pages.store(
        [*LINKS, ("", "d-99")],
        outcomes,
        finished="partial",
        reason="clean up",
        response={"zoho_code": "RECORD_LOCKED", "zoho_message": "record is locked"},
    )
    pages.ledger.runs.record_guard("a-run", "passed: 13 links planned, 100 allowed")
    pages.ledger.runs.record_approval(
        "a-run", approval="approved", approved_by="anna", approved_at=datetime.now(UTC)
    )

    text = pages.client.get(pages.run()).text

    assert "passed: 13 links planned, 100 allowed" in text
    assert "approved, by anna" in text
    assert "clean up" in text
    assert "unlock it" in text
    assert "fix it in the source" in text
    assert "data-poll" not in text
    assert ids(text) == [*(each for each, _ in LINKS), "(blank)"]


def test_run_that_waits_for_approval_links_to_the_question(pages: Pages):
    pages.store(LINKS)
    pages.ledger.runs.ask_approval("a-run")

    page = pages.client.get(pages.run()).text

    assert f'href="/dags/{DAG_ID}/runs/scheduled__2026-07-01T00%3A00%3A00%2B00%3A00/required_actions"' in page


@pytest.mark.parametrize(("option", "decision"), [("Approve", "Approved"), ("Reject", "Rejected")])
def test_run_page_shows_a_response_before_the_task_has_stored_it(
    pages: Pages, monkeypatch: pytest.MonkeyPatch, option: str, decision: str
):
    pages.store(LINKS)
    pages.ledger.runs.ask_approval("a-run", question_digest("Remove them?", "13 links", ["7"], 20))
    stored: list[GivenResponse] = []
    monkeypatch.setattr(
        airflow_compat, "given_responses", lambda *run: stored if run == (DAG_ID, RUN_ID) else []
    )
    before = pages.client.get(f"{pages.run()}/progress").json()["shown"]
    at = datetime(2026, 7, 1, 8, 15, tzinfo=UTC)
    given = GivenResponse("Remove them?", "13 links", ["7"], 20, [option], at, {"id": "7", "name": "anna"})
    stored += [given._replace(max_tries=10, by={"id": "8", "name": "bob"}), given]

    text = pages.client.get(pages.run()).text

    assert f"{decision} by anna (7)" in text
    assert f"{decision.lower()}, by anna (7)" in text
    assert "2026-07-01T08:15:00" in text
    assert "bob" not in text
    assert "required_actions" not in text
    assert pages.client.get(f"{pages.run()}/progress").json()["shown"] != before


def test_run_page_without_airflows_responses_links_to_the_question(
    pages: Pages, monkeypatch: pytest.MonkeyPatch
):
    def fail(*run: str) -> list[GivenResponse]:
        raise sa.exc.OperationalError("SELECT", {}, Exception("no database"))

    pages.store(LINKS)
    pages.ledger.runs.ask_approval("a-run", "0" * 64)
    monkeypatch.setattr(airflow_compat, "given_responses", fail)

    page = pages.client.get(pages.run())

    assert page.status_code == 200
    assert "required_actions" in page.text


def test_page_of_an_unfinished_run_polls_its_progress(pages: Pages):
    half = {pair: outcome for pair, outcome in ALL_REMOVED.items() if pair[0] < "c-05"}
    pages.store(LINKS, half, chunk_size=5)

    page = pages.client.get(pages.run()).text
    assert (
        f'data-poll="/dags/{DAG_ID}/runs/scheduled__2026-07-01T00%3A00%3A00%2B00%3A00/progress?job=' in page
    )

    progress = pages.client.get(f"{pages.run()}/progress").json()
    assert progress["done"] == 5
    assert progress["planned"] == 12
    assert (progress["chunks"], progress["chunks_done"]) == (3, 1)
    assert progress["by_outcome"] == {"removed": 5}
    assert progress["finished"] is False


def test_search_finds_links_by_prefix_related_id_and_outcome(pages: Pages):
    rows: list[tuple[object, object]] = [(f"c-{number:03}", f"d-{number % 7}") for number in range(150)]
    outcomes = {
        (f"c-{n:03}", f"d-{n % 7}"): Outcome.FAILED if n % 50 == 1 else Outcome.REMOVED for n in range(150)
    }
    pages.store([*rows, ("..", "d-bad"), ("c-01\x00", "d-bad")], outcomes, finished="failed")

    def search(**form: str) -> list[str]:
        page = pages.client.post(pages.run(), data=form)
        assert page.status_code == 200
        return ids(page.text)

    assert search(external_id="c-01") == [*(f"c-0{number}" for number in range(10, 20)), "c-01\\u0000"]
    assert search(external_id="c-149") == ["c-149"]
    assert search(external_id="c-9") == []
    assert search(external_id="C-01") == []
    assert search(external_id="%") == []
    assert search(related_external_id="d-3") == [f"c-{number:03}" for number in range(150) if number % 7 == 3]
    assert search(related_external_id="d-b") == ["..", "c-01\\u0000"]
    assert search(related_external_id="D-3") == search(related_external_id="_-3") == []
    assert search(outcome="failed") == ["c-001", "c-051", "c-101"]
    assert search(outcome="failed", external_id="c-0") == ["c-001", "c-051"]
    assert search(outcome="failed", related_external_id="d-1") == ["c-001"]
    assert search(outcome="pending") == []
    first = search()
    assert len(first) == 50
    assert search(after="49") == [f"c-{number:03}" for number in range(50, 100)]


@pytest.mark.parametrize("few", [10_000, 70, 8], ids=["few links", "some", "too many to sort"])
def test_pages_of_a_search_have_each_link_once(pages: Pages, few: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(link_queries, "FEW", few)
    monkeypatch.setattr("zoho_crm.ui.run_pages.PAGE_LINKS", 20)
    rows: list[tuple[str, str]] = [(f"c-{number:03}", f"d-{number % 9}") for number in range(150)]
    failed, left = set(rows[1:145:10]), set(rows[145:])
    outcomes = {row: Outcome.FAILED if row in failed else Outcome.REMOVED for row in rows if row not in left}
    pages.store([*rows, ("..", "e")], outcomes)

    def paged(**form: str) -> list[str]:
        seen, after = [], ""
        while True:
            page = pages.client.post(pages.run(), data={**form, "after": after}).text
            seen += ids(page)
            found = re.search(r'name="after" value="(\d+)"', page)
            if not found:
                return sorted(seen)
            after = found[1]

    assert paged(related_external_id="d-") == [one for one, _ in rows]
    assert paged(related_external_id="d-4") == [one for one, other in rows if other == "d-4"]
    assert paged(related_external_id="d-", outcome="failed") == sorted(one for one, _ in failed)
    assert paged(related_external_id="d-", outcome="removed") == sorted(
        one for one, _ in outcomes.keys() - failed
    )
    assert paged(related_external_id="d", outcome="pending") == sorted(one for one, _ in left)
    assert paged(related_external_id="d-", external_id="c-1") == [one for one, _ in rows[100:]]
    assert paged(related_external_id="d-", external_id="c-1", outcome="failed") == sorted(
        one for one, _ in failed & set(rows[100:])
    )


@pytest.mark.parametrize("form", [{"outcome": "gone"}, {"after": "x"}, {"after": "9" * 30}, {"after": "-1"}])
def test_search_refuses_invalid_values(pages: Pages, form: dict[str, str]):
    pages.store(LINKS)

    assert pages.client.post(pages.run(), data=form).status_code == 400


def test_search_names_an_invisible_character(pages: Pages):
    pages.store(LINKS)

    searched = pages.client.post(pages.run(), data={"related_external_id": "d-\u200b"})

    assert searched.status_code == 400
    assert "related_external_id holds the invisible character U+200B, which no external ID" in searched.text


@pytest.mark.parametrize(
    ("external_id", "fault"),
    [
        ("c-1\u2060", "external_id holds the invisible character U+2060"),
        ("c-1 ", "external_id has leading or trailing spaces"),
    ],
)
def test_find_says_why_no_run_can_have_sent_a_link(pages: Pages, external_id: str, fault: str):
    form = {"job": JOB, "external_id": external_id, "related_external_id": "d-1"}

    found = pages.client.post("/links", data=form, follow_redirects=False)

    assert (found.status_code, f"No history for this link: {fault}." in found.text) == (404, True)


def test_find_leads_to_a_link_that_is_invalid(pages: Pages):
    pages.store([("c-1\u2060", "d-1")])
    form = {"job": JOB, "external_id": "c-1\u2060", "related_external_id": "d-1"}

    assert "U+2060" in pages.client.post("/links", data=form).text


def test_form_over_the_size_limit_returns_413(pages: Pages):
    pages.store(LINKS)

    assert pages.client.post(pages.run(), data={"external_id": "x" * 10_000}).status_code == 413


def test_external_data_is_escaped(pages: Pages):
    pair = (SCRIPT, f"{SCRIPT}2")
    pages.store(
        [pair],
        {pair: Outcome.REJECTED},
        finished="failed",
        reason=SCRIPT,
        response={"zoho_message": SCRIPT, "zoho_code": SCRIPT, "detail": SCRIPT, "zoho_record_id": SCRIPT},
    )
    with pages.ledger.engine.begin() as connection:
        columns = ("triggered_by", "detail", "stop_reason", "guard_decision", "approval", "approved_by")
        connection.execute(sa.update(runs).values(dict.fromkeys(columns, SCRIPT)))
    key = pair_key(RELATION, *pair)

    addresses = ["/", pages.run(), f"/links/{key}"]
    texts = [pages.client.get(address).text for address in addresses]
    texts.append(pages.client.post(pages.run(), data={"external_id": SCRIPT}).text)
    texts.append(pages.client.post("/links", data={"job": SCRIPT, "external_id": SCRIPT}).text)
    texts.append(pages.client.get(f"/?job={SCRIPT}").text)
    texts.append(pages.client.get(f"/dags/{DAG_ID}/runs/{SCRIPT.replace('/', '')}").text)

    for text in texts:
        assert "&lt;script&gt;alert" in text
        assert "<script>alert" not in text


@pytest.mark.parametrize(
    ("run", "requests"),
    [
        (
            {},
            [
                "DELETE /crm/v8/Contacts/c%2F1%3Fids%3D%26lt/Deals/%3Cb%3E",
                "X-EXTERNAL: Contacts.External_Contact_ID,Deals.External_Deal_ID",
            ],
        ),
        (
            {"target": {"api_version": "v8", "strategy": "by_parent"}},
            [
                "DELETE /crm/v8/Contacts/{parent record ID}/Deals?ids=4150868,…",
                "DELETE /crm/v8/Contacts/c%2F1%3Fids%3D%26lt/Deals/%3Cb%3E",
                "X-EXTERNAL: Contacts.External_Contact_ID,Deals.External_Deal_ID",
            ],
        ),
        (
            {"target": {"api_version": "v8", "operation": "relink"}},
            [
                "PUT /crm/v8/Contacts/c%2F1%3Fids%3D%26lt/Deals",
                "X-EXTERNAL: Contacts.External_Contact_ID,Deals.External_Deal_ID",
            ],
        ),
    ],
    ids=["single", "by_parent", "relink"],
)
def test_history_shows_request_and_response_of_each_try(
    pages: Pages, run: dict[str, Any], requests: list[str]
):
    pair = ("c/1?ids=&lt", "<b>")
    response = {
        "http_status": 400,
        "zoho_code": "INVALID_DATA",
        "zoho_message": "no such link",
        "attempts": 2,
    }
    pages.store(
        [pair],
        {pair: Outcome.REJECTED},
        response=response | {"zoho_record_id": "4150868"},
        **{"target": {"api_version": "v8"}, **run},
    )

    text = pages.client.get(f"/links/{pair_key(RELATION, *pair)}").text

    shown = [
        html.unescape(each) for each in re.findall(r"<code>((?:DELETE|PUT|X-EXTERNAL)[^<]*)</code>", text)
    ]
    assert shown == requests
    assert "HTTP 400 <code>INVALID_DATA</code>: no such link" in text
    assert re.search(r"<dt>Sent</dt><dd><time [^>]*>[^<]*</time>, 2 times</dd>", text)
    assert "120 ms after the first request" in text
    assert "Authorization" not in text
    assert "No request was sent" not in text


def test_history_says_that_no_request_was_sent(pages: Pages):
    pair = ("c-1", "..")
    pages.store([pair])

    text = pages.client.get(f"/links/{pair_key(RELATION, *pair)}").text

    assert "No request was sent." in text
    assert "<code>DELETE" not in text


def test_history_shows_all_runs_of_a_link_newest_first(pages: Pages):
    pair = ("c-1", "d-1")
    pages.store([pair], {pair: Outcome.WOULD_REMOVE}, run_key="r1", run_id="one", mode="dry_run")
    pages.store([pair], {pair: Outcome.REMOVED}, run_key="r2", run_id="two", reason="clean up")
    pages.store([pair], {pair: Outcome.ALREADY_ABSENT}, run_key="r3", run_id="three")

    found = pages.client.post(
        "/links",
        data={"job": "contacts_deals", "external_id": "c-1", "related_external_id": "d-1"},
        follow_redirects=False,
    )
    assert found.status_code == 303
    assert found.headers["location"] == f"/links/{pair_key(RELATION, *pair)}"
    text = pages.client.get(found.headers["location"]).text

    assert re.findall(r"runs/(one|two|three)\?job=", text) == ["three", "two", "one"]
    assert "Reason: clean up." in text
    pages.rights.refused.add(("GET", DAG_ID))
    assert pages.client.get(found.headers["location"]).status_code == 404


def test_urls_contain_no_external_ids(pages: Pages):
    pages.store(
        [("anna@example.com", "d-1")], {("anna@example.com", "d-1"): Outcome.REMOVED}, finished="succeeded"
    )

    text = pages.client.post(pages.run(), data={"external_id": "anna"}).text

    assert ids(text) == ["anna@example.com"]
    assert not [link for link in re.findall(r'(?:href|action)="([^"]*)"', text) if "anna" in link]


def test_start_buttons_need_permission_to_trigger(pages: Pages):
    outcomes = dict(ALL_REMOVED) | {("c-03", "d-03"): Outcome.FAILED}
    pages.store(LINKS, outcomes, finished="failed")

    assert pages.client.get(pages.run()).text.count("/start/") == 2
    form = pages.client.get(f"{pages.run()}/start/retry").text
    assert 'value="contacts_deals" readonly' in form
    assert f'value="{RUN_ID}" readonly' in form
    assert form.count('name="outcomes"') == 3
    assert 'name="external_id_prefix"' not in form
    relink = pages.client.get(f"{pages.run()}/start/relink").text
    names = set(re.findall(r'name="(\w+)"', relink))
    assert names >= {field.name for field in fields(RelinkFilter)} | {"links"}
    assert "include_presumed" not in names

    pages.rights.refused |= {("POST", RETRY_DAG_ID), ("POST", RELINK_DAG_ID)}
    assert "/start/" not in pages.client.get(pages.run()).text
    assert pages.client.get(f"{pages.run()}/start/retry").status_code == 403
    assert pages.client.get(f"{pages.run()}/start/unknown").status_code == 400


@pytest.mark.parametrize(
    ("dag_id", "owner"),
    [(DAG_ID, DAG_ID), ("crm_cleanup", "crm_cleanup"), (RETRY_DAG_ID, DAG_ID)],
    ids=["job", "Dag of your own", "retry"],
)
def test_start_needs_permission_to_trigger_the_dag_of_the_links(pages: Pages, dag_id: str, owner: str):
    outcomes = dict(ALL_REMOVED) | {("c-03", "d-03"): Outcome.FAILED}
    pages.store(LINKS, outcomes, finished="failed", dag_id=dag_id)
    run = f"/dags/{dag_id}/runs/{RUN_ID}"
    assert pages.client.get(run).text.count("/start/") == 2

    pages.rights.refused.add(("POST", owner))
    page = pages.client.get(run)
    assert (page.status_code, "/start/" in page.text) == (200, False)
    for action in ("retry", "relink"):
        refused = pages.client.get(f"{run}/start/{action}", headers={"accept": "*/*"})
        assert refused.status_code == 403
        assert refused.json()["detail"].startswith(f"You may not {action} links of contacts_deals: ")


def test_relink_form_counts_presumed_removals_apart(pages: Pages):
    outcomes = dict(ALL_REMOVED) | {("c-03", "d-03"): Outcome.PRESUMED_REMOVED}
    pages.store(LINKS, outcomes, finished="succeeded")

    relink = re.sub(r"<[^>]+>", "", pages.client.get(f"{pages.run()}/start/relink").text)

    assert f"removed {len(LINKS) - 1} links" in relink
    assert "Include presumed removed 1 link\n" in relink


def test_relink_is_offered_for_a_run_with_presumed_removals_alone(pages: Pages):
    pages.store(LINKS, dict.fromkeys(ALL_REMOVED, Outcome.PRESUMED_REMOVED), finished="succeeded")

    assert "/start/relink" in pages.client.get(pages.run()).text


def test_unknown_run_returns_404_and_reloads_if_it_may_follow(pages: Pages):
    other = pages.client.get(f"/dags/another_dag/runs/{RUN_ID}")
    assert other.status_code == 404
    assert "does not delink or relink" in other.text
    assert "data-reload-after" not in other.text

    for dag_id in (DAG_ID, RELINK_DAG_ID):
        page = pages.client.get(f"/dags/{dag_id}/runs/{RUN_ID}")
        assert page.status_code == 404
        assert "data-reload-after" in page.text


@pytest.mark.parametrize("below", ["", "/progress", "/links.csv", "/start/retry"])
def test_unknown_run_returns_404_with_a_sentence_to_programs(pages: Pages, below: str):
    response = pages.client.get(f"/dags/{DAG_ID}/runs/unknown{below}", headers={"accept": "*/*"})

    assert response.status_code == 404
    assert response.json() == {"detail": f"The audit has no run unknown of {DAG_ID}. Check the run ID."}


def test_job_names_are_shown_to_those_who_may_read_their_dags(pages: Pages):
    for url in ("/", "/links"):
        assert "campaigns_leads" in pages.client.get(url).text
    pages.rights.refused.add(("GET", "zoho_delink__campaigns_leads"))

    for url in ("/", "/links"):
        assert "campaigns_leads" not in pages.client.get(url).text


def test_page_reloads_when_more_than_counts_has_changed(pages: Pages):
    def shown() -> tuple[str, str]:
        page = pages.client.get(pages.run()).text
        polled: str = pages.client.get(f"{pages.run()}/progress").json()["shown"]
        found = re.search(r'data-shown="(\w+)"', page)
        return found[1] if found else "", polled

    pages.store(LINKS)
    at_first = shown()
    pages.ledger.runs.mark_running("a-run")
    then = shown()
    pages.ledger.runs.record_guard("a-run", "passed")

    assert at_first[0] == at_first[1]
    assert then[0] == then[1]
    assert len({at_first, then, shown()}) == 3


def test_credits_are_shown_by_run(pages: Pages):
    pages.store(LINKS, run_key="going", run_id="one", preflight_credits=6)
    pages.store(
        LINKS, ALL_REMOVED, run_key="done", run_id="two", finished="succeeded", preflight_credits=1_006
    )
    pages.store(LINKS, run_key="hidden", run_id="three", job="campaigns_leads")
    for run_key in ("going", "hidden"):
        claim = pages.ledger.claims.claim(run_key, 0, "a try")
        pages.ledger.claims.settle(claim, [], origin=ORIGIN, target=TARGET, job=JOB, credits_used=4)
    pages.rights.refused.add(("GET", "zoho_delink__campaigns_leads"))

    page = pages.client.get("/").text
    assert "1\u202f006</td>" in page
    address = f"/dags/{DAG_ID}/runs/one"
    assert '<b data-field="credits">10</b> API credits used' in pages.client.get(address).text
    assert pages.client.get(f"{address}/progress").json()["credits"] == 10


def test_record_ids_link_to_zoho_if_the_url_is_known(pages: Pages):
    pair = ("c-1", "d-1")
    response = {"zoho_record_id": "4150868000000/1"}
    for run_id, environment in (("one", "production"), ("two", "sandbox"), ("three", None)):
        pages.store(
            [pair],
            {pair: Outcome.REMOVED},
            run_key=run_id,
            run_id=run_id,
            response=response,
            environment=environment,
            target={"org_id": "70000001", "data_center": "eu"},
        )
    link = (
        '<a href="https://crm.zoho.eu/crm/org70000001/tab/Potentials/4150868000000%2F1" target="_blank" '
        'rel="noopener noreferrer" data-outside title="Open the record in Zoho"><code>4150868000000/1</code></a>'
    )

    texts = {
        run_id: pages.client.get(f"/dags/{DAG_ID}/runs/{run_id}").text for run_id in ("one", "two", "three")
    }

    assert {run_id for run_id, text in texts.items() if link in text} == {"one"}
    assert all("<code>4150868000000/1</code>" in text for text in texts.values())
    history = pages.client.get(f"/links/{pair_key(RELATION, *pair)}").text
    assert history.count("Record in Deals") == 3
    assert history.count(link) == 1


ENDED = [
    ("deleted", [], "The Dag run was deleted in Airflow before its report ran"),
    (
        "failed",
        ["plan"],
        "Failed tasks: plan; their logs have the reason. The Dag run ended in Airflow as failed",
    ),
    ("success", [], "The Dag run ended in Airflow as success, without its report"),
]


def end_in_airflow(monkeypatch: pytest.MonkeyPatch, state: str, tasks: list[str]) -> None:
    monkeypatch.setattr(
        airflow_compat, "dag_run_endings", lambda runs: {each: DagRunEnding(state, tasks) for each in runs}
    )


@pytest.mark.parametrize(("state", "tasks", "says"), ENDED)
def test_run_that_airflow_ended_without_its_report_is_failed_and_stays_so(
    pages: Pages, monkeypatch: pytest.MonkeyPatch, state: str, tasks: list[str], says: str
):
    pages.store(LINKS)
    end_in_airflow(monkeypatch, state, tasks)

    page = pages.client.get(pages.run()).text

    assert says in page
    assert '<span class="status failed">failed</span>' in page
    assert "What to do: fix the cause" in page
    assert "data-poll" not in page
    assert pages.client.get(f"{pages.run()}/progress").json()["finished"] is True
    assert '<span class="status failed">failed</span>' in pages.client.get("/").text


def test_run_that_its_report_finished_meanwhile_is_shown_as_it_ended(
    pages: Pages, monkeypatch: pytest.MonkeyPatch
):
    pages.store(LINKS, ALL_REMOVED, chunk_size=20)

    def finish(runs: list[tuple[str, str]]) -> dict[tuple[str, str], DagRunEnding]:
        pages.ledger.runs.finish("a-run", status="succeeded", detail=None, finished_at=datetime.now(UTC))
        return {each: DagRunEnding("success", []) for each in runs}

    monkeypatch.setattr(airflow_compat, "dag_run_endings", finish)
    assert '<span class="status succeeded">succeeded</span>' in pages.client.get(pages.run()).text


def test_failed_task_stands_on_the_page_while_the_run_goes_on(pages: Pages):
    pages.store(LINKS)
    pages.ledger.runs.record_failure("a-run", "Task guard failed: the baseline is NULL", status="failed")
    page = pages.client.get(pages.run()).text
    assert "Task guard failed: the baseline is NULL" in page
    assert "data-poll" in page


@pytest.mark.parametrize(
    ("state", "tasks", "says", "reloads"),
    [
        ("deleted", [], "Neither Airflow nor the audit has a run", False),
        ("failed", ["preflight"], "Failed tasks: preflight", False),
        ("queued", [], "this page reloads until then", True),
    ],
)
def test_run_that_the_audit_does_not_have(
    pages: Pages, monkeypatch: pytest.MonkeyPatch, state: str, tasks: list[str], says: str, reloads: bool
):
    end_in_airflow(monkeypatch, state, tasks)
    page = pages.client.get(f"/dags/{DAG_ID}/runs/nothing")
    assert page.status_code == 404
    assert says in page.text
    assert ("data-reload-after" in page.text) is reloads


def test_page_says_until_when_and_by_whom_a_run_can_be_approved(pages: Pages, jobs_copy: Path):
    file = jobs_copy / f"{JOB}.yaml"
    guards = {"on_breach": "approve", "approvers": ["ada", "grace"]}
    file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text()), "guards": guards}))
    pages.store(LINKS)
    until = datetime(2026, 7, 2, 12, tzinfo=UTC)
    pages.ledger.runs.ask_approval("a-run", "a-digest", until=until)

    text = re.sub(r"<[^>]+>", "", pages.client.get(pages.run()).text)

    assert "until 2026-07-02 12:00:00 (UTC); without a response, it is rejected" in text
    assert (
        "Approvers: ada, grace. timetable requested the run: an approval by this user does not count." in text
    )


@pytest.mark.parametrize("guards", [{}, {"forbid_self_approval": False}])
def test_page_shows_no_decision_by_a_response_that_does_not_count(
    pages: Pages, jobs_copy: Path, monkeypatch: pytest.MonkeyPatch, guards: dict[str, Any]
):
    file = jobs_copy / f"{JOB}.yaml"
    file.write_text(
        yaml.safe_dump({**yaml.safe_load(file.read_text()), "guards": {"on_breach": "approve", **guards}})
    )
    pages.store(LINKS)
    pages.ledger.runs.ask_approval("a-run", question_digest("Remove them?", "13 links", [], 20))
    at = datetime(2026, 7, 1, 8, 15, tzinfo=UTC)
    own = GivenResponse("Remove them?", "13 links", [], 20, ["Approve"], at, {"id": "1", "name": "timetable"})
    monkeypatch.setattr(airflow_compat, "given_responses", lambda *run: [own])

    text = pages.client.get(pages.run()).text

    assert ("Approved by timetable (1)" in text) is bool(guards)
    assert ("required_actions" in text) is not bool(guards)
    assert ("requested the run" in text) is not bool(guards)


def test_page_shows_why_an_approval_did_not_count(pages: Pages):
    pages.store(LINKS)
    pages.ledger.runs.ask_approval("a-run", "a-digest")
    before = pages.client.get(f"{pages.run()}/progress").json()["shown"]
    pages.ledger.runs.refuse_approval("a-run", "The approval by <b>ops</b> does not count: reason")

    assert (
        "The approval by &lt;b&gt;ops&lt;/b&gt; does not count: reason." in pages.client.get(pages.run()).text
    )
    assert pages.client.get(f"{pages.run()}/progress").json()["shown"] != before


def test_server_without_job_files_names_their_folder_and_shows_the_named_audit_databases(
    pages: Pages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    pages.store(LINKS, finished="succeeded")
    monkeypatch.setattr(pages.app.state.databases, "_jobs_folder", tmp_path / "nothing")
    page = pages.client.get("/").text
    assert f"no valid job files in <code>{tmp_path / 'nothing'}</code>" in page
    assert RUN_ID not in page
    monkeypatch.setattr(AuditDatabases, "looked_in", ["/dags/include/jobs", "/include/jobs"])
    page = pages.client.get("/").text
    assert "files in <code>/dags/include/jobs</code>, <code>/include/jobs</code>: install them there" in page
    monkeypatch.setattr(AuditDatabases, "looked_in", [])
    assert "files: <code>[core] dags_folder</code> is not set here. Set <code>" in pages.client.get("/").text
    monkeypatch.setenv("ZOHO_CRM_AUDIT_CONN_IDS", "audit, ")
    page = pages.client.get("/").text
    assert RUN_ID in page


def _luminance(color: str) -> float:
    """Relative luminance by WCAG 2."""
    parts = [int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = (
        each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in parts
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("theme", [":root", '[data-theme="dark"]'])
def test_text_has_the_contrast_of_wcag_aa(theme: str):
    rule = (STATIC / "app.css").read_text("utf-8").split(f"{theme} {{", 1)[1].split("}", 1)[0]
    colors = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6});", rule))
    texts = ("text", "muted", "link", "good", "warn", "bad")
    pairs = [(text, page) for text in texts for page in ("page", "raised")]
    pairs += [("text", "bad-page"), ("button-text", "button")]

    contrasts = {}
    for one, other in pairs:
        dark, bright = sorted(_luminance(colors[name]) for name in (one, other))
        contrasts[one, other] = (bright + 0.05) / (dark + 0.05)

    assert {pair: round(value, 2) for pair, value in contrasts.items() if value < 4.5} == {}
