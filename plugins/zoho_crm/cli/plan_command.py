"""``zoho-delink plan``: preview the plan of a run and the decision of its guards, without storing or sending."""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zoho_crm.cli.options import (
    Exit,
    command,
    current_time,
    job_named,
    jobs_folder_option,
    json_option,
    usage_error,
)
from zoho_crm.cli.output import duration
from zoho_crm.core.formatting import format_count

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime, timedelta

    from sqlalchemy import Engine

    from zoho_crm.cli.output import Counted, Output
    from zoho_crm.core.guard_rules import Decision, Facts
    from zoho_crm.core.job import Job
    from zoho_crm.core.links import Link
    from zoho_crm.core.models import PlanSummary
    from zoho_crm.core.run_request import RunRequest
    from zoho_crm.ledger.ledger import Ledger

_RUN = "preview"


@dataclass(frozen=True, slots=True)
class _Planned:
    """A plan and the decision of the guards."""

    plan: PlanSummary
    invalid: dict[str, int]
    sample: list[Link]
    facts: Facts
    decision: Decision


@click.command("plan")
@click.argument("job_name", metavar="JOB")
@click.option(
    "--window",
    nargs=2,
    metavar="START END",
    help="Half-open window, like 2026-11-22T00:00 2026-11-23T00:00; without a time zone it is UTC.",
)
@click.option(
    "--all", "everything", is_flag=True, help="Everything up to now, like a manual run without a window."
)
@click.option("--sample", type=click.IntRange(0, 1000), default=10, show_default=True, help="Links to show.")
@jobs_folder_option
@json_option
@command
def plan(
    job_name: str,
    window: tuple[str, str] | None,
    everything: bool,
    sample: int,
    jobs_folder: Path,
    out: Output,
) -> Exit:
    """
    Preview the plan of a run; nothing is sent.

    Runs the job's SQL and counts the links like a run does, in a temporary database on this machine that is deleted at
    the end. Exits with 1 if a limit is exceeded, so that a run would stop or need an approval.
    """
    if everything == (window is not None):
        usage_error("Give either --window START END or --all.")
    job = job_named(jobs_folder, job_name)
    request = _request(window)
    with out.progress("Reading the source") as counted:
        planned = _plan(job, request, jobs_folder, sample, counted)
    _print_report(out, _document(job, request, planned))
    return Exit.CHECK_FAILED if planned.decision.breaches else Exit.OK


def _request(window: tuple[str, str] | None) -> RunRequest:
    from zoho_crm.core.run_request import parse_run_request

    form = dict(zip(("window_start", "window_end"), window, strict=True)) if window else {}
    return parse_run_request(form, run_type="manual", run_after=current_time(), data_interval=None)


def _plan(job: Job, request: RunRequest, jobs_folder: Path, sample: int, counted: Counted) -> _Planned:
    from zoho_crm.cli.connections import open_engine
    from zoho_crm.core.guard_rules import judge
    from zoho_crm.core.job_files import SOURCE_SQL, read_sql
    from zoho_crm.ledger.link_queries import LinkQueries
    from zoho_crm.source import check_sql, stream_links

    sql = read_sql(job, jobs_folder)[SOURCE_SQL]
    check_sql(sql)
    with open_engine(job.source.conn_id, "source.conn_id") as source, _scratch_ledger() as ledger:
        rows = stream_links(source, sql, request.window_start, request.window_end)
        made = _made_plan(ledger, job, counted(rows))
        facts = _facts(job, request, jobs_folder, source, made.planned)
        return _Planned(
            plan=made,
            invalid=LinkQueries(ledger.engine).invalid_reasons(_RUN),
            sample=ledger.plans.sample(_RUN, sample) if sample else [],
            facts=facts,
            decision=judge(facts, job.guards),
        )


@contextmanager
def _scratch_ledger() -> Iterator[Ledger]:
    """Yield a temporary ledger, readable by this user alone, and delete it at the end."""
    import sqlalchemy as sa

    from zoho_crm.ledger.ledger import Ledger

    with tempfile.TemporaryDirectory(prefix="zoho-delink-plan-") as folder:
        ledger = Ledger(sa.create_engine(f"sqlite:///{Path(folder) / 'plan.db'}"))
        try:
            ledger.ensure_schema()
            yield ledger
        finally:
            ledger.close()


