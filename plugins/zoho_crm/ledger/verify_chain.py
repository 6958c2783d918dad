"""
Verify the audit: rows and events against their chains, chains against the seals, seals against each other.

The row of a run is compared with its events, and job file and SQL with their hashes.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from zoho_crm.core.formatting import format_count
from zoho_crm.ledger.audit import DECIDED, decided
from zoho_crm.ledger.chain import (
    CHUNK_OF_EVENTS,
    CHUNK_OF_PLAN,
    COMMON,
    OWN,
    ChainEnd,
    ChainRow,
    ChunkCheck,
    Finding,
    Kind,
    SealedEnd,
    canonical,
    digest,
    event_hash,
    hidden,
)
from zoho_crm.ledger.engine import Store, reading, reading_snapshot
from zoho_crm.ledger.finalize import seal_head
from zoho_crm.ledger.tables import audit, chunks, run_events, runs, seals, source_texts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

_FETCH = 1_000
_CHUNK_NO = COMMON.index("chunk_no")
_SHA256 = re.compile("[0-9a-f]{64}")


class AuditChain(Store):
    """The hash chain of the audit, and the seals over it."""

    def verify(
        self,
        run_key: str | None = None,
        counted: Callable[[Iterator[ChainRow]], Iterator[ChainRow]] = iter,
    ) -> Iterator[Finding]:
        """
        Yield what is wrong with the audit; nothing if it is intact. Memory stays flat.

        :param run_key: verify this run alone; None for all
        :param counted: passes the rows of a run through, to follow the progress
        """
        yield from self._check_seals(run_key)
        for key in [run_key] if run_key is not None else self._run_keys():
            yield from self._check_run(key, counted)

    def _check_seals(self, run_key: str | None) -> Iterator[Finding]:
        last_no, before = 0, ""
        with reading(self._engine).begin() as connection:
            statement = sa.select(seals).order_by(seals.c.seal_no)
            for seal in connection.execute(statement, execution_options={"yield_per": _FETCH}):
                if run_key in {None, seal.run_key}:
                    if seal.seal_no != last_no + 1:
                        yield _seals_missing(seal, last_no)
                    elif fault := _seal_fault(seal, before):
                        yield Finding(seal.run_key, Kind.BROKEN_SEAL, None, f"seal {seal.seal_no}: {fault}")
                last_no, before = seal.seal_no, seal.head

    def _run_keys(self) -> Sequence[str]:
        """Return the keys of runs, events, audit rows and seals: a row whose key was changed must be found as well."""
        every = sa.union(*(sa.select(table.c.run_key) for table in (runs, run_events, audit, seals)))
        with reading(self._engine).begin() as connection:
            return sorted(connection.execute(every).scalars())

    def _check_run(
        self, run_key: str, counted: Callable[[Iterator[ChainRow]], Iterator[ChainRow]]
    ) -> Iterator[Finding]:
        with reading_snapshot(self._engine).begin() as connection:
            run = connection.execute(
                sa.select(runs.c.planned, runs.c.planned_at, runs.c.finished_at).where(
                    runs.c.run_key == run_key
                )
            ).one_or_none()
            if run is None:
                yield Finding(run_key, Kind.MISSING, None, "the row of the run is missing")
            ends = _written_ends(connection, run_key, run)
            sealed = _sealed_ends(connection, run_key)
            events = _EventsCheck(run_key, sealed.pop(CHUNK_OF_EVENTS, []))
            yield from events.findings(connection)
            unsealed, checked = 0, set()
            for chunk_no, rows in groupby(counted(_chained_rows(connection, run_key)), key=_chunk_no):
                check = _check_of(run_key, chunk_no, ends, sealed)
                finding = check.first_break(rows)
                checked.add(chunk_no)
                if finding is not None:
                    yield finding
                else:
                    unsealed += check.unsealed
            for chunk_no in sorted({*ends, *sealed} - checked):
                if finding := _check_of(run_key, chunk_no, ends, sealed).first_break(()):
                    yield finding
            if run is not None and run.finished_at is not None and (unsealed or events.unsealed):
                counts = {"row": unsealed, "event": events.unsealed}
                written = [format_count(count, name) for name, count in counts.items() if count]
                why = f"no seal of the run covers what was written last: {', '.join(written)}"
                yield Finding(run_key, Kind.UNSEALED, None, why)


@dataclass(slots=True)
class _EventsCheck:
    """
    The check of a run's events, up to the first break of their chain, and of the row that they describe.

    :param sealed: the ends of the chain that seals recorded, oldest first
    """

    run_key: str
    sealed: Sequence[SealedEnd]
    _last: ChainEnd = field(default_factory=ChainEnd)
    _row: dict[str, Any] = field(default_factory=dict)
    """The row of the run by the events so far."""
    _texts: dict[tuple[str, str], None] = field(default_factory=dict)
    """Name and hash of each job file and SQL that an event names, in that order."""
    _without_texts: list[str] = field(default_factory=list)
    """Events whose ``texts`` are not names and hashes. Retention does not replace them."""

    @property
    def unsealed(self) -> int:
        """Events after those that the last seal covers."""
        return max(0, self._last.chain_no - (self.sealed[-1].end.chain_no if self.sealed else 0))

    def findings(self, connection: sa.Connection) -> Iterator[Finding]:
        """Yield the first break of the chain; if there is none, how row and texts differ from the events."""
        if finding := self._first_break(connection):
            yield finding
            return
        row = decided(connection, self.run_key)
        if row and not self._last.chain_no:
            yield self._finding(Kind.MISSING, "the events of the run are missing")
            return
        differ = [name for name in DECIDED if row and hidden(row[name]) != hidden(self._row.get(name))]
        if differ:
            yield self._finding(
                Kind.ALTERED, f"the row of the run differs from its events: {', '.join(differ)}"
            )
        yield from self._text_findings(connection)

    def _first_break(self, connection: sa.Connection) -> Finding | None:
        statement = sa.select(run_events).where(run_events.c.run_key == self.run_key)
        for event in connection.execute(statement.order_by(run_events.c.event_no)):
            name, expected = f"event {event.event_no} ({event.kind})", self._last.chain_no + 1
            if event.event_no < expected:
                return self._finding(Kind.ADDED, f"{name}: its position is below 1")
            if event.event_no > expected:
                return self._missing(event.event_no - 1)
            facts = _facts_of(event)
            if facts is None or event.event_hash != _hash_of(event, facts, self._last.row_hash):
                return self._finding(
                    Kind.ALTERED, f"{name}: it, or the event before it, differs from what was written"
                )
            for seal in self.sealed:
                if seal.end.chain_no == event.event_no and seal.end.row_hash != event.event_hash:
                    why = f"seal {seal.seal_no} covers another event: the events up to here were rewritten"
                    return self._finding(Kind.BROKEN_SEAL, f"{name}: {why}")
            self._row.update(facts)
            if (texts := _texts_of(facts)) is None:
                self._without_texts.append(name)
            else:
                self._texts.update(dict.fromkeys(texts.items()))
            self._last = ChainEnd(event.event_no, event.event_hash)
        sealed_no = max((seal.end.chain_no for seal in self.sealed), default=0)
        return self._missing(sealed_no) if sealed_no > self._last.chain_no else None

    def _text_findings(self, connection: sa.Connection) -> Iterator[Finding]:
        """Yield which of job file and SQL, as the events name them, are missing or differ."""
        for event in self._without_texts:
            yield self._finding(Kind.ALTERED, f"{event}: its texts are not names and hashes")
        for name, key in self._texts:
            stored = sa.select(source_texts.c.content).where(source_texts.c.text_hash == key)
            text = connection.scalar(stored)
            if text is None:
                yield self._finding(Kind.MISSING, f"the stored text of {name} is missing: {key}")
            elif digest(text) != key:
                yield self._finding(Kind.ALTERED, f"the stored text of {name} differs from its hash: {key}")

    def _missing(self, last: int) -> Finding:
        first = self._last.chain_no + 1
        gone = f"event {first} is" if first == last else f"events {first} to {last} are"
        return self._finding(Kind.MISSING, f"{gone} missing")

    def _finding(self, kind: Kind, detail: str) -> Finding:
        return Finding(self.run_key, kind, None, detail)


def _facts_of(event: sa.Row[Any]) -> dict[str, Any] | None:
    """Return the facts of an event; None if they are not a JSON object in the form in which facts are written."""
    with suppress(ValueError, RecursionError):
        facts = json.loads(event.facts)
        if isinstance(facts, dict) and event.facts == canonical(facts):
            return facts
    return None


def _texts_of(facts: dict[str, Any]) -> dict[str, str] | None:
    """Return the hashes of the texts that facts name; None if these are something else."""
    with suppress(TypeError, ValueError, RecursionError):
        texts = json.loads(facts.get("texts") or "{}")
        if isinstance(texts, dict) and all(
            isinstance(key, str) and _SHA256.fullmatch(key) for key in texts.values()
        ):
            return texts
    return None


def _hash_of(event: sa.Row[Any], facts: dict[str, Any], previous: str) -> str | None:
    """Return the hash that an event must have; None if its facts are nested deeper than any that are written."""
    with suppress(RecursionError):
        return event_hash(
            previous,
            run_key=event.run_key,
            event_no=event.event_no,
            kind=event.kind,
            facts=facts,
            recorded_at=event.recorded_at,
            code_version=event.code_version,
        )
    return None


def _seals_missing(seal: sa.Row[Any], last_no: int) -> Finding:
    first, last = last_no + 1, seal.seal_no - 1
    gone = f"seal {first} is missing" if first == last else f"seals {first} to {last} are missing"
    return Finding(
        seal.run_key,
        Kind.BROKEN_SEAL,
        None,
        f"{gone} before seal {seal.seal_no}, which itself cannot be checked without them",
    )


def _seal_fault(seal: sa.Row[Any], before: str) -> str | None:
    if digest(seal.ends) != seal.run_head:
        return "its ends differ from what was written"
    if _ends_of(seal) is None:
        return "its ends are not a list of chunks, rows and hashes"
    head = seal_head(seal.seal_no, seal.run_key, seal.audit_rows, seal.run_head, seal.sealed_at, before)
    return None if head == seal.head else "it differs from what was written, or the seal before it does"


def _check_of(
    run_key: str, chunk_no: int, ends: dict[int, ChainEnd], sealed: dict[int, list[SealedEnd]]
) -> ChunkCheck:
    # Nothing was written to a chunk that the plan does not have.
    unknown = None if chunk_no == CHUNK_OF_PLAN else ChainEnd()
    return ChunkCheck(run_key, chunk_no, ends.get(chunk_no, unknown), sealed.get(chunk_no, ()))


def _chained_rows(connection: sa.Connection, run_key: str) -> Iterator[ChainRow]:
    statement = (
        sa.select(
            audit.c.event_id, audit.c.chain_no, audit.c.row_hash, *(audit.c[name] for name in (*COMMON, *OWN))
        )
        .where(audit.c.run_key == run_key)
        .order_by(audit.c.chunk_no, audit.c.chain_no, audit.c.event_id)
    )
    first, end = 3, 3 + len(COMMON)
    for row in connection.execute(statement, execution_options={"yield_per": _FETCH}):
        yield ChainRow(row[0], row[1], row[2], tuple(row[first:end]), tuple(row[end:]))


def _chunk_no(row: ChainRow) -> int:
    chunk_no: int = row.common[_CHUNK_NO]
    return chunk_no


def _written_ends(connection: sa.Connection, run_key: str, run: sa.Row[Any] | None) -> dict[int, ChainEnd]:
    """Return where the chains of a run must end by its plan; the plan's own chain is not there if that is unknown."""
    statement = sa.select(chunks.c.chunk_no, chunks.c.links, chunks.c.chain_no, chunks.c.chain_hash).where(
        chunks.c.run_key == run_key
    )
    stored = connection.execute(statement).all()
    ends = {row.chunk_no: ChainEnd(row.chain_no, row.chain_hash or "") for row in stored}
    if run is not None and run.planned_at:
        # A link in no chunk cannot be sent, and has an audit row from the plan.
        ends[CHUNK_OF_PLAN] = ChainEnd(run.planned - sum(row.links for row in stored))
    return ends


def _sealed_ends(connection: sa.Connection, run_key: str) -> dict[int, list[SealedEnd]]:
    """Return the ends that the run's seals record, by chunk; unreadable seals are reported elsewhere."""
    ends: dict[int, list[SealedEnd]] = defaultdict(list)
    statement = sa.select(seals.c.seal_no, seals.c.ends, seals.c.run_head).where(seals.c.run_key == run_key)
    for seal in connection.execute(statement.order_by(seals.c.seal_no)):
        if digest(seal.ends) == seal.run_head:
            for chunk_no, end in _ends_of(seal) or ():
                ends[chunk_no].append(SealedEnd(seal.seal_no, end))
    return ends


def _ends_of(seal: sa.Row[Any]) -> list[tuple[int, ChainEnd]] | None:
    """Return the ends that a seal records, with their chunks; None if they are something else."""
    with suppress(ValueError, TypeError, RecursionError):
        ends = [tuple(end) for end in json.loads(seal.ends)]
        if all(tuple(map(type, end)) == (int, int, str) for end in ends):
            return [(chunk_no, ChainEnd(chain_no, row_hash)) for chunk_no, chain_no, row_hash in ends]
    return None
