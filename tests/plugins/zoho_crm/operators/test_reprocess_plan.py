"""Plans that start from links of earlier runs, over a real ledger and the local Zoho."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
import yaml

from tests.support.databases import AUDIT, WAREHOUSE, Audit
from tests.support.ledger import take
from tests.support.local_zoho import link_all, linked, sent
from tests.support.operators import context, delink, make_job, pairs
from zoho_crm.airflow_compat import AirflowFailException
from zoho_crm.core.models import LinkResult, Target
from zoho_crm.core.outcomes import Outcome
from zoho_crm.errors import GuardError, UnfinishedLinksError, ZohoConfigError
from zoho_crm.ledger import tables
from zoho_crm.operators.guard import GuardOperator, GuardResult
from zoho_crm.operators.job_operator import origin_of
from zoho_crm.operators.plan_links import PlanLinksOperator
from zoho_crm.operators.relink import RelinkByExternalIdOperator
from zoho_crm.operators.report import close_run
from zoho_crm.operators.reprocess_plan import (
    PlanRelinkOperator,
    PlanRetryOperator,
    RelinkPreflightOperator,
    RetryPreflightOperator,
)

if TYPE_CHECKING:
    from zoho_crm.testing.local_zoho import LocalZoho

RETRY, RELINK = "zoho_delink_retry", "zoho_delink_relink"
PREFLIGHT = {"org_id": "700000001", "data_center": "us", "api_version": "v7"}
WINDOW = {"window_start": "2026-11-21", "window_end": "2026-11-22"}
Pair = tuple[str, str]
on_sqlite_alone = pytest.mark.parametrize("audit", ["sqlite"], indirect=True)
"""For what no database decides."""


@pytest.fixture
def jobs(tmp_path: Path, audit: Audit) -> Path:
    """A folder of job files with one in it; nothing answers where its SQL and its warehouse should be."""
    audit.ledger()
    folder = tmp_path / "include" / "jobs"
    folder.mkdir(parents=True)
    (folder.parent / "sql").mkdir()
    (folder.parent / "sql" / "contacts_deals.sql").write_text("no SQL at all")
    write_job(folder)
    return folder


def write_job(folder: Path, **changes: Any) -> None:
    content = {
        "start_date": "2026-11-01",
        "source": {"conn_id": WAREHOUSE, "sql_file": "contacts_deals.sql"},
        "relation": {
            "module": "Contacts",
            "external_field": "External_Contact_ID",
            "related_list": "Deals",
            "related_external_field": "External_Deal_ID",
        },
        "audit_conn_id": AUDIT,
        **changes,
    }
    (folder / "contacts_deals.yaml").write_text(yaml.safe_dump(content))


def past_run(
    audit: Audit,
    outcomes: dict[Pair, Outcome],
    *,
    run_id: str = "manual__past",
    mode: str = "apply",
    window: dict[str, str] = WINDOW,
    finish: bool = True,
) -> str:
    """Store a run whose links have ended with these outcomes, and return its key."""
    reported = context(
        "plan",
        run_id=run_id,
        params={"mode": mode, "links": [list(pair) for pair in outcomes], **window},
        preflight=PREFLIGHT,
    )
    job = make_job()
    # Pasted links need neither SQL nor warehouse.
    (chunk,) = PlanLinksOperator(task_id="plan", job=job, jobs_folder=Path()).execute(reported)
    ledger, dry_run = audit.ledger(), mode == "dry_run"
    origin = origin_of(context(run_id=run_id))
    target = Target(job.relation.as_relation(), "us", "v7", org_id=PREFLIGHT["org_id"], dry_run=dry_run)
    ledger.runs.record_guard(chunk["run_key"], "passed")
    claim = ledger.claims.claim(chunk["run_key"], 0, "a try")
    taken = take(ledger, claim, len(outcomes), in_flight=not dry_run)
    results = [
        LinkResult(link, outcomes[link.link.external_id, link.link.related_external_id], datetime.now(UTC))
        for link in taken
    ]
    ledger.claims.settle(claim, results, origin=origin, target=target, job=job.name, in_flight=not dry_run)
    if finish:
        close_run(ledger, chunk["run_key"], origin=origin, tolerance=0.0)
    return chunk["run_key"]


def plan(
    operator: type[PlanRetryOperator | PlanRelinkOperator],
    jobs: Path,
    *,
    run_id: str = "manual__again",
    preflight: dict[str, Any] = PREFLIGHT,
    requester: str | None = "ada",
    **params: Any,
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Plan as the Dag does; return what is mapped over, and the counts."""
    dag_id = RETRY if operator is PlanRetryOperator else RELINK
    reported = context(
        "plan",
        dag_id=dag_id,
        run_id=run_id,
        params={"job": "contacts_deals", **params},
        preflight=preflight,
        requester=requester,
    )
    counts: dict[str, int] = {}
    reported["ti"].xcom_push = lambda *, key, value: counts.update(value) if key == "counts" else None
    return operator(task_id="plan", job=None, jobs_folder=jobs).execute(reported), counts


