"""
Example: remove links that another task finds, without a job file.

Trigger it as it is, and nothing is removed: ``dry_run`` only records what would be.
"""

from __future__ import annotations

from typing import Any

from airflow.sdk import DAG, task

from zoho_crm import DeleteRelatedByExternalIdOperator

RELATION: dict[str, Any] = {
    "module": "Contacts",
    "external_field": "External_Contact_ID",
    "related_list": "Deals",
    "related_external_field": "External_Deal_ID",
    "zoho_conn_id": "zoho_crm_default",
    "audit_conn_id": "zoho_delink_audit",
}

with DAG("example_zoho_delink", schedule=None, catchup=False, tags={"example", "zoho"}):

    @task
    def find_links() -> list[dict[str, str]]:
        """Return the links to remove, each by your own IDs of contact and deal."""
        return [
            {"external_id": "c-1", "related_external_id": "d-1"},
            {"external_id": "c-2", "related_external_id": "d-1"},
        ]

    DeleteRelatedByExternalIdOperator(task_id="delink", links=find_links(), dry_run=True, **RELATION)
