"""
Retention: what a run knew of people is replaced by hashes, and its audit still verifies.

External ids and attributes become ``sha256:`` and their SHA-256, and so does a text that names an id. That is what
enters the hash of an audit row in the first place (:mod:`zoho_crm.ledger.chain`). The plan is deleted.
"""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_plus

import sqlalchemy as sa

from zoho_crm.core.outcomes import RunEventKind
from zoho_crm.errors import AuditAlteredError, PlanError
from zoho_crm.ledger.audit import change_run
from zoho_crm.ledger.chain import REPLACEABLE, is_pseudonym, pseudonym
from zoho_crm.ledger.engine import Store, reading
from zoho_crm.ledger.finalize import seal_run, sealing
from zoho_crm.ledger.runs import no_such_run
from zoho_crm.ledger.schema import RETENTION_RIGHTS, check_rights
from zoho_crm.ledger.tables import MESSAGE_LENGTH, audit, chunks, links, runs

if TYPE_CHECKING:
    from datetime import datetime

log = logging.getLogger(__name__)

BATCH_LINKS = 500
HOLDER = "retention"

_TEXTS = ("zoho_message", "detail")
_IDS_AND_SNAPSHOT = ("external_id", "related_external_id", "snapshot")
_OPEN = sa.exists().where(links.c.run_key == runs.c.run_key, links.c.outcome.is_(None))
_PLAN_IS_THERE = sa.exists().where(links.c.run_key == runs.c.run_key)


class Pseudonymizer(Store):
    """Replacement of the external IDs of old runs by hashes."""

    def due_runs(self, job: str, before: datetime) -> list[str]:
        """
        Return the keys of a job's runs whose IDs are due for replacement, oldest first, interrupted ones included.

        :param before: runs that finished before this time
        """
        due = sa.and_(runs.c.pseudonymized_at.is_(None), runs.c.finished_at < before, sa.not_(_OPEN))
        half_done = sa.and_(runs.c.pseudonymized_at.is_not(None), _PLAN_IS_THERE)
        statement = (
            sa.select(runs.c.run_key)
            .where(runs.c.job == job, sa.or_(due, half_done))
            .order_by(runs.c.started_at, runs.c.run_key)
        )
        with reading(self._engine).begin() as connection:
            return list(connection.execute(statement).scalars())

    def unfinished_runs(self, job: str, before: datetime) -> list[str]:
        """
        Return the keys of a job's runs that keep their IDs because they never ended, oldest first.

        :param before: runs that started before this time
        """
        statement = (
            sa.select(runs.c.run_key)
            .where(
                runs.c.job == job,
                runs.c.pseudonymized_at.is_(None),
                runs.c.started_at < before,
                runs.c.planned_at.is_not(None),
                sa.or_(runs.c.finished_at.is_(None), _OPEN),
            )
            .order_by(runs.c.started_at, runs.c.run_key)
        )
        with reading(self._engine).begin() as connection:
            return list(connection.execute(statement).scalars())

    def pseudonymize(self, run_key: str) -> int:
        """
        Replace the external IDs of a finished run with their hashes, in batches. No task can work on the run any more.

        :return: number of changed audit rows; an interrupted call is finished by the next one
        :raises PlanError: there is no such run, it is not finished, or links of it have no outcome
        :raises ZohoConfigError: the role of the audit connection lacks a right that this needs; nothing was changed
        """
        check_rights(self._engine, RETENTION_RIGHTS)
        sealing(self._engine, lambda connection: self._begin(connection, run_key))
        changed = 0
        while (batch := self._replace_batch(run_key)) is not None:
            changed += batch
        return changed

    def _begin(self, connection: sa.Connection, run_key: str) -> None:
        """Close the run to all tasks, and seal the event that says so, unless that has been done."""
        now = self._now(connection)
        run = connection.execute(
            sa.select(runs.c.finished_at, runs.c.pseudonymized_at).where(runs.c.run_key == run_key)
        ).one_or_none()
        if run is None:
            raise no_such_run(run_key)
        if run.pseudonymized_at is not None:
            return
        if run.finished_at is None:
            raise PlanError(f"run {run_key!r} is not finished: its IDs are still needed")
        values = {"pseudonymized_at": now, "params": "{}"}
        change_run(connection, run_key, RunEventKind.PSEUDONYMIZED, values, now=now)
        # As a claim does: a try that still runs stops at its next write, and no other can start.
        connection.execute(
            sa.update(chunks)
            .where(chunks.c.run_key == run_key)
            .values(claim_no=chunks.c.claim_no + 1, write_no=0, holder=HOLDER, claimed_at=now)
        )
        still_open = connection.scalar(
            sa.select(sa.func.count()).where(links.c.run_key == run_key, links.c.outcome.is_(None))
        )
        if still_open:
            raise PlanError(
                f"run {run_key!r} is being retried: {still_open} of its links have no outcome yet; "
                "nothing was changed"
            )
        _replace_labels(connection, run_key)
        try:
            # The replacement itself changes no hash.
            seal_run(connection, run_key, now)
        except AuditAlteredError as error:
            # The IDs have to go in any case.
            log.warning("Run not sealed while its IDs are replaced: run_key=%s error=%s", run_key, error)

    def _replace_batch(self, run_key: str) -> int | None:
        """Replace the IDs of the plan's next links, and delete these from the plan; None when none is left."""
        with self._engine.begin() as connection:
            first = connection.scalar(sa.select(sa.func.min(links.c.seq)).where(links.c.run_key == run_key))
            if first is None:
                return None
            last = first + BATCH_LINKS - 1
            statement = sa.select(audit.c.event_id, *(audit.c[name] for name in REPLACEABLE)).where(
                audit.c.run_key == run_key, audit.c.seq.between(first, last)
            )
            replaced = [_replaced(dict(row)) for row in connection.execute(statement).mappings()]
            if replaced:
                connection.execute(
                    sa.update(audit).where(audit.c.event_id == sa.bindparam("of_event")), replaced
                )
            connection.execute(
                sa.delete(links).where(links.c.run_key == run_key, links.c.seq.between(first, last))
            )
        return len(replaced)