def planned(audit: Audit, dag_id: str) -> dict[Pair, str | None]:
    keys = [run["run_key"] for run in audit.runs() if run["dag_id"] == dag_id]
    return {
        (link["external_id"], link["related_external_id"]): link["snapshot"]
        for link in audit.links()
        if link["run_key"] in keys
    }


def the_run(audit: Audit, dag_id: str) -> dict[str, Any]:
    (run,) = (run for run in audit.runs() if run["dag_id"] == dag_id)
    return run


A, B, C, D, E, F = pairs(6)
PAST = {
    A: Outcome.REMOVED,
    B: Outcome.FAILED,
    C: Outcome.UNKNOWN,
    D: Outcome.NOT_ATTEMPTED,
    E: Outcome.FAILED,
    F: Outcome.ALREADY_ABSENT,
}


@pytest.mark.parametrize("by_key", [True, False], ids=["run key", "run id"])
def test_retry_plans_what_is_open_by_the_last_outcome(audit: Audit, jobs: Path, by_key: bool) -> None:
    key = past_run(audit, PAST)
    past_run(audit, {E: Outcome.REMOVED}, run_id="manual__later")
    past_run(audit, {B: Outcome.WOULD_REMOVE}, run_id="manual__dry", mode="dry_run")
    write_job(jobs, chunk_size=2, task_concurrency=7)

    mapped, counts = plan(
        PlanRetryOperator, jobs, run=key if by_key else "manual__past", mode="apply", reason="once more"
    )

    assert set(planned(audit, RETRY)) == {B, C, D}
    assert counts == {"runs": 1, "chosen": 3, "failed": 1, "unknown": 1, "not_attempted": 1, "removed": 1}
    run = the_run(audit, RETRY)
    reported = (
        "job",
        "operation",
        "origin_run_key",
        "mode",
        "reason",
        "window_start",
        "window_end",
        "planned",
    )
    assert [run[name] for name in reported] == [
        "contacts_deals",
        "delink",
        key,
        "apply",
        "once more",
        None,
        None,
        3,
    ]
    assert [one["chunk"]["links"] for one in mapped] == [2, 1]
    assert {(one["module"], one["audit_conn_id"], one["task_concurrency"]) for one in mapped} == {
        ("Contacts", AUDIT, 7)
    }


def test_retry_takes_only_the_outcomes_asked_for(audit: Audit, jobs: Path) -> None:
    past_run(audit, PAST)
    _, counts = plan(PlanRetryOperator, jobs, run="manual__past", outcomes=["unknown"])
    assert set(planned(audit, RETRY)) == {C}
    assert counts["chosen"] == 1
    assert the_run(audit, RETRY)["mode"] == "dry_run"


