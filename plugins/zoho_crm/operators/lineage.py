"""
What OpenLineage is told: tables of the warehouse, tables of the ledger, and relations in Zoho CRM.

Imported where Airflow's OpenLineage provider is installed and asks, and nowhere else. No SQL, no external id and no
secret is in it: SQL may hold ids, and the names of tables say what is read.
"""

from __future__ import annotations

import logging
import re
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.openlineage.facet import (
    Dataset,
    OutputDataset,
    OutputStatisticsOutputDatasetFacet,
    SchemaDatasetFacet,
    SchemaDatasetFacetFields,
)
from airflow.providers.openlineage.extractors import OperatorLineage
from airflow.providers.openlineage.sqlparser import SQLParser
from airflow.sdk import BaseHook

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Iterable

    from zoho_crm.core.models import Target
    from zoho_crm.core.outcomes import Outcome

log = logging.getLogger(__name__)

PLAN_TABLE = "zoho_delink_link"
AUDIT_TABLE = "zoho_delink_audit"
RUN_TABLE = "zoho_delink_run"


@dataclass(frozen=True, slots=True)
class Database:
    """
    A database as OpenLineage names it.

    :param namespace: e.g. ``postgres://host:5432``
    :param dialect: its SQL, as the provider's parser calls it
    :param name: its own name, which begins those of its tables; None if it has none
    :param schema: where tables lie that are named without one; None if that is not known
    """

    namespace: str
    dialect: str
    name: str | None = None
    schema: str | None = None

    def table(self, table: str, schema: str | None = None, database: str | None = None) -> str:
        """Return the full name of a table."""
        return ".".join(filter(None, (database or self.name, schema or self.schema, table)))


def database_of(conn_id: str) -> Database:
    """
    Return the database of an Airflow connection, named by its hook where that knows how.

    The names of a SQLite or DuckDB file, which OpenLineage has no rule for, are those of this package.
    """
    connection: Any = BaseHook.get_connection(conn_id)
    hook: Any = BaseHook.get_hook(conn_id, hook_params={"log_sql": False})
    info = schema = None
    dialect = str(connection.conn_type)
    with suppress(Exception):  # each provider has its own errors for what it cannot tell
        info = hook.get_openlineage_database_info(connection)
        dialect = hook.get_openlineage_database_dialect(connection)
    if info is None:
        place = place_of(connection.host, connection.port)
        return Database(f"{connection.conn_type}://{place}", dialect, connection.schema or None)
    with suppress(Exception):  # some ask the database
        schema = hook.get_openlineage_default_schema()
    return Database(SQLParser.create_namespace(info), dialect, info.database, schema)


def place_of(host: str | None, port: int | None) -> str:
    """Return where a database is; a host that is a whole address may hold a login and options, which are left out."""
    place = re.split(r"[;?]", host or "", maxsplit=1)[0].rpartition("@")[2]
    return f"{place}:{port}" if port else place


def tables_read(conn_id: str, *statements: str) -> list[Any]:
    """
    Return the tables that SQL reads, each once.

    SQL that the provider's parser cannot read has none.
    """
    if not any(sql.strip() for sql in statements):
        return []
    database = database_of(conn_id)
    names: dict[str, None] = {}
    for sql in statements:
        parsed = SQLParser(dialect=database.dialect).parse(sql)
        if parsed is None or parsed.errors:
            log.info("OpenLineage's parser cannot read the SQL; its tables are left out")
        for table in parsed.in_tables if parsed else ():
            names[database.table(table.name, table.schema, table.database)] = None
    return [Dataset(namespace=database.namespace, name=name) for name in names]


def ledger_table(conn_id: str, table: str) -> Any:
    """Return a table of the ledger that is read."""
    database = database_of(conn_id)
    return Dataset(namespace=database.namespace, name=database.table(table))


def ledger_output(conn_id: str, table: str, rows: int | None = None) -> Any:
    """
    Return a table of the ledger that is written to.

    :param rows: how many rows; None if that is not known yet
    """
    database = database_of(conn_id)
    return _output(database.namespace, database.table(table), rows)


def relation_output(target: Target, changed: int) -> Any:
    """
    Return a relation in Zoho CRM that was written to, e.g. ``zoho://eu/60001234`` and ``Contacts.Deals``.

    :param changed: links that were taken out or put back
    """
    relation = target.relation
    place = "/".join(filter(None, (target.data_center, target.org_id)))
    fields = [
        SchemaDatasetFacetFields(name=f"{module}.{field}", type="text")
        for module, field in (
            (relation.module, relation.external_field),
            (relation.related_module, relation.related_external_field),
        )
    ]
    return _output(
        f"zoho://{place}",
        relation.label,
        changed,
        schema=SchemaDatasetFacet(fields=fields),
    )


def links_changed(
    audit_conn_id: str | None, driven: tuple[Target, Counter[Outcome]] | None, changing: Outcome
) -> Any:
    """
    Return what a task has done to links: from the plan's table into a relation in Zoho CRM and the audit's table.

    :param audit_conn_id: None for a task without a ledger
    :param driven: what it has worked on and what came of it; None if it has not begun
    :param changing: the outcome of a link that was changed; a dry run has none
    """
    inputs, outputs = [], []
    if audit_conn_id is not None:
        inputs.append(ledger_table(audit_conn_id, PLAN_TABLE))
        rows = driven[1].total() if driven else None
        outputs.append(ledger_output(audit_conn_id, AUDIT_TABLE, rows))
    if driven and not driven[0].dry_run:
        outputs.append(relation_output(driven[0], driven[1][changing]))
    return told(inputs, outputs)


def told(inputs: Iterable[Any], outputs: Iterable[Any]) -> Any:
    """Return what an operator gives to the provider."""
    return OperatorLineage(inputs=list(inputs), outputs=list(outputs))


def _output(namespace: str, name: str, rows: int | None, **facets: Any) -> Any:
    statistics: dict[str, Any] = {}
    if rows is not None:
        statistics["outputStatistics"] = OutputStatisticsOutputDatasetFacet(rowCount=rows)
    return OutputDataset(namespace=namespace, name=name, facets=facets, outputFacets=statistics)