def _replace_labels(connection: sa.Connection, run_key: str) -> None:
    mine = sa.and_(chunks.c.run_key == run_key, chunks.c.chunk_no == sa.bindparam("of_chunk"))
    found = connection.execute(
        sa.select(chunks.c.chunk_no, chunks.c.first_external_id).where(chunks.c.run_key == run_key)
    )
    replaced = [
        {"of_chunk": row.chunk_no, "first_external_id": pseudonym(row.first_external_id)} for row in found
    ]
    if replaced:
        connection.execute(sa.update(chunks).where(mine), replaced)


def _replaced(row: dict[str, Any]) -> dict[str, Any]:
    ids = [row["external_id"], row["related_external_id"]]
    new = {name: None if row[name] is None else pseudonym(row[name]) for name in _IDS_AND_SNAPSHOT}
    for name in _TEXTS:
        text = row[name]
        new[name] = pseudonym(text) if text is not None and names_any(text, ids) else text
    return {"of_event": row["event_id"], **new}


def names_any(text: str, ids: list[str]) -> bool:
    """
    Return whether a text contains an ID, in any of the forms in which it may have been written.

    A text as long as its column was cut, perhaps within an id. Short ids are found in words as well: a message is
    rather lost than an id kept.
    """
    if len(text) >= MESSAGE_LENGTH:
        return True
    folded = f"{text}\n{unquote_plus(text)}".casefold()
    return any(
        form.casefold() in folded
        for external_id in ids
        if external_id and not is_pseudonym(external_id)
        for form in _written(external_id)
    )


def _written(text: str) -> tuple[str, ...]:
    return text, json.dumps(text)[1:-1], repr(text)[1:-1], ascii(text)[1:-1]