def test_retry_of_a_window_takes_the_runs_in_it(
    audit: Audit, jobs: Path, caplog: pytest.LogCaptureFixture
) -> None:
    past_run(audit, {A: Outcome.FAILED, B: Outcome.FAILED}, run_id="in it")
    past_run(audit, {B: Outcome.UNKNOWN}, run_id="in it too")
    past_run(
        audit, {C: Outcome.FAILED}, run_id="reaches beyond it", window={**WINDOW, "window_end": "2026-11-23"}
    )
    past_run(audit, {D: Outcome.WOULD_REMOVE}, run_id="dry", mode="dry_run")
    past_run(audit, {E: Outcome.FAILED}, run_id="unfinished", finish=False)

    _, counts = plan(PlanRetryOperator, jobs, **WINDOW)

    assert set(planned(audit, RETRY)) == {A, B}
    assert counts == {"runs": 2, "chosen": 2, "failed": 1, "unknown": 1}
    run = the_run(audit, RETRY)
    assert run["origin_run_key"] is None
    assert str(run["window_start"]).startswith("2026-11-21 00:00:00")
    assert str(run["window_end"]).startswith("2026-11-22 00:00:00")
    with pytest.raises(ZohoConfigError, match=r"^window_start: no run of contacts_deals"):
        plan(PlanRetryOperator, jobs, run_id="other", window_start="2026-11-01", window_end="2026-11-02")


def test_planning_again_finds_the_plan(audit: Audit, jobs: Path) -> None:
    past_run(audit, PAST)
    first, _ = plan(PlanRetryOperator, jobs, run="manual__past")
    stored = audit.runs(), audit.links()
    past_run(audit, {B: Outcome.REMOVED}, run_id="manual__later")
    again, counts = plan(PlanRetryOperator, jobs, run="manual__past")
    assert again == first
    assert counts == {}
    assert the_run(audit, RETRY) in stored[0]
    assert [link for link in audit.links() if link in stored[1]] == stored[1]


@on_sqlite_alone
@pytest.mark.parametrize(
    ("row", "says"),
    [
        pytest.param({"approval": "rejected"}, "was not approved: the run was rejected", id="rejected"),
        pytest.param(
            {"approval": "asked"}, "was not approved: the run waits for an approval", id="never approved"
        ),
        pytest.param(
            {"guard_decision": "breached: x", "baseline_links": 10},
            "was stopped by its guards: 60% of the 10 baseline links planned, 50% allowed; start a new run",
            id="share",
        ),
        pytest.param({"guard_decision": "breached: x", "baseline_links": 100}, None, id="number alone"),
        pytest.param({"guard_decision": "breached: x"}, None, id="no baseline then"),
        pytest.param(
            {"guard_decision": "breached: x", "baseline_links": 10, "approval": "approved"},
            None,
            id="approved",
        ),
        pytest.param({"guard_decision": "passed: x", "baseline_links": 10}, None, id="passed"),
        pytest.param(
            {"guard_decision": None},
            "has no decision of its guard; clear its task guard, or start a new run of the job",
            id="undecided",
        ),
    ],
)
def test_retry_is_no_way_past_a_guard(
    audit: Audit, jobs: Path, row: dict[str, Any], says: str | None
) -> None:
    key = past_run(audit, PAST)
    (jobs.parent / "sql" / "baseline.sql").write_text("SELECT 10")
    write_job(jobs, guards={"max_links": 5, "max_share": 0.5, "baseline_sql_file": "baseline.sql"})
    with audit.engine.begin() as connection:
        connection.execute(sa.update(tables.runs).values(**row))
    if says is None:
        assert plan(PlanRetryOperator, jobs, run=key)[1]["chosen"] == 4
    else:
        with pytest.raises(ZohoConfigError, match=f"^run: {key} {says}"):
            plan(PlanRetryOperator, jobs, run=key)


