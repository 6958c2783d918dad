"""``zoho-delink redrive`` and ``relink``: count the links of past runs, then have the Dags take them up."""

from __future__ import annotations

import os
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import click

from zoho_crm.cli.airflow_api import PASSWORD, TOKEN, URL, USER, AirflowApi
from zoho_crm.cli.options import command, job_named, jobs_folder_option, json_option, wrong_use

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from airflow.sdk import Context

    from zoho_crm.cli.output import Output
    from zoho_crm.core.job import Job
    from zoho_crm.operators.plan_again import PlanAgainOperator

_CREDENTIALS = f"""
To start a run, Airflow's REST API is used: credentials are {TOKEN}, or {USER} and {PASSWORD}, in the environment.
"""

_WORDS = {
    "chosen": "to take up",
    "runs": "runs looked at",
    "put_back": "put back since",
    "still_removed": "removed, and not there since",
    "removed_again": "removed again by another run since",
    "already_absent": "found absent by that run: never put back",
    "pasted": "links named",
}


def apply_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of a command that can start a run."""
    options = (
        click.option("--apply", "apply", is_flag=True, help="Start the run, after showing the counts."),
        click.option("--reason", help="Why; kept with the run. Needed with --apply."),
        click.option("--max-links", type=click.IntRange(0), help="Limit in place of the job's max_links."),
        click.option("--yes", is_flag=True, help="Do not ask before starting the run: for scripts."),
        click.option("--airflow-url", envvar=URL, show_envvar=True, help="Address of Airflow's API server."),
        jobs_folder_option,
        json_option,
    )
    for option in reversed(options):
        function = option(function)
    return function


@click.command("redrive", epilog=_CREDENTIALS)
@click.argument("job_name", metavar="JOB")
@click.option("--run", help="Airflow's run id, or the run_key, of the run that left links.")
@click.option("--window", nargs=2, metavar="START END", help="Half-open: runs whose own window lies in it.")
@click.option(
    "--outcomes",
    metavar="LIST",
    help="By default failed,unknown,not_attempted: last outcomes of the links meant.",
)
@apply_options
@command
def redrive(
    job_name: str,
    run: str | None,
    window: tuple[str, str] | None,
    outcomes: str | None,
    jobs_folder: Path,
    out: Output,
    **how: Any,
) -> None:
    """
    Take up again the links that past runs of JOB have left.

    Counts them by what happened to each last, over all runs. With --apply the Dag zoho_delink_redrive is started, which
    counts anew, and does it.
    """
    from zoho_crm.core.again import REDRIVE_DAG_ID
    from zoho_crm.core.outcomes import DRIVE_AGAIN
    from zoho_crm.operators.plan_again import PlanRedriveOperator

    start, end = window or (None, None)
    chosen = [part.strip() for part in outcomes.split(",")] if outcomes else sorted(DRIVE_AGAIN)
    form = {"run": run, "window_start": start, "window_end": end, "outcomes": chosen}
    _again(
        REDRIVE_DAG_ID, PlanRedriveOperator, job_named(jobs_folder, job_name), form, jobs_folder, out, **how
    )


@click.command("relink", epilog=_CREDENTIALS)
@click.argument("job_name", metavar="JOB")
@click.option("--run", required=True, help="Airflow's run id, or the run_key, of the run that removed links.")
@click.option(
    "--where", help="Condition on the audit rows of the removals, like \"external_id LIKE 'c-1%'\"."
)
@click.option(
    "--link", "links", nargs=2, multiple=True, metavar="ID RELATED_ID", help="Only this link; repeatable."
)
@apply_options
@command
def relink(
    job_name: str,
    run: str,
    where: str | None,
    links: tuple[tuple[str, str], ...],
    jobs_folder: Path,
    out: Output,
    **how: Any,
) -> None:
    """
    Put back the links that a run of JOB has removed.

    Counts them, and what became of each since: only links that are gone because of that run are put back. With --apply
    the Dag zoho_relink is started, which counts anew, asks Zoho about each link, and does it.
    """
    from zoho_crm.core.again import RELINK_DAG_ID
    from zoho_crm.operators.plan_again import PlanRelinkOperator

    pasted = [{"external_id": one, "related_external_id": other} for one, other in links]
    form = {"run": run, "where": where, "links": pasted or None}
    _again(RELINK_DAG_ID, PlanRelinkOperator, job_named(jobs_folder, job_name), form, jobs_folder, out, **how)


def _again(
    dag_id: str,
    operator: type[PlanAgainOperator],
    job: Job,
    fields: dict[str, Any],
    jobs_folder: Path,
    out: Output,
    *,
    apply: bool,
    reason: str | None,
    max_links: int | None,
    yes: bool,
    airflow_url: str | None,
) -> None:
    if apply and not (reason or "").strip():
        wrong_use("Say why with --reason: it is kept with the run.")
    if apply and not yes and (out.as_json or not sys.stdin.isatty()):
        wrong_use("Nobody can be asked here: add --yes to start the run without asking.")
    form = {
        "job": job.name,
        "mode": "apply" if apply else "dry_run",
        "reason": reason,
        "max_links": max_links,
    }
    form = {name: value for name, value in {**form, **fields}.items() if value is not None}
    counts = _count(operator, job, form, jobs_folder)
    report: dict[str, Any] = {
        "dag_id": dag_id,
        "job": job.name,
        "counts": counts,
        "run_id": None,
        "link": None,
    }
    if not out.as_json:
        out.title(f"{dag_id}: links of {job.name}")
        out.table(("links", "number"), [(_WORDS.get(name, name), number) for name, number in counts.items()])
    if apply and counts["chosen"]:
        report |= _start(dag_id, form, counts["chosen"], airflow_url, yes=yes)
    _tell(out, report, apply=apply)


def _count(
    operator: type[PlanAgainOperator], job: Job, form: dict[str, Any], jobs_folder: Path
) -> dict[str, int]:
    """
    Select the links as the Dag's plan will: by its own operator.

    What Zoho alone can tell, the organisation, is not asked for.
    """
    from zoho_crm.cli.connections import open_ledger
    from zoho_crm.cli.schedule import current_time
    from zoho_crm.core.records import Target

    plan = operator(task_id="plan", job=job, jobs_folder=jobs_folder)
    target = Target(job.relation.as_relation(), data_center="", api_version="", operation=plan.operation)
    context = cast(
        "Context",
        {"params": form, "dag_run": SimpleNamespace(run_type="manual", run_after=current_time())},
    )
    with open_ledger(job.audit_conn_id) as ledger:
        selection = plan.select(ledger, job, context, target)
        for _ in selection.links:
            pass
    counts = {name: number for name, number in sorted(selection.counts.items()) if name != "chosen"}
    return {"chosen": selection.counts["chosen"], **counts}


def _start(
    dag_id: str, form: dict[str, Any], links: int, airflow_url: str | None, *, yes: bool
) -> dict[str, Any]:
    airflow = AirflowApi(airflow_url, os.environ)
    if airflow.is_paused(dag_id):
        click.echo(f"The Dag {dag_id} is paused: the run will wait until somebody unpauses it.", err=True)
    if not yes:
        click.confirm(f"Start {dag_id} for {links} links?", abort=True, err=True)
    run_id = airflow.trigger(dag_id, form)
    return {"run_id": run_id, "link": airflow.link(dag_id, run_id)}


def _tell(out: Output, report: dict[str, Any], *, apply: bool) -> None:
    if out.as_json:
        out.document(report)
    elif report["run_id"]:
        out.fine(f"started {report['run_id']}")
        out.say(report["link"])
    elif not report["counts"]["chosen"]:
        out.say("There is nothing to take up.")
    elif not apply:
        out.say("Nothing was started: add --apply and --reason to do it.")