def _made_plan(ledger: Ledger, job: Job, rows: Iterator[tuple[object, object]]) -> PlanSummary:
    from zoho_crm.airflow_compat import max_map_length
    from zoho_crm.core.models import Origin, RunStart, Target

    relation = job.relation.as_relation()
    origin = Origin(dag_id=job.dag_id, dag_run_id="", run_type="manual", task_id="")
    target = Target(relation, data_center="", api_version="", strategy=job.strategy, dry_run=True)
    ledger.runs.start(RunStart(_RUN, job.name, origin, target, mode="dry_run"))
    return ledger.plans.create(
        _RUN,
        relation,
        rows,
        chunk_size=job.chunk_size,
        max_chunks=max_map_length(),
        origin=origin,
        target=target,
    )


def _facts(job: Job, request: RunRequest, jobs_folder: Path, source: Engine, planned: int) -> Facts:
    """Query the facts that the limits of a job need, and no others."""
    from zoho_crm.core.guard_rules import Facts
    from zoho_crm.core.job_files import read_sql
    from zoho_crm.source import fetch_source_facts

    found = fetch_source_facts(source, read_sql(job, jobs_folder), request.window_start, request.window_end)
    guards = job.guards
    return Facts(
        planned=planned,
        now=current_time(),
        baseline_links=found.baseline_links,
        source_as_of=found.source_as_of,
        recent_planned=_recent(job) if guards.max_jump is not None else (),
    )


def _recent(job: Job) -> list[int]:
    from zoho_crm.cli.connections import NoAuditError, open_ledger

    try:
        with open_ledger(job.audit_conn_id) as ledger:
            return ledger.runs.recent_planned_counts(job.name, _RUN)
    except NoAuditError:
        return []


def _document(job: Job, request: RunRequest, planned: _Planned) -> dict[str, Any]:
    plan = planned.plan
    return {
        "ok": not planned.decision.breaches,
        "job": job.name,
        "window_start": request.window_start,
        "window_end": request.window_end,
        "lookback": job.source.lookback,
        "source_rows": plan.source_rows,
        "distinct": plan.planned,
        "duplicates": plan.duplicates,
        "invalid": plan.invalid,
        "invalid_by_reason": planned.invalid,
        "sendable": plan.planned - plan.invalid,
        "chunks": len(plan.chunks),
        "baseline_links": planned.facts.baseline_links,
        "source_as_of": planned.facts.source_as_of,
        "guards": planned.decision.text,
        "breaches": planned.decision.breaches,
        "on_breach": job.guards.on_breach,
        "approvals": job.guards.approvals,
        "sample": [
            {"external_id": link.external_id, "related_external_id": link.related_external_id}
            for link in planned.sample
        ],
    }


def _print_report(out: Output, report: dict[str, Any]) -> None:
    if out.as_json:
        out.document(report)
        return
    out.title(f"What a run of {report['job']} would plan")
    out.facts(
        {
            "window": _window(report["window_start"], report["window_end"]),
            "lookback": _lookback_text(report["lookback"]),
            "source rows": report["source_rows"],
            "distinct links": report["distinct"],
            "duplicates": report["duplicates"],
            "invalid": report["invalid"],
            "links to send": f"{report['sendable']} in {format_count(report['chunks'], 'chunk')}",
            "baseline links": report["baseline_links"],
            "source as of": report["source_as_of"],
        }
    )
    if report["invalid_by_reason"]:
        out.title("Invalid links")
        out.table(("reason", "links"), list(report["invalid_by_reason"].items()))
    if report["sample"]:
        out.title("Sample of the links")
        out.table(
            ("external_id", "related_external_id"),
            [(link["external_id"], link["related_external_id"]) for link in report["sample"]],
        )
    for breach in report["breaches"]:
        out.error(breach)
    if report["ok"]:
        out.ok(f"guards {report['guards']}")
    if not report["ok"] and report["on_breach"] == "stop":
        out.say("A run would stop before sending anything.")
    elif not report["ok"] or (report["approvals"] == "always" and report["sendable"]):
        out.say("A run would wait for an approval.")


def _lookback_text(lookback: timedelta | None) -> str | None:
    if lookback is None:
        return None
    return (
        f"not read here; scheduled and backfill runs also read the {duration(lookback)} before their window"
    )


def _window(start: datetime, end: datetime) -> str:
    from zoho_crm.core.run_request import BEGINNING

    if start == BEGINNING:
        return f"everything before {end:%Y-%m-%d %H:%M:%S} UTC"
    return f"{start:%Y-%m-%d %H:%M:%S} to {end:%Y-%m-%d %H:%M:%S} UTC (end not included)"
