"""The tables of the audit database, with column types that mean the same in every database."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import mysql

from zoho_crm.core.links import MAX_EXTERNAL_ID_LENGTH
from zoho_crm.core.models import DELINK
from zoho_crm.core.outcomes import Outcome

NAME_LENGTH = 250
"""Characters of a name: Airflow's own limit for ids of Dags, runs and tasks."""
RUN_KEY_LENGTH = 512
MESSAGE_LENGTH = 1000

TABLE_OPTIONS = {
    f"{dialect}_{option}": value
    for dialect in ("mysql", "mariadb")
    for option, value in (("engine", "InnoDB"), ("charset", "utf8mb4"), ("collate", "utf8mb4_bin"))
}
"""For every table: rows that can be locked, and all of Unicode, whatever the server's defaults are."""


class UtcDateTime(sa.types.TypeDecorator[datetime]):
    """
    An aware time in UTC with microseconds, also where the database has no time zones.

    A naive datetime is refused: its time zone is unknown.
    """

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def load_dialect_impl(self, dialect: sa.Dialect) -> sa.types.TypeEngine[Any]:
        """Return the type with microseconds where a dialect's default drops them."""
        if dialect.name in {"mysql", "mariadb"}:
            return dialect.type_descriptor(mysql.DATETIME(fsp=6))
        return super().load_dialect_impl(dialect)

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        """Turn an aware datetime into UTC; without its zone where the database would only drop it."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a time of the ledger must be aware, such as datetime.now(UTC)")
        moment = value.astimezone(UTC)
        return moment.replace(tzinfo=None) if dialect.name in {"sqlite", "mysql", "mariadb"} else moment

    def process_result_value(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        """Return the moment as an aware datetime in UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def exact_text(length: int) -> sa.types.TypeEngine[str]:
    """
    Return a text type that compares and orders byte by byte, whatever the database's language is.

    Ids that differ in case are different ids, and the order of a plan must not depend on a server's settings.
    """
    return (
        sa.String(length)
        .with_variant(sa.String(length, collation="C"), "postgresql")
        .with_variant(sa.String(length, collation="utf8mb4_bin"), "mysql", "mariadb")
    )


def long_text() -> sa.types.TypeEngine[str]:
    """Return a text type without a length that matters."""
    return sa.Text().with_variant(mysql.LONGTEXT(), "mysql", "mariadb")


def fitted(column: sa.Column[Any], value: object) -> str | None:
    """
    Return a value as text that a column can hold in every database; None stays None.

    NUL and lone surrogates are written as escapes, and what is longer than the column is cut.
    """
    if value is None:
        return None
    length: int = getattr(column.type, "length", 0)
    text = str(value)[:length].encode("utf-8", "backslashreplace").decode("utf-8")
    return text.replace("\x00", "\\u0000")[:length]


metadata = sa.MetaData()


def _relation_columns() -> list[sa.Column[Any]]:
    names = ("module", "external_field", "related_list", "related_module", "related_external_field")
    return [sa.Column(name, sa.String(100), nullable=False) for name in names]


def _origin_columns() -> list[sa.Column[Any]]:
    return [
        sa.Column("job", sa.String(NAME_LENGTH), nullable=False),
        sa.Column("dag_id", sa.String(NAME_LENGTH), nullable=False),
        sa.Column("dag_run_id", sa.String(NAME_LENGTH), nullable=False),
        sa.Column("run_type", sa.String(50), nullable=False),
        sa.Column("logical_date", UtcDateTime),
        sa.Column("data_interval_start", UtcDateTime),
        sa.Column("data_interval_end", UtcDateTime),
        sa.Column("triggered_by", sa.String(NAME_LENGTH)),
        sa.Column("task_id", sa.String(NAME_LENGTH), nullable=False),
    ]


def _target_columns() -> list[sa.Column[Any]]:
    return [
        sa.Column("org_id", sa.String(64)),
        sa.Column("data_center", sa.String(20), nullable=False),
        sa.Column("api_version", sa.String(20), nullable=False),
        sa.Column("strategy", sa.String(20), nullable=False),
        sa.Column("operation", sa.String(20), nullable=False, server_default=DELINK),
    ]


versions = sa.Table(
    "zoho_delink_version",
    metadata,
    sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("applied_at", UtcDateTime, nullable=False),
    sa.Column("code_version", sa.String(50), nullable=False),
    comment="schema versions that this database has had; the highest one is current",
)

