"""``zoho-delink check-job``: check a job file and show its next runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zoho_crm.cli.options import CommandError, Exit, command, current_time, json_option
from zoho_crm.cli.output import duration
from zoho_crm.errors import ZohoConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime, timedelta

    from zoho_crm.cli.output import Output
    from zoho_crm.core.job import Job
    from zoho_crm.core.job_files import JobSql


@click.command("check-job")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@json_option
@command
def check_job(file: Path, out: Output) -> Exit:
    """
    Check a job file and its SQL, and show its next runs.

    Exits with 1 if there is an error. SQL files are read from the folder sql beside the folder of FILE, as in Airflow.
    Connections that are defined here are checked too, and the SQL is run without reading a row. Zoho is not called.
    """
    from zoho_crm.core.job_files import JobFileError, load_job, place_faults, read_sql
    from zoho_crm.source import sql_faults

    try:
        job = load_job(file)
    except JobFileError as error:
        return _print_report(out, {"file": file, "errors": str(error).splitlines()})
    report = _describe(job, file)
    sql_errors = sql_faults(job, file.parent)
    statements = [] if sql_errors else list(read_sql(job, file.parent).values())
    errors, report["not_checked"] = _check_connections(job, statements)
    found = _schedule_errors(job) + sql_errors + _approver_errors(job) + errors
    report["errors"] = place_faults(found, file)
    report["warnings"] = _warnings(job)
    return _print_report(out, report)


def _describe(job: Job, file: Path) -> dict[str, Any]:
    from zoho_crm.hooks.zoho_checks import needed_scopes

    return {
        "file": file,
        "job": job.name,
        "dag": job.dag_id,
        "description": job.description or None,
        "owner": job.owner,
        "relation": str(job.relation.as_relation()),
        "source": {
            "conn_id": job.source.conn_id,
            "sql_file": job.source.sql_file,
            "lookback": job.source.lookback,
        },
        "zoho_conn_id": job.zoho_conn_id,
        "scopes": needed_scopes(job.relation.as_relation()),
        "audit_conn_id": job.audit_conn_id,
        "strategy": job.strategy,
        "schedule": format_schedule(job),
        "automatic": job.automatic,
        "next_windows": _next_windows(job),
        "guards": _guards(job),
        "max_links_is_default": job.guards.has_default_limit,
        "failure_tolerance": job.failure_tolerance,
        "snapshot": list(job.snapshot_attributes),
        "retention_days": job.retention_days,
        "notify": [notice.notifier for notice in job.notify],
    }


def _guards(job: Job) -> dict[str, Any]:
    values = {**dict(job.guards), "max_links": job.guards.link_limit}
    return {
        name: duration(value) if name in {"max_source_age", "max_plan_age", "approval_timeout"} else value
        for name, value in values.items()
        if value is not None and value != ()
    }


def _next_windows(job: Job) -> list[dict[str, datetime]]:
    if job.cron is None:
        return []
    from zoho_crm.schedules import next_windows

    return [{"window_start": start, "window_end": end} for start, end in next_windows(job, current_time())]


def format_schedule(job: Job) -> str:
    """Return in words when a job runs."""
    if job.cron:
        return f"{job.cron} ({job.timezone})"
    if job.asset:
        return f"whenever the asset {job.asset.asset!r} is updated"
    return "none: manual runs only"


def _schedule_errors(job: Job) -> list[str]:
    """Return what Airflow refuses about an asset, or about changes of the clocks."""
    if job.asset is None and (job.cron is None or job.timezone == "UTC"):
        return []
    from zoho_crm.schedules import schedule_faults

    return schedule_faults(job)


def _approver_errors(job: Job) -> list[str]:
    """Return the approvers who cannot be users of the Airflow that is configured here."""
    if not job.guards.approvers:
        return []
    from zoho_crm.airflow_compat import auth_manager
    from zoho_crm.core.approval import approver_faults

    return approver_faults(job.guards.approvers, auth_manager())


def _check_connections(job: Job, statements: Sequence[JobSql]) -> tuple[list[str], list[str]]:
    """
    Check the connections of a job that are defined here.

    :param statements: SQL to run in the warehouse
    :return: errors, and what was not checked
    """
    from zoho_crm.cli.connections import NoConnectionError, open_engine, require, zoho_hook
    from zoho_crm.databases import create_audit_engine
    from zoho_crm.source import check_in_warehouse

    def check_source(conn_id: str, field: str) -> None:
        with open_engine(conn_id, field) as engine:
            check_in_warehouse(engine, statements)

    def check_zoho(conn_id: str, _field: str) -> None:
        _ = zoho_hook(conn_id).connection  # checked when it is first read

    def check_audit(conn_id: str, field: str) -> None:
        require(conn_id, field)
        create_audit_engine(conn_id).dispose()

    errors: list[str] = []
    not_checked: list[str] = []
    checks = [
        ("source.conn_id", job.source.conn_id, check_source),
        ("zoho_conn_id", job.zoho_conn_id, check_zoho),
        ("audit_conn_id", job.audit_conn_id, check_audit),
    ]
    if job.retention_conn_id:
        checks.append(("retention_conn_id", job.retention_conn_id, check_audit))
    for field, conn_id, check in checks:
        try:
            check(conn_id, field)
        except NoConnectionError:
            not_checked.append(f"{field}: connection {conn_id!r} is not defined here")
        except CommandError as error:
            found = not_checked if error.code is Exit.UNREACHABLE else errors
            found.append(str(error))
        except ZohoConfigError as error:
            errors.append(str(error))
    return errors, not_checked


def _warnings(job: Job) -> list[str]:
    if job.cron is None:
        return []
    from zoho_crm.schedules import first_window_inside_period

    window = first_window_inside_period(job, current_time())
    if window is None:
        return []
    return [
        f"start_date lies between two times of the schedule: rows marked before {window[0]:%Y-%m-%d %H:%M} UTC, where "
        "the first window starts, belong to no window; a manual run reads them"
    ]


def _print_report(out: Output, report: dict[str, Any]) -> Exit:
    errors: list[str] = report["errors"]
    if out.as_json:
        out.document({"ok": not errors, **report})
        return Exit.CHECK_FAILED if errors else Exit.OK
    if "job" in report:
        _show(out, report)
    for warning in report.get("warnings", ()):
        out.warning(warning)
    for fact in report.get("not_checked", ()):
        out.warning(f"not checked: {fact}")
    for error in errors:
        out.error(error)
    if not errors:
        out.ok(f"{report['file']} is valid")
    return Exit.CHECK_FAILED if errors else Exit.OK


def _format_value(value: object) -> str:
    if isinstance(value, tuple):
        return " ".join(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _lookback_text(lookback: timedelta | None) -> str:
    if lookback is None:
        return "none: rows that are committed after their window was read are missed (source.lookback)"
    return f"scheduled and backfill runs read from {duration(lookback)} before their window"


def _show(out: Output, report: dict[str, Any]) -> None:
    from zoho_crm.core.job import AUTOMATIC_RUNS

    source, guards = report["source"], dict(report["guards"])
    timeout = guards.pop("approval_timeout")
    on_breach, approvals = guards.pop("on_breach"), guards.pop("approvals")
    self_approval = not guards.pop("forbid_self_approval")
    if report["max_links_is_default"]:
        guards["max_links"] = f"{guards['max_links']} (the default)"
    limits = [f"{name} {_format_value(value)}" for name, value in guards.items()]
    if not guards.keys() & {"max_links", "max_share"}:
        limits.insert(0, "no limit of links")
    out.title(report["dag"])
    out.facts(
        {
            "description": report["description"],
            "owner": report["owner"],
            "relation": report["relation"],
            "source": f"connection {source['conn_id']}, {source['sql_file']}",
            "Zoho": f"connection {report['zoho_conn_id']}, strategy {report['strategy']}",
            "scopes": ", ".join(report["scopes"]),
            "audit": f"connection {report['audit_conn_id']}",
            "schedule": report["schedule"],
            "lookback": _lookback_text(source["lookback"]) if report["next_windows"] else None,
            "automatic runs": AUTOMATIC_RUNS[report["automatic"]],
            "guards": ", ".join(limits),
            "on a breach": f"approval within {timeout}" if on_breach == "approve" else "the run stops",
            "each run": f"approval within {timeout}" if approvals == "always" else None,
            "self-approval": "allowed" if self_approval else None,
            "snapshot": ", ".join(report["snapshot"]) or None,
            "retention": f"{days} days" if (days := report["retention_days"]) else None,
            "notify": ", ".join(report["notify"]) or None,
        }
    )
    if report["next_windows"]:
        out.title("Next runs")
        out.table(
            ("due", "window start", "window end (not included)"),
            [
                (window["window_end"], window["window_start"], window["window_end"])
                for window in report["next_windows"]
            ],
        )
