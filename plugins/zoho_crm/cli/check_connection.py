"""``zoho-delink check-connection``: check a Zoho connection, and what a job needs of it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from zoho_crm.cli.options import Exit, command, exit_of, job_named, jobs_folder_option, json_option
from zoho_crm.core.models import DELINK, RELINK
from zoho_crm.errors import ZohoConfigError, ZohoError

if TYPE_CHECKING:
    from pathlib import Path

    from zoho_crm.cli.output import Output
    from zoho_crm.core.job import Job
    from zoho_crm.hooks.connection import ZohoConnection
    from zoho_crm.hooks.metadata import Org
    from zoho_crm.hooks.zoho_crm import ZohoCRMHook

EDITION_CONCURRENCY = {
    "free": 5,
    "standard": 10,
    "professional": 15,
    "enterprise": 20,
    "zohoone": 20,
    "ultimate": 25,
    "crmplus": 25,
}
"""
Limit of requests in flight per organization, by edition.

Source: https://www.zoho.com/crm/developer/docs/api/v7/api-limits.html
"""


@click.command("check-connection")
@click.argument("conn_id", required=False)
@click.option("--job", "job_name", metavar="JOB", help="Also check what this job needs.")
@click.option("--relink", is_flag=True, help="With --job: check what relinking needs.")
@jobs_folder_option
@json_option
@command
def check_connection(
    conn_id: str | None, job_name: str | None, relink: bool, jobs_folder: Path, out: Output
) -> Exit:
    """
    Check a Zoho connection, and what a job needs of it.

    Fetches an access token and the organization, and reads no record. CONN_ID defaults to the connection of the job, or
    to zoho_crm_default. Uses one of the ten tokens that Zoho issues in ten minutes; the token is not stored. Exits with
    1 if a check failed.
    """
    from zoho_crm.cli.connections import zoho_hook

    job = job_named(jobs_folder, job_name) if job_name else None
    conn_id = conn_id or (job.zoho_conn_id if job else "zoho_crm_default")
    hook = zoho_hook(conn_id)
    report: dict[str, Any] = {"conn_id": conn_id, "job": job.name if job else None}
    errors: list[str] = []
    advice: list[str] = []
    try:
        _check(hook, job, RELINK if relink else DELINK, report, errors, advice)
    except ZohoError as error:
        if exit_of(error) is Exit.UNREACHABLE:
            raise
        errors.append(str(error))
    _print_report(out, {"ok": not errors, **report, "errors": errors, "advice": advice})
    return Exit.CHECK_FAILED if errors else Exit.OK


def _check(
    hook: ZohoCRMHook,
    job: Job | None,
    operation: str,
    report: dict[str, Any],
    errors: list[str],
    advice: list[str],
) -> None:
    """Fill the report step by step, so that after an error it shows what was checked."""
    from zoho_crm.hooks.zoho_checks import environment_fault

    connection = hook.connection
    _refuse_placeholders(connection)
    report |= {
        "data_center": connection.data_center,
        "environment": connection.environment,
        "api_version": connection.api_version,
        "address": connection.base_url,
        "local": connection.is_local,
        "max_concurrency": connection.max_concurrency,
    }
    _use_fresh_token(hook)
    report["scopes"] = sorted(hook.granted_scopes())
    org = hook.get_org()
    report["org"] = _describe(org)
    if fault := environment_fault(connection, org):
        errors.append(fault)
    allowed = EDITION_CONCURRENCY.get(report["org"]["edition"].lower().replace(" ", "").replace("_", ""))
    report["org"]["max_concurrency"] = allowed
    if allowed is not None and connection.max_concurrency > allowed:
        advice.append(
            f"max_concurrency is {connection.max_concurrency}, but Zoho allows this edition {allowed} requests in "
            f"flight: lower it to {allowed}, so that Zoho does not refuse requests."
        )
    if job:
        found = hook.check_relation(
            job.relation.as_relation(), operation, allow_user_fields=job.allow_user_external_field
        )
        errors += [error for error in found if error not in errors]


def _refuse_placeholders(connection: ZohoConnection) -> None:
    """
    Refuse the placeholders of the template that ``zoho-delink init`` writes.

    :raises ZohoConfigError: a field still has its placeholder
    """
    fields = {
        "login": (connection.client_id, "CLIENT_ID"),
        "password": (connection.client_secret.get_secret_value(), "CLIENT_SECRET"),
        "refresh_token": (connection.refresh_token.get_secret_value(), "REFRESH_TOKEN"),
    }
    if found := [f"{name} is {word}" for name, (value, word) in fields.items() if value == word]:
        raise ZohoConfigError(
            f"Connection {connection.conn_id!r} still has placeholders of connections.env.example "
            f"({', '.join(found)}): fill in the values of your Zoho client, and load the file again"
        )


def _use_fresh_token(hook: ZohoCRMHook) -> None:
    """Give a hook a fresh token: a stored one would hide that the refresh token is revoked."""
    from zoho_crm.hooks.access_token import Stored, TokenSource
    from zoho_crm.hooks.oauth import fetch_token

    class Nowhere:
        def load(self) -> Stored:
            return Stored()

        def save(self, stored: Stored) -> None:
            pass

    hook.token_source = TokenSource(
        hook.connection,
        fetch=lambda: fetch_token(
            hook.connection,
            hook.network,
            timeout_s=(hook.connect_timeout_s, min(hook.read_timeout_s, 30.0)),
            sleep=time.sleep,
        ),
        store=Nowhere(),
    )
    hook.token_source.get()


def _describe(org: Org) -> dict[str, Any]:
    from zoho_crm.hooks.metadata import edition_of

    return {
        "name": org.get("company_name"),
        "id": org.get("zgid") or org.get("id"),
        "type": org.get("type"),
        "edition": edition_of(org),
    }


def _print_report(out: Output, report: dict[str, Any]) -> None:
    if out.as_json:
        out.document(report)
        return
    org = report.get("org") or {}
    out.title(f"Connection {report['conn_id']}")
    out.facts(
        {
            "organization": f"{org['name']} ({org['id']}, {org['type']})" if org else None,
            "edition": org.get("edition"),
            "data center": report.get("data_center"),
            "environment": report.get("environment"),
            "API": f"{report['api_version']} at {report['address']}" if "address" in report else None,
            "requests in flight": _limits(report) if "address" in report else None,
            "scopes": (", ".join(report["scopes"]) or "not reported by Zoho") if "scopes" in report else None,
            "job": report["job"],
        }
    )
    for advice in report["advice"]:
        out.say(advice)
    for error in report["errors"]:
        out.error(error)
    if report["ok"]:
        out.ok("the connection works" + (f" and suffices for {report['job']}" if report["job"] else ""))


def _limits(report: dict[str, Any]) -> str:
    allowed = (report.get("org") or {}).get("max_concurrency")
    return f"{report['max_concurrency']}" + (f" (the edition allows {allowed})" if allowed else "")