runs = sa.Table(
    "zoho_delink_run",
    metadata,
    sa.Column("run_key", exact_text(RUN_KEY_LENGTH), primary_key=True),
    *_origin_columns(),
    *_target_columns(),
    *_relation_columns(),
    sa.Column(
        "origin_run_key",
        exact_text(RUN_KEY_LENGTH),
        comment="origin run: the run whose links this one starts from",
    ),
    sa.Column("mode", sa.String(20), nullable=False),
    sa.Column("window_start", UtcDateTime),
    sa.Column("window_end", UtcDateTime),
    sa.Column("source_start", UtcDateTime, comment="the SQL's :window_start, earlier by the job's lookback"),
    sa.Column("reason", sa.String(MESSAGE_LENGTH)),
    sa.Column("params", long_text(), nullable=False),
    sa.Column("status", sa.String(20), nullable=False),
    sa.Column("detail", sa.String(MESSAGE_LENGTH)),
    sa.Column("stop_reason", sa.String(MESSAGE_LENGTH), comment="set: no task of the run sends"),
    sa.Column(
        "failure", sa.String(MESSAGE_LENGTH), comment="the task that failed since the last end, and why"
    ),
    sa.Column("source_rows", sa.BigInteger),
    sa.Column("planned", sa.BigInteger),
    sa.Column("duplicates", sa.BigInteger),
    sa.Column("chunks", sa.Integer),
    *(sa.Column(outcome.value, sa.BigInteger) for outcome in Outcome),
    sa.Column("credits", sa.BigInteger, comment="API credits used; null: not finished"),
    sa.Column(
        "preflight_credits", sa.BigInteger, nullable=False, comment="those of them used outside of chunks"
    ),
    sa.Column("baseline_links", sa.BigInteger, comment="links counted by the baseline of the job"),
    sa.Column("source_as_of", UtcDateTime, comment="when the source was last brought up to date"),
    sa.Column("guard_decision", sa.String(MESSAGE_LENGTH)),
    sa.Column("approval", sa.String(MESSAGE_LENGTH)),
    sa.Column("approved_by", sa.String(NAME_LENGTH)),
    sa.Column("approved_at", UtcDateTime),
    sa.Column("approval_until", UtcDateTime, comment="until when approvers can respond"),
    sa.Column("question", sa.String(64), comment="SHA-256 of what approvers are asked"),
    sa.Column(
        "approval_note", sa.String(MESSAGE_LENGTH), comment="the last approval that did not count, and why"
    ),
    sa.Column("started_at", UtcDateTime, nullable=False),
    sa.Column("planned_at", UtcDateTime),
    sa.Column("finished_at", UtcDateTime),
    sa.Column("pseudonymized_at", UtcDateTime, comment="when external IDs were replaced by their hashes"),
    sa.Column("environment", sa.String(20), comment="production, sandbox, developer or local"),
    sa.Column("code_version", sa.String(50), nullable=False),
    sa.Column("schema_version", sa.Integer, nullable=False),
    sa.Column(
        "texts",
        long_text(),
        nullable=False,
        comment="SHA-256 of job file and SQL by the field that names them, a JSON object",
    ),
    sa.Index("zoho_delink_run_job", "job", "started_at"),
    # For the trend of a job: its dry runs may be many.
    sa.Index("zoho_delink_run_applied", "job", "operation", "mode", "started_at"),
    sa.Index("zoho_delink_run_started", "started_at", "run_key"),
    sa.Index("zoho_delink_run_dag", "dag_id", "dag_run_id"),
    comment="one row per Dag run and job",
)

attempts = sa.Table(
    "zoho_delink_attempt",
    metadata,
    sa.Column("attempt", exact_text(36), primary_key=True),
    sa.Column("run_key", exact_text(RUN_KEY_LENGTH), nullable=False),
    sa.Column("started_at", UtcDateTime, nullable=False),
    comment="plans in the making, or whose process has died",
)

