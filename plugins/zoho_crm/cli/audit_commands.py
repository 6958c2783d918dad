"""``zoho-delink audit``: show, export and verify the audit."""

from __future__ import annotations

import csv
import os
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

from zoho_crm.cli.options import (
    Exit,
    audit_conn_of,
    audit_conn_option,
    command,
    job_named,
    jobs_folder_option,
    json_option,
    usage_error,
)
from zoho_crm.cli.output import json_line, plain_value
from zoho_crm.core.formatting import format_count
from zoho_crm.core.links import pair_key
from zoho_crm.core.outcomes import Outcome
from zoho_crm.errors import AnchorError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from contextlib import AbstractContextManager

    from zoho_crm.cli.output import Counted, Output
    from zoho_crm.core.job import Job
    from zoho_crm.core.models import StoredRun
    from zoho_crm.ledger.chain import Finding
    from zoho_crm.ledger.ledger import Ledger

job_option = click.option("--job", "job_name", metavar="JOB", help="Name of the job.")


@click.group("audit")
def audit() -> None:
    """Show, export and verify what happened to every link."""


@audit.command("show")
@click.argument("run", required=False)
@click.option(
    "--link", nargs=2, metavar="ID RELATED_ID", help="Show the history of one link, by its external IDs."
)
@click.option(
    "--limit", type=click.IntRange(1), default=20, show_default=True, help="Number of runs to show."
)
@job_option
@audit_conn_option
@jobs_folder_option
@json_option
@command
def show(
    run: str | None,
    link: tuple[str, str] | None,
    limit: int,
    job_name: str | None,
    audit_conn_id: str | None,
    jobs_folder: Path,
    out: Output,
) -> Exit:
    """
    Show one run, the history of one link, or the last runs.

    RUN is Airflow's run ID or the run_key. Without RUN and --link, shows the last runs of --job, or of all jobs. Exits
    with 1 if no run has processed the link of --link.
    """
    from zoho_crm.cli import audit_view
    from zoho_crm.cli.connections import open_ledger
    from zoho_crm.ledger.run_queries import RunFilter, RunQueries

    if run and link:
        usage_error("Give either RUN or --link.")
    job = job_named(jobs_folder, job_name) if job_name else None
    with open_ledger(audit_conn_of(jobs_folder, job, audit_conn_id)) as ledger:
        if link:
            history = _link_history(ledger, link, job)
            audit_view.show_history(out, link, history)
            return Exit.OK if history else Exit.CHECK_FAILED
        if run:
            audit_view.show_run(out, _run_report(ledger, run, job_name))
        else:
            found = RunQueries(ledger.engine).page(RunFilter(job=job_name), visible=None, limit=limit)
            audit_view.show_runs(out, [_as_document(each) for each in found])
    return Exit.OK


def _run_report(ledger: Ledger, name: str, job_name: str | None) -> dict[str, Any]:
    """Return a run: counts by outcome, reasons of links that need attention, decisions, job file and SQL."""
    from zoho_crm.ledger.run_queries import RunQueries

    queries = RunQueries(ledger.engine)
    run = queries.find(name, job_name)
    progress = queries.progress(run)
    return {
        **_as_document(run),
        "credits": progress.credits,
        "outcomes": {one.value: progress.by_outcome[one] for one in Outcome if progress.by_outcome[one]},
        "unfinished_links": ledger.runs.count_unsettled(run.run_key),
        "reasons": [asdict(reason) for reason in queries.reasons(run, progress)],
        "events": [{**asdict(event), "summary": event.summary} for event in queries.events(run.run_key)],
        "source_texts": {
            name: {"sha256": run.texts[name], "text": text} for name, text in queries.texts(run).items()
        },
    }


def _as_document(run: StoredRun) -> dict[str, Any]:
    """Return the columns of a run, with what is derived from them."""
    return {**asdict(run), "attention": run.attention, "ending": run.ending}


def _link_history(ledger: Ledger, link: tuple[str, str], job: Job | None) -> list[dict[str, Any]]:
    """Return the audit rows of a link, oldest first; without a job, of all relations."""
    from zoho_crm.ledger.link_queries import LinkQueries

    queries = LinkQueries(ledger.engine)
    keys = [pair_key(job.relation.as_relation(), *link)] if job else queries.pair_keys(*link)
    return [asdict(event) for event in reversed(queries.history(keys, visible=None))]


