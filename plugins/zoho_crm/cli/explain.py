"""Ask a warehouse how it would run a job's SQL, without running it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import sqlalchemy as sa
import sqlparse

from zoho_crm.errors import PlanError

if TYPE_CHECKING:
    from datetime import datetime

_FORMS = {
    "postgresql": ("SET TRANSACTION READ ONLY", "EXPLAIN"),
    "mysql": ("SET TRANSACTION READ ONLY", "EXPLAIN"),
    "mariadb": ("SET TRANSACTION READ ONLY", "EXPLAIN"),
    "sqlite": ("PRAGMA query_only = ON", "EXPLAIN QUERY PLAN"),
}
"""By dialect: what forbids all writing, and what asks for the plan."""


def explain(engine: sa.Engine, sql: str, window: tuple[datetime, datetime]) -> list[str] | None:
    """
    Return the lines of the database's plan for one SELECT; None if we know no way to ask this kind of database.

    Nothing is run: the database plans the statement, in a transaction that may only read.

    :param window: bound to ``:window_start`` and ``:window_end`` where the SQL names them
    :raises PlanError: it is not one SELECT, or the database refuses it; the message says why
    """
    if (form := _FORMS.get(engine.dialect.name)) is None:
        return None
    check_one_select(sql)
    read_only, prefix = form
    statement = sa.text(f"{prefix} {sql}")
    named = set(statement.compile().params)
    values = dict(zip(("window_start", "window_end"), window, strict=True))
    bound = statement.bindparams(
        *(
            sa.bindparam(name, value=values[name], type_=sa.DateTime(timezone=True))
            for name in sorted(named & values.keys())
        )
    )
    with engine.connect() as connection:
        try:
            connection.exec_driver_sql(read_only)
            rows = connection.execute(bound).all()
        except sa.exc.DBAPIError as error:
            raise PlanError(f"the database refuses it: {' '.join(str(error.orig).split())}") from None
        finally:
            # The connection may be one of a pool that others read and write with.
            connection.invalidate()
    if engine.dialect.name == "sqlite":
        return [str(row[-1]) for row in rows]
    if len(rows[0]) == 1:
        return [str(row[0]) for row in rows]
    return [", ".join(f"{name}={value}" for name, value in row._mapping.items()) for row in rows]


def check_one_select(sql: str) -> None:
    """
    Refuse what a plan must not be asked for: several statements would be run, and so would ``ANALYZE``.

    :raises PlanError: it is not one statement that begins with SELECT or WITH
    """
    bare = sqlparse.format(sql, strip_comments=True).strip().rstrip("; \n\t")
    if not re.match(r"(?i)(select|with)\b", bare):
        raise PlanError("it must begin with SELECT or WITH")
    if len([part for part in sqlparse.split(bare) if part.strip("; \n\t")]) != 1:
        raise PlanError("it must be one statement")
