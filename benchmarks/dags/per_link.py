"""The usual alternative: one mapped HttpOperator task per link."""

from __future__ import annotations

import os

from airflow.providers.http.operators.http import HttpOperator
from airflow.sdk import DAG

LINKS = int(os.environ.get("BENCH_PER_LINK", "0"))

with DAG("bench_per_link", schedule=None, max_active_tasks=64):
    # The connection's extras set the headers with the access token and X-EXTERNAL.
    HttpOperator.partial(task_id="delink", http_conn_id="bench_http", method="DELETE").expand(
        endpoint=[f"crm/v7/Contacts/c-{number:07}/Deals/d-{number:07}" for number in range(LINKS)]
    )