@on_sqlite_alone
def test_retry_of_a_window_skips_runs_whose_guard_never_decided(audit: Audit, jobs: Path) -> None:
    past_run(audit, {A: Outcome.FAILED})
    undecided = past_run(audit, {B: Outcome.NOT_ATTEMPTED}, run_id="manual__undecided")
    with audit.engine.begin() as connection:
        connection.execute(
            sa.update(tables.runs).where(tables.runs.c.run_key == undecided).values(guard_decision=None)
        )
    _, counts = plan(PlanRetryOperator, jobs, **WINDOW)
    assert (counts["runs"], counts["chosen"]) == (1, 1)


@on_sqlite_alone
def test_relink_needs_no_decision_of_the_origin_runs_guard(audit: Audit, jobs: Path) -> None:
    key = past_run(audit, PAST)
    with audit.engine.begin() as connection:
        connection.execute(sa.update(tables.runs).values(guard_decision=None))
    assert plan(PlanRelinkOperator, jobs, run=key)[1]["chosen"] == 1


@on_sqlite_alone
@pytest.mark.parametrize("operator", [PlanRetryOperator, PlanRelinkOperator])
@pytest.mark.parametrize(
    ("row", "says"),
    [
        pytest.param({"mode": "dry_run"}, "was a dry run", id="dry run"),
        pytest.param({"finished_at": None}, "is not finished", id="unfinished"),
        pytest.param({"org_id": "42"}, "was for the organization 42", id="organization"),
        pytest.param({"related_list": "Accounts"}, "was for Contacts", id="relation"),
        pytest.param({"job": "another"}, "is a run of another", id="job"),
    ],
)
def test_a_run_that_cannot_be_taken_up_is_refused_before_anything_is_stored(
    audit: Audit,
    jobs: Path,
    operator: type[PlanRetryOperator | PlanRelinkOperator],
    row: dict[str, Any],
    says: str,
) -> None:
    key = past_run(audit, PAST)
    with audit.engine.begin() as connection:
        connection.execute(sa.update(tables.runs).values(**row))
    with pytest.raises(ZohoConfigError, match=f"^run: {key} {says}"):
        plan(operator, jobs, run=key)
    assert [run["run_key"] for run in audit.runs()] == [key]


@on_sqlite_alone
@pytest.mark.parametrize("mode", ["dry_run", "apply"])
@pytest.mark.parametrize(
    ("operator", "preflight"),
    [(PlanRetryOperator, RetryPreflightOperator), (PlanRelinkOperator, RelinkPreflightOperator)],
    ids=["retry", "relink"],
)
@pytest.mark.parametrize(
    ("requester", "who"),
    [("eve", "user 'eve'"), (None, "a user whom Airflow does not name")],
    ids=["another user", "unknown user"],
)
def test_user_whom_the_job_does_not_list_may_not_reprocess_its_links(
    audit: Audit,
    jobs: Path,
    operator: type[PlanRetryOperator | PlanRelinkOperator],
    preflight: type[RetryPreflightOperator | RelinkPreflightOperator],
    mode: str,
    requester: str | None,
    who: str,
) -> None:
    past_run(audit, PAST)
    write_job(jobs, guards={"may_reprocess": ["ada", "grace"]})
    says = (
        rf"^job: {who} may not retry or relink links of contacts_deals: guards\.may_reprocess in its job file "
        r"allows ada, grace$"
    )
    params = {"run": "manual__past", "mode": mode, "reason": "once more"}
    # Not even the number of links is found out, also if the preflight task was marked as done.
    with pytest.raises(ZohoConfigError, match=says):
        plan(operator, jobs, requester=requester, **params)
    dag_id = RETRY if operator is PlanRetryOperator else RELINK
    assert planned(audit, dag_id) == {}
    with pytest.raises(AirflowFailException, match=says):
        preflight(task_id="preflight", job=None, jobs_folder=jobs).execute(
            context(
                "preflight", dag_id=dag_id, params={"job": "contacts_deals", **params}, requester=requester
            )
        )

    mapped, counts = plan(operator, jobs, requester="grace", **params)
    assert (len(mapped), counts["chosen"]) == (1, 4 if operator is PlanRetryOperator else 1)