staging = sa.Table(
    "zoho_delink_staging",
    metadata,
    sa.Column("attempt", exact_text(36), primary_key=True),
    sa.Column("row_no", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("pair_key", exact_text(64), nullable=False),
    sa.Column("external_id", exact_text(MAX_EXTERNAL_ID_LENGTH), nullable=False),
    sa.Column("related_external_id", exact_text(MAX_EXTERNAL_ID_LENGTH), nullable=False),
    sa.Column("invalid_reason", sa.String(MESSAGE_LENGTH)),
    comment="rows of a plan in the making; only the process that plans reads them",
)

links = sa.Table(
    "zoho_delink_link",
    metadata,
    sa.Column("run_key", exact_text(RUN_KEY_LENGTH), primary_key=True),
    sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("chunk_no", sa.Integer),
    sa.Column("pair_key", exact_text(64), nullable=False),
    sa.Column("external_id", exact_text(MAX_EXTERNAL_ID_LENGTH), nullable=False),
    sa.Column("related_external_id", exact_text(MAX_EXTERNAL_ID_LENGTH), nullable=False),
    sa.Column("state", sa.String(20), nullable=False),
    sa.Column("outcome", sa.String(20)),
    sa.Column("invalid_reason", sa.String(MESSAGE_LENGTH)),
    sa.Column("snapshot", long_text(), comment="the link's own attributes, a JSON object"),
    sa.Column(
        "seen_linked_at",
        UtcDateTime,
        comment="when this run saw it linked, before any request for it was in doubt",
    ),
    # For people who look: which links of a run ended so, and which have that related id.
    sa.Index("zoho_delink_link_outcome", "run_key", "outcome", "seq"),
    sa.Index("zoho_delink_link_related", "run_key", "related_external_id"),
    comment="the plan: one row per link and run",
)

chunks = sa.Table(
    "zoho_delink_chunk",
    metadata,
    sa.Column("run_key", exact_text(RUN_KEY_LENGTH), primary_key=True),
    sa.Column("chunk_no", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("links", sa.Integer, nullable=False),
    sa.Column("first_seq", sa.BigInteger, nullable=False),
    sa.Column("first_external_id", exact_text(MAX_EXTERNAL_ID_LENGTH), nullable=False),
    sa.Column("claim_no", sa.Integer, nullable=False),
    sa.Column("write_no", sa.BigInteger, nullable=False, comment="writes under this claim so far"),
    sa.Column("holder", sa.String(NAME_LENGTH)),
    sa.Column("claimed_at", UtcDateTime),
    sa.Column("sender", sa.String(NAME_LENGTH), comment="the try that may send links of the chunk"),
    sa.Column(
        "send_until",
        sa.Double,
        nullable=False,
        server_default="0",
        comment="end of its lease: seconds since 1970 in UTC",
    ),
    sa.Column("chain_no", sa.BigInteger, nullable=False, server_default="0", comment="audit rows so far"),
    sa.Column("chain_hash", exact_text(64), comment="row_hash of the last of them"),
    sa.Column(
        "credits", sa.BigInteger, nullable=False, server_default="0", comment="API credits used, all tries"
    ),
    comment="which try works on which chunk",
)

audit = sa.Table(
    "zoho_delink_audit",
    metadata,
    sa.Column("event_id", exact_text(36), primary_key=True),
    sa.Column("run_key", exact_text(RUN_KEY_LENGTH), nullable=False),
    *_origin_columns(),
    sa.Column("map_index", sa.Integer, nullable=False),
    sa.Column("try_number", sa.Integer, nullable=False),
    *_target_columns(),
    *_relation_columns(),
    sa.Column("external_id", exact_text(MAX_EXTERNAL_ID_LENGTH), nullable=False),
    sa.Column("related_external_id", exact_text(MAX_EXTERNAL_ID_LENGTH), nullable=False),
    sa.Column("pair_key", exact_text(64), nullable=False),
    sa.Column("seq", sa.BigInteger, nullable=False),
    sa.Column("claim_no", sa.Integer, nullable=False, comment="0: written by the plan"),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("sent_at", UtcDateTime),
    sa.Column("finished_at", UtcDateTime, nullable=False),
    sa.Column("duration_ms", sa.BigInteger),
    sa.Column("http_status", sa.Integer),
    sa.Column("zoho_code", sa.String(100)),
    sa.Column("zoho_message", sa.String(MESSAGE_LENGTH)),
    sa.Column("zoho_record_id", sa.String(100)),
    sa.Column("outcome", sa.String(20), nullable=False),
    sa.Column("detail", sa.String(MESSAGE_LENGTH)),
    sa.Column("dry_run", sa.Boolean(create_constraint=False), nullable=False),
    sa.Column("snapshot", long_text(), comment="the link's own attributes, a JSON object"),
    sa.Column("chunk_no", sa.Integer, nullable=False, comment="-1: written by the plan"),
    sa.Column(
        "chain_no",
        sa.BigInteger,
        nullable=False,
        comment="position among the audit rows of the chunk, from 1",
    ),
    sa.Column(
        "row_hash", exact_text(64), nullable=False, comment="SHA-256 over the row and the row_hash before it"
    ),
    sa.Index("zoho_delink_audit_run", "run_key", "seq", sa.text("claim_no DESC"), sa.text("event_id DESC")),
    sa.Index("zoho_delink_audit_pair", "pair_key", "event_id"),
    sa.Index("zoho_delink_audit_chain", "run_key", "chunk_no", "chain_no"),
    comment="append-only: one row per link and try",
)

run_events = sa.Table(
    "zoho_delink_run_event",
    metadata,
    sa.Column("run_key", exact_text(RUN_KEY_LENGTH), primary_key=True),
    sa.Column("event_no", sa.BigInteger, primary_key=True, autoincrement=False, comment="from 1"),
    sa.Column("kind", sa.String(30), nullable=False),
    sa.Column(
        "facts",
        long_text(),
        nullable=False,
        comment="changed columns of the run, and what the change was based on, a JSON object",
    ),
    sa.Column("recorded_at", UtcDateTime, nullable=False),
    sa.Column("code_version", sa.String(50), nullable=False),
    sa.Column(
        "event_hash",
        exact_text(64),
        nullable=False,
        comment="SHA-256 over the event and the event_hash before it",
    ),
    comment="append-only: one row for each decision about a run",
)

source_texts = sa.Table(
    "zoho_delink_source_text",
    metadata,
    sa.Column("text_hash", exact_text(64), primary_key=True, comment="SHA-256 of the text"),
    sa.Column("content", long_text(), nullable=False),
    sa.Column("stored_at", UtcDateTime, nullable=False),
    comment="append-only: job files and SQL as runs used them",
)

seals = sa.Table(
    "zoho_delink_seal",
    metadata,
    sa.Column("seal_no", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("run_key", exact_text(RUN_KEY_LENGTH), nullable=False),
    sa.Column("audit_rows", sa.BigInteger, nullable=False, comment="audit rows of the run at that time"),
    sa.Column(
        "ends",
        long_text(),
        nullable=False,
        comment="[chunk_no, chain_no, row_hash] of the last audit row of each chunk, and -2 with the last event of "
        "the run, a JSON list",
    ),
    sa.Column("run_head", exact_text(64), nullable=False, comment="SHA-256 over ends"),
    sa.Column(
        "head", exact_text(64), nullable=False, comment="SHA-256 over this seal and the head before it"
    ),
    sa.Column("sealed_at", UtcDateTime, nullable=False),
    sa.Index("zoho_delink_seal_run", "run_key", "seal_no"),
    comment="append-only: one row each time a run is reported; all of them form one chain",
)

job_states = sa.Table(
    "zoho_delink_job",
    metadata,
    sa.Column("job", exact_text(NAME_LENGTH), primary_key=True),
    sa.Column("state", sa.String(20), nullable=False),
    sa.Column("run_key", exact_text(RUN_KEY_LENGTH), nullable=False),
    sa.Column("changed_at", UtcDateTime, nullable=False),
    comment="state of each job, so that people are notified of a change once",
)

slots = sa.Table(
    "zoho_delink_slot",
    metadata,
    sa.Column("connection", exact_text(NAME_LENGTH), primary_key=True),
    sa.Column("slot", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("holder", exact_text(NAME_LENGTH)),
    sa.Column("lease_end", sa.Double, nullable=False, comment="seconds since 1970 in UTC; 0: free"),
    comment="leases on the requests that an organization may have in flight",
)

slot_limits = sa.Table(
    "zoho_delink_slot_limit",
    metadata,
    sa.Column("connection", exact_text(NAME_LENGTH), primary_key=True),
    sa.Column("slot_limit", sa.Integer, nullable=False),
    sa.Column(
        "lock_version", sa.BigInteger, nullable=False, comment="raised by each process that leases slots"
    ),
    comment="one row per connection, locked while a process leases slots",
)

for _table in metadata.tables.values():
    _table.dialect_kwargs.update(TABLE_OPTIONS)


def _latest() -> sa.Select[Any]:
    # The claim decides, not the clock: clocks of workers differ, and a later claim is later by definition.
    rank = (
        sa.func.row_number()
        .over(
            partition_by=(audit.c.run_key, audit.c.seq),
            order_by=(audit.c.claim_no.desc(), audit.c.event_id.desc()),
        )
        .label("newest")
    )
    ranked = sa.select(*audit.c, rank).subquery("ranked")
    return sa.select(*(ranked.c[column.name] for column in audit.c)).where(ranked.c.newest == 1)


LATEST_SELECT = _latest()
"""The last audit row of each link of each run."""

latest = sa.table("zoho_delink_latest", *(sa.column(column.name, column.type) for column in audit.c))
"""The view of :data:`LATEST_SELECT`."""
