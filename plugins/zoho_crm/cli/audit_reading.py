"""Queries of the audit commands. All of them only read."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from zoho_crm.core.links import pair_key
from zoho_crm.core.outcomes import Outcome
from zoho_crm.errors import ZohoConfigError
from zoho_crm.ledger.engine import reading
from zoho_crm.ledger.runs import StoredRun, existing_run
from zoho_crm.ledger.tables import audit, latest, runs

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from zoho_crm.core.links import Relation
    from zoho_crm.ledger.ledger import Ledger

FETCH_ROWS = 1_000
_NEEDS_ATTENTION = (Outcome.FAILED, Outcome.UNKNOWN, Outcome.REJECTED, Outcome.NOT_ATTEMPTED, Outcome.INVALID)


def named_run(ledger: Ledger, name: str, job: str | None) -> StoredRun:
    """
    Return a run by its run_key or by Airflow's run id.

    :param job: job of the run; None: any job
    :raises ZohoConfigError: no run or several runs match
    """
    if job is not None:
        return ledger.runs.find(job, name)
    statement = (
        sa.select(runs.c.run_key, runs.c.job)
        .where(sa.or_(runs.c.run_key == name, runs.c.dag_run_id == name))
        .order_by(runs.c.job, runs.c.run_key)
    )
    with reading(ledger.engine).connect() as connection:
        found = connection.execute(statement).all()
    if not found:
        raise ZohoConfigError(f"The audit database has no run {name!r}: give Airflow's run id or the run_key")
    if len(found) > 1:
        raise ZohoConfigError(
            f"{len(found)} runs have the id {name!r}: name the job with --job, or give one of these keys: "
            + ", ".join(row.run_key for row in found)
        )
    return existing_run(ledger.engine, found[0].run_key)


def run_report(ledger: Ledger, run: StoredRun) -> dict[str, Any]:
    """Return a run with its counts by outcome, and the reasons of links that need attention."""
    count = sa.func.count().label("links")
    reason = (latest.c.outcome, latest.c.zoho_code, latest.c.zoho_message, latest.c.detail)
    reasons = (
        sa.select(*reason, count)
        .where(latest.c.run_key == run.run_key, latest.c.outcome.in_([one.value for one in _NEEDS_ATTENTION]))
        .group_by(*reason)
        .order_by(count.desc(), latest.c.outcome)
        .limit(50)
    )
    with reading(ledger.engine).connect() as connection:
        found = [dict(row) for row in connection.execute(reasons).mappings()]
    by_outcome = ledger.runs.counts(run.run_key)
    return {
        **asdict(run),
        "outcomes": {one.value: by_outcome[one] for one in Outcome if by_outcome.get(one)},
        "open_links": ledger.runs.pending(run.run_key),
        "reasons": found,
    }


def runs_of(ledger: Ledger, job: str | None, limit: int) -> list[dict[str, Any]]:
    """Return the last runs of a job or of all jobs, newest first."""
    statement = sa.select(runs).order_by(runs.c.started_at.desc(), runs.c.run_key).limit(limit)
    if job is not None:
        statement = statement.where(runs.c.job == job)
    with reading(ledger.engine).connect() as connection:
        return [dict(row) for row in connection.execute(statement).mappings()]


def link_history(
    ledger: Ledger, external_id: str, related_external_id: str, relation: Relation | None
) -> list[dict[str, Any]]:
    """
    Return every audit row of a link over all runs, oldest first, with the reason given for each run.

    :param relation: relation of the link; None: any relation
    """
    columns = (
        *(audit.c[name] for name in ("finished_at", "operation", "outcome", "dry_run", "job", "dag_id")),
        *(audit.c[name] for name in ("dag_run_id", "run_type", "triggered_by", "try_number", "http_status")),
        *(audit.c[name] for name in ("zoho_code", "zoho_message", "detail", "module", "related_list")),
        *(audit.c[name] for name in ("event_id", "run_key")),
        runs.c.reason,
        runs.c.approved_by,
    )
    # With a relation, the index on pair_key is used; without, the whole table is read.
    link = (
        audit.c.pair_key == pair_key(relation, external_id, related_external_id)
        if relation is not None
        else sa.and_(audit.c.external_id == external_id, audit.c.related_external_id == related_external_id)
    )
    statement = (
        sa.select(*columns)
        .select_from(audit.outerjoin(runs, runs.c.run_key == audit.c.run_key))
        .where(link)
        .order_by(audit.c.event_id)
    )
    with reading(ledger.engine).connect() as connection:
        return [dict(row) for row in connection.execute(statement).mappings()]


def audit_rows(ledger: Ledger, run_key: str, *, only_latest: bool) -> Iterator[Mapping[str, Any]]:
    """
    Stream the audit rows of a run in the order of its plan, oldest first for each link.

    :param only_latest: only the last row of each link
    """
    source = latest if only_latest else audit
    statement = (
        sa.select(*(source.c[column.name] for column in audit.c))
        .where(source.c.run_key == run_key)
        .order_by(source.c.seq, source.c.claim_no, source.c.event_id)
    )
    options = {"stream_results": True, "yield_per": FETCH_ROWS}
    with reading(ledger.engine).connect().execution_options(**options) as connection:
        for row in connection.execute(statement).mappings():
            yield dict(row)