@on_sqlite_alone
@pytest.mark.parametrize("operator", [PlanRetryOperator, PlanRelinkOperator], ids=["retry", "relink"])
def test_retry_and_relink_follow_the_rules_of_the_job_as_its_file_is_now(
    audit: Audit, jobs: Path, operator: type[PlanRetryOperator | PlanRelinkOperator]
) -> None:
    """The past run needed no approval, and its job allowed more links."""
    past_run(audit, PAST)
    dag_id = RETRY if operator is PlanRetryOperator else RELINK
    plan(operator, jobs, run="manual__past", mode="apply", reason="once more")
    parts: dict[str, Any] = {"dag_id": dag_id, "run_id": "manual__again", "params": {"job": "contacts_deals"}}

    def guard() -> GuardResult:
        return GuardOperator(task_id="guard", job=None, jobs_folder=jobs).execute(context("guard", **parts))

    assert not guard()["ask"]
    write_job(jobs, guards={"max_links": 0})
    with pytest.raises(GuardError, match=r"links? planned, 0 allowed"):
        guard()
    write_job(jobs, guards={"max_links": 0, "on_breach": "approve", "approvers": ["grace"]})
    assert "- Who may respond: `grace`" in str(guard()["body"])
    write_job(jobs, guards={"approvals": "always", "forbid_self_approval": False})
    body = str(guard()["body"])
    assert "Each run of this job needs an approval" in body
    assert "- Requested by: `ada`\n" in body
    assert the_run(audit, dag_id)["approval"] == "asked"


def remember(audit: Audit, key: str, snapshot: str) -> None:
    """Store what a run has read of its links, as the deleting operator does."""
    with audit.engine.begin() as connection:
        connection.execute(
            sa.update(tables.audit).where(tables.audit.c.run_key == key).values(snapshot=snapshot)
        )


def test_a_relink_plans_what_is_gone_because_of_that_run(audit: Audit, jobs: Path) -> None:
    removed = dict.fromkeys((A, B, C), Outcome.REMOVED)
    key = past_run(audit, {**removed, D: Outcome.ALREADY_ABSENT, E: Outcome.FAILED})
    remember(audit, key, '{"Contact_Role": "Buyer"}')
    later = past_run(audit, {B: Outcome.REMOVED}, run_id="manual__later")
    remember(audit, later, '{"Contact_Role": "Other"}')

    mapped, counts = plan(PlanRelinkOperator, jobs, run=key, mode="apply")

    assert planned(audit, RELINK) == {
        A: '{"Contact_Role": "Buyer"}',
        C: '{"Contact_Role": "Buyer"}',
    }
    assert counts == {"chosen": 2, "still_removed": 2, "removed_again": 1, "already_absent": 1}
    run = the_run(audit, RELINK)
    assert (run["operation"], run["origin_run_key"], run["strategy"]) == ("relink", key, "single")
    assert "strategy" not in mapped[0]
    assert "snapshot_fields" not in mapped[0]


@pytest.mark.parametrize("include", [False, True], ids=["by default", "included"])
def test_relink_leaves_out_presumed_removals_unless_included(audit: Audit, jobs: Path, include: bool) -> None:
    key = past_run(audit, {A: Outcome.REMOVED, B: Outcome.PRESUMED_REMOVED, C: Outcome.PRESUMED_REMOVED})
    remember(audit, key, '{"Contact_Role": "Buyer"}')
    form = {"include_presumed": True} if include else {}
    _, counts = plan(PlanRelinkOperator, jobs, run=key, **form)
    chosen = {A, B, C} if include else {A}
    assert planned(audit, RELINK) == dict.fromkeys(chosen, '{"Contact_Role": "Buyer"}')
    assert counts == {
        "chosen": len(chosen),
        "still_removed": len(chosen),
        "presumed_removed": 2,
        "already_absent": 0,
    }


