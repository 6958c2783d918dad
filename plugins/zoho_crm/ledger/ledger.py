"""The audit database: its engine, and the stores that work on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa

from zoho_crm.errors import ZohoConfigError, ZohoError
from zoho_crm.ledger import schema
from zoho_crm.ledger.claims import ChunkClaims
from zoho_crm.ledger.engine import database_seconds, engine_of, prepared, reading
from zoho_crm.ledger.finalize import RunFinalizer
from zoho_crm.ledger.plan import PlanStore
from zoho_crm.ledger.pseudonymize import Pseudonymizer
from zoho_crm.ledger.reprocess import OriginLinks
from zoho_crm.ledger.runs import RunStore
from zoho_crm.ledger.schema import NO_FILE, check_durability, check_rights, explain_refusal, is_refusal
from zoho_crm.ledger.slots import OrgSlots
from zoho_crm.ledger.verify_chain import AuditChain

if TYPE_CHECKING:
    from zoho_crm.ledger.engine import Clock


class Ledger:
    """
    Plans, claims, slots and the audit trail. Threads may share one; a :class:`Claim` belongs to one thread at a time.

    A database that cannot be reached raises SQLAlchemy's ``OperationalError`` from every method except
    :meth:`check_connection`. What a failed method was about to write is then not written, or, where the answer to
    the commit was lost, written whole: in both cases repeating it is safe.

    :param engine: engine of the audit database
    :param clock: the time that orders runs and ends leases; for tests
    """

    def __init__(self, engine: sa.Engine, *, clock: Clock = database_seconds) -> None:
        self._engine = prepared(engine)
        self.runs = RunStore(self._engine, clock)
        self.plans = PlanStore(self._engine, clock)
        self.claims = ChunkClaims(self._engine, clock)
        self.finalizer = RunFinalizer(self._engine, clock)
        self.chain = AuditChain(self._engine, clock)
        self.reprocess = OriginLinks(self._engine, clock)
        self.retention = Pseudonymizer(self._engine, clock)
        self.slots = OrgSlots(self._engine, clock)

    @classmethod
    def from_conn_id(cls, audit_conn_id: str) -> Ledger:
        """
        Return the ledger in the database of an Airflow connection.

        :raises ZohoConfigError: the connection is not for a SQL database
        """
        return cls(engine_of(audit_conn_id))

    @property
    def engine(self) -> sa.Engine:
        """The engine, for reports and pages that only read."""
        return self._engine

    def close(self) -> None:
        """Close the database connections; the ledger opens new ones if it is used again."""
        self._engine.dispose()

    def ensure_schema(self) -> None:
        """
        Create the tables, or bring them to this package's version. Several processes may do it at once.

        :raises ZohoConfigError: the database is at a newer version than this package supports, is read-only, or
            refuses its role to read, create or change tables
        """
        schema.ensure_schema(self._engine)

    def check_readiness(self) -> None:
        """
        Check that the database keeps what is committed, and grants what a run needs.

        :raises ZohoConfigError: it does not; the message names the setting, or table and right
        """
        check_durability(self._engine)
        check_rights(self._engine)

    def check_connection(self) -> None:
        """
        Ask the database for an answer.

        :raises ZohoError: it cannot be reached
        :raises ZohoConfigError: its file cannot even be read, since its folder is read-only
        """
        try:
            with reading(self._engine).begin() as connection:
                connection.execute(sa.select(sa.literal(1)))
        except sa.exc.SQLAlchemyError as error:
            if isinstance(error, sa.exc.DBAPIError) and is_refusal(error) and str(error.orig) != NO_FILE:
                raise ZohoConfigError(explain_refusal(self._engine, error)) from None
            cause = getattr(error, "orig", None) or error
            url = self._engine.url
            raise ZohoError(
                f"the audit database ({url.get_backend_name()}, {url.host or 'local'}, {url.database}) cannot be "
                f"reached: {str(cause).strip()}. Check the connection of audit_conn_id and its network."
            ) from error
