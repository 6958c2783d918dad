"""Engines for Airflow's connections to SQL databases, warehouse and audit alike."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zoho_crm.errors import ZohoConfigError

if TYPE_CHECKING:
    from sqlalchemy import Engine


def engine_of(conn_id: str, **options: Any) -> Engine:
    """
    Return the SQLAlchemy engine of an Airflow connection.

    Neither the hook nor the engine logs parameters: they are people's data.

    :param options: for ``sqlalchemy.create_engine``
    :raises ZohoConfigError: the connection is not one to a SQL database
    """
    from airflow.sdk import BaseHook  # the ledger is used without Airflow too, by tests and the UI

    refusal = (
        f"Connection {conn_id!r} is not one to a SQL database: give one whose hook is a DbApiHook, "
        "such as postgres or sqlite"
    )
    try:
        hook: Any = BaseHook.get_hook(conn_id, hook_params={"log_sql": False})
    except TypeError as error:
        # Only hooks of SQL databases know log_sql.
        raise ZohoConfigError(refusal) from error
    if not hasattr(hook, "get_sqlalchemy_engine"):
        raise ZohoConfigError(refusal)
    engine: Engine = hook.get_sqlalchemy_engine({"hide_parameters": True, **options})
    return engine