def test_a_relink_of_some_links_takes_those(audit: Audit, jobs: Path) -> None:
    key = past_run(audit, {**dict.fromkeys((A, B, C), Outcome.REMOVED), D: Outcome.FAILED})
    links = "\n".join(",".join(pair) for pair in (A, D, F))
    _, counts = plan(PlanRelinkOperator, jobs, run=key, links=links, run_id="pasted")
    assert set(planned(audit, RELINK)) == {A}
    assert counts == {"chosen": 1, "still_removed": 1, "pasted": 3, "already_absent": 0}
    assert "links" not in the_run(audit, RELINK)["params"]


def test_relink_plans_links_that_match_filters_and_pasted_links(audit: Audit, jobs: Path) -> None:
    key = past_run(audit, dict.fromkeys((A, B, C), Outcome.REMOVED))
    links = [list(A), list(B)]
    _, counts = plan(PlanRelinkOperator, jobs, run=key, links=links, related_external_id_prefix=B[1])
    assert set(planned(audit, RELINK)) == {B}
    assert counts == {"chosen": 1, "still_removed": 1, "pasted": 2, "already_absent": 0}
    with pytest.raises(ZohoConfigError, match=r"^finished_from: 'soon' is not a time"):
        plan(PlanRelinkOperator, jobs, run=key, finished_from="soon", run_id="other")


