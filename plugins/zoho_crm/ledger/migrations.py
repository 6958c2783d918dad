"""
What brings an audit database from one version to the next.

A step says by itself what it adds, and not by ``tables.py``: that goes on changing, and the step must not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from zoho_crm.ledger.columns import UtcDateTime, exact_text, long_text

if TYPE_CHECKING:
    from alembic.operations import Operations


def to_version_2(connection: sa.Connection) -> None:
    """Make room for relinking, guards, snapshots, hash chains and seals. Rows of version 1 stay as they are."""
    change_to_version_2(_operations(connection))


def to_version_3(connection: sa.Connection) -> None:
    """Make room for API credits, used and left, and for the kind of organisation. Rows stay as they are."""
    change_to_version_3(_operations(connection))


def _operations(connection: sa.Connection) -> Operations:
    # Half a second of imports, for what a database needs once.
    from alembic.runtime.migration import MigrationContext

    from zoho_crm.ledger.resumed import ResumedOperations

    return ResumedOperations(MigrationContext.configure(connection))


def change_to_version_2(operations: Operations) -> None:
    """Run the statements of :func:`to_version_2`."""
    for table, columns in _columns_of_version_2().items():
        for column in columns:
            operations.add_column(table, column)
    operations.create_index("zoho_delink_run_started", "zoho_delink_run", ["started_at", "run_key"])
    operations.create_index("zoho_delink_run_dag", "zoho_delink_run", ["dag_id", "dag_run_id"])
    operations.create_index("zoho_delink_link_outcome", "zoho_delink_link", ["run_key", "outcome", "seq"])
    operations.create_index(
        "zoho_delink_link_related", "zoho_delink_link", ["run_key", "related_external_id"]
    )
    operations.create_index(
        "zoho_delink_audit_chain", "zoho_delink_audit", ["run_key", "chunk_no", "chain_no"]
    )
    operations.create_table(
        "zoho_delink_seal",
        sa.Column("seal_no", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("run_key", exact_text(512), nullable=False),
        sa.Column("audit_rows", sa.BigInteger, nullable=False, comment="audit rows of the run at that time"),
        sa.Column(
            "ends",
            long_text(),
            nullable=False,
            comment="[chunk_no, chain_no, row_hash] of the last audit row of each chunk, a JSON list",
        ),
        sa.Column("run_head", exact_text(64), nullable=False, comment="SHA-256 over ends"),
        sa.Column(
            "head",
            exact_text(64),
            nullable=False,
            comment="SHA-256 over this seal and the head before it",
        ),
        sa.Column("sealed_at", UtcDateTime, nullable=False),
        comment="append-only: one row each time a run is reported; all of them form one chain",
    )
    operations.create_index("zoho_delink_seal_run", "zoho_delink_seal", ["run_key", "seal_no"])
    operations.create_table(
        "zoho_delink_job",
        sa.Column("job", exact_text(250), primary_key=True),
        sa.Column("state", sa.String(20), nullable=False),
        sa.Column("run_key", exact_text(512), nullable=False),
        sa.Column("changed_at", UtcDateTime, nullable=False),
        comment="how each job stands, so that people are told of a change once",
    )


def _columns_of_version_2() -> dict[str, list[sa.Column[Any]]]:
    def operation() -> sa.Column[Any]:
        return sa.Column("operation", sa.String(20), nullable=False, server_default="delink")

    def snapshot() -> sa.Column[Any]:
        return sa.Column("snapshot", long_text(), comment="the link's own attributes, a JSON object")

    return {
        "zoho_delink_run": [
            operation(),
            sa.Column("origin_run_key", exact_text(512), comment="the run whose links this one takes up"),
            *(
                sa.Column(outcome, sa.BigInteger)
                for outcome in ("relinked", "already_linked", "would_relink")
            ),
            sa.Column("known_links", sa.BigInteger, comment="what the job's baseline counted"),
            sa.Column("source_as_of", UtcDateTime, comment="when the source was last brought up to date"),
            sa.Column(
                "pseudonymised_at", UtcDateTime, comment="when external ids were replaced by their hashes"
            ),
        ],
        "zoho_delink_link": [snapshot()],
        "zoho_delink_chunk": [
            sa.Column(
                "chain_no", sa.BigInteger, nullable=False, server_default="0", comment="audit rows so far"
            ),
            sa.Column("chain_hash", exact_text(64), comment="row_hash of the last of them"),
        ],
        "zoho_delink_audit": [
            operation(),
            snapshot(),
            sa.Column(
                "chunk_no", sa.Integer, comment="-1: written by the plan; null: before schema version 2"
            ),
            sa.Column("chain_no", sa.BigInteger, comment="place among the audit rows of the chunk, from 1"),
            sa.Column("row_hash", exact_text(64), comment="SHA-256 over the row and the row_hash before it"),
        ],
    }


def change_to_version_3(operations: Operations) -> None:
    """Run the statements of :func:`to_version_3`."""
    for column in (
        sa.Column("credits", sa.BigInteger, comment="API credits used; null: not finished, or not counted"),
        sa.Column("check_credits", sa.BigInteger, comment="those of them that no chunk has used"),
        sa.Column("environment", sa.String(20), comment="production, sandbox, developer or local"),
    ):
        operations.add_column("zoho_delink_run", column)
    operations.add_column(
        "zoho_delink_chunk",
        sa.Column(
            "credits",
            sa.BigInteger,
            nullable=False,
            server_default="0",
            comment="API credits used, all tries",
        ),
    )
    operations.create_table(
        "zoho_delink_credit",
        sa.Column("event_id", exact_text(36), primary_key=True),
        sa.Column("connection", sa.String(250), nullable=False),
        sa.Column("org_id", sa.String(64)),
        sa.Column("run_key", exact_text(512), nullable=False),
        sa.Column("seen_at", UtcDateTime, nullable=False),
        sa.Column("seen_hour", sa.Integer, nullable=False, comment="whole hours of seen_at since 1970"),
        sa.Column("credits_left", sa.BigInteger, nullable=False),
        comment="append-only: how many API credits Zoho said that an organisation has left",
    )
    operations.create_index("zoho_delink_credit_hour", "zoho_delink_credit", ["seen_hour"])
