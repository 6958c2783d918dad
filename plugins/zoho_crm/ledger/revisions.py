"""
Revisions of the audit schema: how a database is upgraded from one version to the next, with Alembic's operations.

Version 1 is the initial schema. An empty database always gets the tables of ``tables.py`` as they are now; revisions
upgrade databases that hold an earlier version. To add version 2:

1. Change ``tables.py``, and set ``SCHEMA_VERSION`` in ``schema.py`` to 2.
2. Write ``def to_version_2(op: Operations) -> None`` here. Spell out names and types: ``tables.py`` keeps changing, and
   a revision must not. Create new tables with ``columns.TABLE_OPTIONS``.
3. Add it to :data:`REVISIONS`.

MySQL and MariaDB commit each statement that changes a table, so that an interrupted revision runs again over its own
first half: check with ``sqlalchemy.inspect(op.get_bind())`` what is already there. PostgreSQL and SQLite roll it back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from alembic.operations import Operations

REVISIONS: Mapping[int, Callable[[Operations], None]] = {}
"""For each version after the first: what upgrades a database from the version before."""