@audit.command("export")
@click.argument("run")
@click.option(
    "--format", "kind", type=click.Choice(["csv", "jsonl"]), help="Default: csv, or jsonl with --json."
)
@click.option("--latest", is_flag=True, help="Only the last row of each link, with its final outcome.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File to write. Default: standard output.",
)
@job_option
@audit_conn_option
@jobs_folder_option
@json_option
@command
def export(
    run: str,
    kind: str | None,
    latest: bool,
    output: Path | None,
    job_name: str | None,
    audit_conn_id: str | None,
    jobs_folder: Path,
    out: Output,
) -> None:
    """
    Write the audit rows of a run, one per line.

    The rows are in the order of the plan. In CSV, an apostrophe precedes whatever a spreadsheet would evaluate as a
    formula; JSON Lines has the values unchanged. The rows contain external IDs, so only you may read a new file.
    """
    from zoho_crm.cli.connections import open_ledger
    from zoho_crm.ledger.link_queries import LinkQueries
    from zoho_crm.ledger.run_queries import RunQueries

    job = job_named(jobs_folder, job_name) if job_name else None
    write = _write_jsonl if (kind or ("jsonl" if out.as_json else "csv")) == "jsonl" else _write_csv
    with open_ledger(audit_conn_of(jobs_folder, job, audit_conn_id)) as ledger:
        key = RunQueries(ledger.engine).find(run, job_name).run_key
        rows = LinkQueries(ledger.engine).audit_rows(key, only_latest=latest)
        with _open_output(output, out) as stream, _progress(out, output) as counted:
            count = write(stream, counted(rows))
    click.echo(f"{count} rows of {key}" + (f" in {output}" if output else ""), err=True)


@audit.command("verify")
@click.argument("run", required=False)
@click.option(
    "--limit",
    type=click.IntRange(1),
    default=1000,
    show_default=True,
    help="Maximum number of findings to show.",
)
@click.option("--anchor", metavar="URL", help="Compare with the anchors in this folder. Default: the job's.")
@click.option(
    "--public-key",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Ed25519 public key in PEM, with which every anchor must be signed.",
)
@job_option
@audit_conn_option
@jobs_folder_option
@json_option
@command
def verify(
    run: str | None,
    limit: int,
    anchor: str | None,
    public_key: Path | None,
    job_name: str | None,
    audit_conn_id: str | None,
    jobs_folder: Path,
    out: Output,
) -> Exit:
    """
    Check that the audit was not changed.

    Recomputes the hashes of the audit rows, of one run or of all, and compares them with the chains and the seals.

    Also compares the row of a run with its events, and with --anchor the seals with what was written elsewhere.

    Exits with 1 if a row was altered, added or is missing, or if a seal is broken or does not cover all rows.
    """
    from zoho_crm.anchors.anchor_check import check_anchors
    from zoho_crm.anchors.anchor_files import AnchorFolder, load_public_key
    from zoho_crm.cli.connections import open_ledger
    from zoho_crm.ledger.run_queries import RunQueries

    job = job_named(jobs_folder, job_name) if job_name else None
    url = anchor or (job.audit_anchor if job else None)
    if public_key and not url:
        usage_error("--public-key needs --anchor, or a job with audit_anchor.")
    signer = load_public_key(public_key) if public_key else None
    with open_ledger(audit_conn_of(jobs_folder, job, audit_conn_id)) as ledger:
        key = RunQueries(ledger.engine).find(run, job_name).run_key if run else None
        with out.progress("Verifying the audit") as counted:
            findings = list(islice(ledger.chain.verify(key, counted), limit + 1))
        unread = None
        if url:
            found = check_anchors(ledger, AnchorFolder(url), public_key=signer, run_key=key)
            unread = _add_findings(findings, found, limit + 1)
    more, findings = len(findings) > limit, findings[:limit]
    rows = [
        {"run_key": one.run_key, "kind": str(one.kind), "event_id": one.event_id, "detail": one.detail}
        for one in findings
    ]
    if out.as_json:
        unread_error = {"error": unread} if unread else {}
        out.document({"ok": not rows, "run_key": key, "findings": rows, "more": more, **unread_error})
    elif rows:
        out.table(("kind", "run", "event", "detail"), [tuple(row[name] for name in _ORDER) for row in rows])
        out.error(
            f"{'more than ' if more else ''}{format_count(len(rows), 'finding')}: "
            "the audit was changed after it was written"
        )
        if unread:
            out.error(unread)
    else:
        out.ok("the audit is unchanged" + (f": {key}" if key else ""))
    return Exit.CHECK_FAILED if rows else Exit.OK


