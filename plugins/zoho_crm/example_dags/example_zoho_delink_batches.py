"""
Example: remove links in batches, one mapped task for each, and see how many had each outcome.

Trigger it as it is, and nothing is removed: ``dry_run`` only records what would be.
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import Any

from airflow.sdk import DAG, task

from zoho_crm import DeleteRelatedByExternalIdOperator

log = logging.getLogger(__name__)

with DAG("example_zoho_delink_batches", schedule=None, catchup=False, tags={"example", "zoho"}):

    @task
    def find_batches() -> list[list[tuple[str, str]]]:
        """Return batches of links: hundreds in each, because a mapped task costs more than a hundred requests."""
        links = [(f"c-{number}", f"d-{number}") for number in range(400)]
        return [links[:200], links[200:]]

    delink = DeleteRelatedByExternalIdOperator.partial(
        task_id="delink",
        module="Contacts",
        external_field="External_Contact_ID",
        related_list="Deals",
        related_external_field="External_Deal_ID",
        audit_conn_id="zoho_delink_audit",
        dry_run=True,
        max_active_tis_per_dag=2,
    ).expand(links=find_batches())

    @task
    def summarize(results: Any) -> dict[str, int]:
        """Return the number of links by outcome over all batches."""
        total: Counter[str] = Counter()
        for result in results[:]:
            total.update(result)
        log.info("Links by outcome: %s", dict(total))
        return dict(total)

    summarize(delink.output)