def test_snapshots_are_given_after_a_crash_between(
    audit: Audit, jobs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = past_run(audit, {A: Outcome.REMOVED})
    remember(audit, key, "{}")
    with monkeypatch.context() as patch:
        patch.setattr(PlanRelinkOperator, "complete", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            plan(PlanRelinkOperator, jobs, run=key)
    assert planned(audit, RELINK) == {A: None}
    plan(PlanRelinkOperator, jobs, run=key)
    assert planned(audit, RELINK) == {A: "{}"}


@on_sqlite_alone
@pytest.mark.parametrize(
    ("operator", "params", "says"),
    [
        (RetryPreflightOperator, {}, "^run: missing; give the run whose links are to be retried"),
        (RetryPreflightOperator, {"run": "x", "outcomes": ["removed"]}, "^outcomes: 'removed'"),
        (RetryPreflightOperator, {"run": "x", "mode": "purge"}, "^mode: 'purge'"),
        (RetryPreflightOperator, {"run": "x", "job": "no-job"}, "^job: there is no job 'no-job'"),
        (RelinkPreflightOperator, {}, "^run: missing; give the run whose links to relink"),
        (RelinkPreflightOperator, {"run": "x", "zoho_code": 5}, "^zoho_code: must be text"),
        (
            RelinkPreflightOperator,
            {"run": "x", "include_presumed": "yes"},
            "^include_presumed: must be true or false",
        ),
        (RelinkPreflightOperator, {"run": "x", "max_links": 5}, "^reason: say why"),
    ],
)
def test_a_wrong_field_is_refused_in_the_first_task(
    jobs: Path, operator: type[RetryPreflightOperator], params: dict[str, Any], says: str
) -> None:
    task = operator(task_id="preflight", job=None, jobs_folder=jobs)
    with pytest.raises(AirflowFailException, match=says):
        task.execute(context("preflight", params={"job": "contacts_deals", **params}))


@on_sqlite_alone
@pytest.mark.parametrize("operator", [RetryPreflightOperator, RelinkPreflightOperator])
def test_preflight_needs_neither_sql_nor_warehouse(
    zoho: LocalZoho, jobs: Path, operator: type[RetryPreflightOperator]
) -> None:
    task = operator(task_id="preflight", job=None, jobs_folder=jobs)
    found = task.execute(context("preflight", params={"job": "contacts_deals", "run": "x"}))
    assert found["data_center"] == "us"


def test_retry_sends_each_open_link_once_and_nothing_else(zoho: LocalZoho, audit: Audit, jobs: Path) -> None:
    link_all(zoho, PAST)
    past_run(audit, PAST)
    zoho.state.unlink("Contacts", C[0], "Deals", C[1])
    mapped, _ = plan(PlanRetryOperator, jobs, run="manual__past", mode="apply")
    audit.ledger().runs.record_guard(the_run(audit, RETRY)["run_key"], "passed")
    for place, arguments in enumerate(mapped):
        task = delink(**{name: arguments[name] for name in ("chunk", "audit_conn_id", "task_concurrency")})
        try:
            task.execute(context(dag_id=RETRY, run_id="manual__again", map_index=place))
        except UnfinishedLinksError:
            pytest.fail("links are left")
    assert sorted(sent(zoho)) == sorted([B, D, E])
    # A request of the earlier run may have reached it: it was verified, and is gone.
    assert "GET" in {one.method for one in zoho.state.journal.requests if C[0] in one.path}
    key = the_run(audit, RETRY)["run_key"]
    last = {row["external_id"]: row["outcome"] for row in audit.events() if row["run_key"] == key}
    assert last == {**dict.fromkeys((B[0], D[0], E[0]), "removed"), C[0]: "presumed_removed"}
    assert linked(zoho) == {A, F}
    _, counts = plan(PlanRetryOperator, jobs, run="manual__past", run_id="manual__third")
    assert counts == {"runs": 1, "chosen": 0, "removed": 3, "presumed_removed": 1}


def test_next_run_presumes_what_an_unanswered_request_of_an_earlier_run_may_have_removed(
    zoho: LocalZoho, audit: Audit, jobs: Path
) -> None:
    link_all(zoho, [A, B])
    past_run(audit, {A: Outcome.UNKNOWN})
    # Applied, and its response lost.
    zoho.state.unlink("Contacts", A[0], "Deals", A[1])
    form = {"mode": "apply", "links": [list(A), list(B)]}
    planning = context("plan", run_id="manual__next", params=form, preflight=PREFLIGHT)
    (chunk,) = PlanLinksOperator(task_id="plan", job=make_job(), jobs_folder=jobs).execute(planning)
    audit.ledger().runs.record_guard(chunk["run_key"], "passed")
    delink(chunk=chunk, audit_conn_id=AUDIT).execute(context(run_id="manual__next"))
    last = {
        row["external_id"]: row["outcome"] for row in audit.events() if row["run_key"] == chunk["run_key"]
    }
    assert last == {A[0]: "presumed_removed", B[0]: "removed"}


def test_next_relink_presumes_what_an_unanswered_request_of_an_earlier_one_may_have_relinked(
    zoho: LocalZoho, audit: Audit, jobs: Path
) -> None:
    key = past_run(audit, {A: Outcome.REMOVED})
    (first,), _ = plan(PlanRelinkOperator, jobs, run=key, mode="apply")
    ledger, origin = audit.ledger(), origin_of(context(run_id="manual__again"))
    claim = ledger.claims.claim(first["chunk"]["run_key"], 0, "a try")
    take(ledger, claim, 1)
    close_run(ledger, first["chunk"]["run_key"], origin=origin, tolerance=0.0)
    # Applied, and its response lost.
    link_all(zoho, [A])
    (mapped,), counts = plan(PlanRelinkOperator, jobs, run=key, mode="apply", run_id="manual__third")
    assert counts["chosen"] == 1
    ledger.runs.record_guard(mapped["chunk"]["run_key"], "passed")
    RelinkByExternalIdOperator(task_id="relink", **mapped).execute(
        context(dag_id=RELINK, run_id="manual__third")
    )
    run_key = mapped["chunk"]["run_key"]
    outcomes = [row["outcome"] for row in audit.events() if row["run_key"] == run_key]
    assert outcomes == ["presumed_relinked"]
