"""
OpenLineage datasets of the tasks: warehouse tables, ledger tables, and relations in Zoho CRM.

The OpenLineage provider is optional: it is imported inside functions, which only its listener calls. Lineage contains
table names, but no SQL text, external ID or secret.
"""

from __future__ import annotations

import logging
import re
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseHook

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Iterable, Sequence

    from zoho_crm.core.models import Target
    from zoho_crm.core.outcomes import Outcome

log = logging.getLogger(__name__)

PLAN_TABLE = "zoho_delink_link"
AUDIT_TABLE = "zoho_delink_audit"
RUN_TABLE = "zoho_delink_run"

FIELDS_WITH_IDS = ("links", "external_id_prefix", "related_external_id_prefix")
"""Fields of our trigger forms whose values may contain external IDs."""
_OUR_DAGS = "zoho_delink"
_HIDDEN = "***"


@dataclass(frozen=True, slots=True)
class Database:
    """
    A database as OpenLineage names it.

    :param namespace: e.g. ``postgres://host:5432``
    :param dialect: SQL dialect, as the provider's parser calls it
    :param name: database name, which prefixes the names of its tables; None if it has none
    :param schema: default schema; None if unknown
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
    Return the database of an Airflow connection, named by its hook if the hook supports OpenLineage.

    OpenLineage has no naming rule for SQLite and DuckDB files: they are named by connection type and host.
    """
    from airflow.providers.openlineage.sqlparser import SQLParser

    connection: Any = BaseHook.get_connection(conn_id)
    hook: Any = BaseHook.get_hook(conn_id, hook_params={"log_sql": False})
    info = schema = None
    dialect = str(connection.conn_type)
    with suppress(Exception):  # each provider raises different errors
        info = hook.get_openlineage_database_info(connection)
        dialect = hook.get_openlineage_database_dialect(connection)
    if info is None:
        place = place_of(connection.host, connection.port)
        return Database(f"{connection.conn_type}://{place}", dialect, connection.schema or None)
    with suppress(Exception):  # some hooks query the database for it
        schema = hook.get_openlineage_default_schema()
    return Database(SQLParser.create_namespace(info), dialect, info.database, schema)


def place_of(host: str | None, port: int | None) -> str:
    """Return host and port of a database, without the login and options that a URL in ``host`` may contain."""
    place = re.split(r"[;?]", host or "", maxsplit=1)[0].rpartition("@")[2]
    return f"{place}:{port}" if port else place


def tables_read(conn_id: str, *statements: str) -> list[Any]:
    """Return the tables that SQL reads, each once; none for SQL that the provider's parser cannot read."""
    from airflow.providers.common.compat.openlineage.facet import Dataset
    from airflow.providers.openlineage.sqlparser import SQLParser

    if not any(sql.strip() for sql in statements):
        return []
    database = database_of(conn_id)
    names: dict[str, None] = {}
    for sql in statements:
        parsed = SQLParser(dialect=database.dialect).parse(sql)
        if parsed is None or parsed.errors:
            log.info(
                "SQL not readable by OpenLineage's parser; its tables are left out: connection=%s", conn_id
            )
        for table in parsed.in_tables if parsed else ():
            names[database.table(table.name, table.schema, table.database)] = None
    return [Dataset(namespace=database.namespace, name=name) for name in names]


def ledger_table(conn_id: str, table: str) -> Any:
    """Return a table of the ledger that is read."""
    from airflow.providers.common.compat.openlineage.facet import Dataset

    database = database_of(conn_id)
    return Dataset(namespace=database.namespace, name=database.table(table))


def ledger_output(conn_id: str, table: str, rows: int | None = None) -> Any:
    """
    Return a table of the ledger that is written.

    :param rows: number of rows; None if not known yet
    """
    database = database_of(conn_id)
    return _output(database.namespace, database.table(table), rows)


def relation_output(target: Target, changed: int) -> Any:
    """
    Return a relation in Zoho CRM that is written, e.g. ``zoho://eu/60001234`` and ``Contacts.Deals``.

    :param changed: number of links removed or relinked, presumed ones included
    """
    from airflow.providers.common.compat.openlineage.facet import (
        SchemaDatasetFacet,
        SchemaDatasetFacetFields,
    )

    relation = target.relation
    place = "/".join(filter(None, (target.data_center, target.org_id)))
    fields = [
        SchemaDatasetFacetFields(name=f"{module}.{field}", type="text")
        for module, field in (
            (relation.module, relation.external_field),
            (relation.related_module, relation.related_external_field),
        )
    ]
    return _output(f"zoho://{place}", relation.label, changed, schema=SchemaDatasetFacet(fields=fields))


def link_lineage(
    audit_conn_id: str | None, work: tuple[Target, Counter[Outcome]] | None, changing: Sequence[Outcome]
) -> Any:
    """
    Return the lineage of a task that changes links: from the plan into a relation in Zoho CRM and the audit.

    :param audit_conn_id: None for a task without a ledger
    :param work: target and outcomes of the task; None if it has not started
    :param changing: the outcomes of a changed link; a dry run has none
    """
    inputs, outputs = [], []
    if audit_conn_id is not None:
        inputs.append(ledger_table(audit_conn_id, PLAN_TABLE))
        outputs.append(ledger_output(audit_conn_id, AUDIT_TABLE, work[1].total() if work else None))
    if work and not work[0].dry_run:
        outputs.append(relation_output(work[0], sum(work[1][outcome] for outcome in changing)))
    return build_lineage(inputs, outputs)


def build_lineage(inputs: Iterable[Any], outputs: Iterable[Any]) -> Any:
    """Return what an operator hands to the OpenLineage provider."""
    from airflow.providers.openlineage.extractors import OperatorLineage

    return OperatorLineage(inputs=list(inputs), outputs=list(outputs))


def hide_ids_of_forms() -> None:
    """
    Keep external IDs of trigger forms out of OpenLineage events, where the provider is installed and enabled.

    The provider copies the run's conf into each event; neither its settings nor Airflow's masking covers that.
    """
    try:
        from airflow.providers.openlineage import conf
    except ImportError:
        return
    if conf.is_disabled():
        return
    try:
        from airflow.providers.openlineage.utils.utils import DagRunInfo

        # The provider's mapping from attribute to the function that serializes it.
        DagRunInfo.casts["conf"] = form_without_ids
    except (AttributeError, ImportError, TypeError):
        log.warning(
            "Unknown release of apache-airflow-providers-openlineage: its events may contain links that are pasted "
            "into a trigger form; use a tested release or disable OpenLineage for these Dags"
        )


def form_without_ids(dag_run: Any) -> Any:
    """Return the conf of a run, for Dags of this package without the fields that may contain external IDs."""
    form = getattr(dag_run, "conf", None)
    if not isinstance(form, dict) or not str(dag_run.dag_id).startswith(_OUR_DAGS):
        return form
    return {name: _HIDDEN if name in FIELDS_WITH_IDS and value else value for name, value in form.items()}


def _output(namespace: str, name: str, rows: int | None, **facets: Any) -> Any:
    from airflow.providers.common.compat.openlineage.facet import (
        OutputDataset,
        OutputStatisticsOutputDatasetFacet,
    )

    statistics: dict[str, Any] = {}
    if rows is not None:
        statistics["outputStatistics"] = OutputStatisticsOutputDatasetFacet(rowCount=rows)
    return OutputDataset(namespace=namespace, name=name, facets=facets, outputFacets=statistics)
