"""
Operations on tables of which some may have been done before.

MySQL and MariaDB commit each of them by itself, so that a step which was cut off has left a part of itself behind.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from alembic.operations import Operations

from zoho_crm.ledger.columns import TABLE_OPTIONS

if TYPE_CHECKING:
    from alembic.runtime.migration import MigrationContext


class ResumedOperations(Operations):
    """Alembic's operations, of which those are left out whose table, column or index is there."""

    def __init__(self, context: MigrationContext) -> None:
        super().__init__(context)
        self._inspector = sa.inspect(self.get_bind())

    def add_column(self, table_name: str, column: sa.Column[Any], **options: Any) -> None:
        """Add a column that is not there."""
        there = {each["name"] for each in self._inspector.get_columns(table_name)}
        if column.name not in there:
            super().add_column(table_name, column, **options)

    def create_table(self, table_name: str, *columns: Any, **options: Any) -> Any:
        """Create a table that is not there."""
        if not self._inspector.has_table(table_name):
            return super().create_table(table_name, *columns, **{**TABLE_OPTIONS, **options})
        return None

    def create_index(self, index_name: str | None, table_name: str, columns: Any, **options: Any) -> None:
        """Create an index that is not there."""
        # Asked anew: the table may be one that was made a moment ago.
        there = {each["name"] for each in sa.inspect(self.get_bind()).get_indexes(table_name)}
        if index_name not in there:
            super().create_index(index_name, table_name, columns, **options)