_ORDER = ("kind", "run_key", "event_id", "detail")


def _add_findings(findings: list[Finding], of_anchors: Iterator[Finding], limit: int) -> str | None:
    """
    Add findings about anchors.

    :return: why the anchors cannot be read, if other findings are to be shown nevertheless
    :raises AnchorError: the anchors cannot be read, and there are no other findings
    """
    try:
        findings += list(islice(of_anchors, limit - len(findings)))
    except AnchorError as error:
        if not findings:
            raise
        return str(error)
    return None


@audit.command("anchor")
@click.option("--job", "job_name", metavar="JOB", required=True, help="Job that sets audit_anchor.")
@jobs_folder_option
@json_option
@command
def anchor(job_name: str, jobs_folder: Path, out: Output) -> None:
    """
    Write the anchors that are missing.

    Each report does so for new seals; this also writes those that were deleted, or are older than audit_anchor.
    """
    from zoho_crm.anchors.anchor_files import AnchorFolder
    from zoho_crm.cli.connections import open_ledger

    job = job_named(jobs_folder, job_name)
    folder = AnchorFolder.of_job(job)
    if folder is None:
        usage_error(f"Job {job.name} sets no audit_anchor.")
    with open_ledger(job.audit_conn_id) as ledger:
        written = folder.write_missing(ledger, check_all=True)
    if out.as_json:
        out.document({"written": written})
    else:
        out.ok(f"anchors written: {written}")


@audit.command("migrate")
@audit_conn_option
@jobs_folder_option
@json_option
@command
def migrate(audit_conn_id: str | None, jobs_folder: Path, out: Output) -> None:
    """
    Create or upgrade the tables of an audit database.

    Needed only where another role than that of the jobs owns the tables; otherwise the first run of a job does it.
    """
    from zoho_crm.cli.connections import migrate as migrate_database

    conn_id = audit_conn_of(jobs_folder, None, audit_conn_id)
    migrate_database(conn_id)
    if out.as_json:
        out.document({"audit_conn_id": conn_id, "ok": True})
    else:
        out.ok(f"the audit database of connection {conn_id} has the tables of this version")


@contextmanager
def _open_output(output: Path | None, out: Output) -> Iterator[IO[str]]:
    if output is None:
        yield out.stream
        return
    try:
        descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    except OSError as error:
        usage_error(f"{output} cannot be written: {error.strerror}")
    with open(descriptor, "w", encoding="utf-8", newline="") as stream:  # noqa: PTH123 - a descriptor has no path
        yield stream


def _progress(out: Output, output: Path | None) -> AbstractContextManager[Counted]:
    """Show the progress of an export to a file; rows on the terminal show it themselves."""
    return nullcontext(iter) if output is None else out.progress(f"Writing {output}")


def _write_csv(stream: IO[str], rows: Iterator[Mapping[str, Any]]) -> int:
    from zoho_crm.core.formatting import safe_csv_cell
    from zoho_crm.ledger.tables import audit as table

    columns = [column.name for column in table.c]
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(columns)
    count = 0
    for row in rows:
        values = (plain_value(row[name]) for name in columns)
        # A negative number is not a formula.
        writer.writerow([value if isinstance(value, int) else safe_csv_cell(value) for value in values])
        count += 1
    return count


def _write_jsonl(stream: IO[str], rows: Iterator[Mapping[str, Any]]) -> int:
    count = 0
    for row in rows:
        stream.write(json_line(row) + "\n")
        count += 1
    return count
