"""What runs write at log level DEBUG holds no secret in clear, whether they succeed or fail."""

from __future__ import annotations

import base64
import json
import re
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
import sqlalchemy as sa
import yaml

from include.demo.world import fill_crm
from tests.support.databases import connection_to
from tests.support.live_dags import PROJECT, LiveDags
from tests.support.statsd import StatsdServer
from zoho_crm.testing.local_zoho import LocalZoho, default_connection

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.postgres import PostgresServer

DAG_ID = "zoho_delink__contacts_deals"
CLIENT_SECRET = "sentinel-client-secret-4b1f"
REFRESH_TOKEN = "sentinel-refresh-token-9c2e"
WRONG_SECRET = "sentinel-wrong-secret-77aa"
AUDIT_PASSWORD = "sentinel-audit-password-1d0c"
WAREHOUSE_PASSWORD = "sentinel-warehouse-password-5e3b"


@dataclass(frozen=True)
class Written:
    """Everything that the runs have written, by place, and the secrets that they used."""

    texts: dict[str, str]
    secrets: dict[str, str]
    metadata: Path


@pytest.fixture(scope="module")
def written(
    tmp_path_factory: pytest.TempPathFactory, empty_airflow_db: Path, postgres_server: PostgresServer
) -> Iterator[Written]:
    home = tmp_path_factory.mktemp("secrets")
    oauth = {
        "client_id": "local-client",
        "client_secret": CLIENT_SECRET,
        "refresh_tokens": [REFRESH_TOKEN],
    }
    with (
        pytest.MonkeyPatch.context() as patch,
        postgres_server.database() as audit,
        postgres_server.database() as warehouse,
        LocalZoho({"oauth": oauth}) as zoho,
        StatsdServer() as statsd,
    ):
        fill_crm(zoho.state)
        _fill_warehouse(postgres_server.url(warehouse))
        settings = {
            "AIRFLOW__LOGGING__LOGGING_LEVEL": "DEBUG",
            "ZOHO_CRM_JOBS_FOLDER": str(_write_job(home)),
            **statsd.environment(),
        }
        for name, value in settings.items():
            patch.setenv(name, value)
        to_zoho = default_connection("127.0.0.1", zoho.port) | {
            "password": CLIENT_SECRET,
            "extra": {"refresh_token": REFRESH_TOKEN},
        }
        env = {
            "zoho_crm_default": to_zoho,
            "warehouse": connection_to(postgres_server.url(warehouse)) | {"password": WAREHOUSE_PASSWORD},
            "zoho_delink_audit": connection_to(postgres_server.url(audit)) | {"password": AUDIT_PASSWORD},
        }
        with LiveDags(home, empty_airflow_db) as live:
            live.env = _connections(env)
            live.run(DAG_ID, mode="apply")
            live.env = _connections(env | {"zoho_crm_default": to_zoho | {"password": WRONG_SECRET}})
            live.run(DAG_ID, "failed", mode="apply")
            nowhere = {"host": str(home / "no-server")}
            live.env = _connections(env | {"warehouse": env["warehouse"] | nowhere})
            live.run(DAG_ID, "failed", mode="apply")
            live.env = _connections(env | {"zoho_delink_audit": env["zoho_delink_audit"] | nowhere})
            # The report would be retried for minutes.
            live.run(DAG_ID, mark_success="report", mode="apply")
        texts = {
            "metrics": "\n".join(statsd.texts),
            "audit database": _dump(postgres_server.url(audit)),
            **{
                str(path.relative_to(home)): _read(path)
                for path in home.rglob("*")
                if path.is_file() and path.suffix != ".pyc"
            },
        }
        secrets = {
            "client secret": CLIENT_SECRET,
            "refresh token": REFRESH_TOKEN,
            "wrong client secret": WRONG_SECRET,
            "audit password": AUDIT_PASSWORD,
            "warehouse password": WAREHOUSE_PASSWORD,
            **{f"access token {number}": value for number, value in enumerate(zoho.state.tokens._tokens)},
        }
        yield Written(texts, secrets, live.database)


def _write_job(home: Path) -> Path:
    """Copy the sample job, without retries, and return its folder."""
    folder = home / "include" / "jobs"
    folder.mkdir(parents=True)
    (home / "include" / "sql").mkdir()
    job = yaml.safe_load((PROJECT / "include" / "jobs" / "contacts_deals.yaml").read_text()) | {"retries": 0}
    (folder / "contacts_deals.yaml").write_text(yaml.safe_dump(job))
    sql = (PROJECT / "include" / "sql" / "contacts_deals.sql").read_text()
    (home / "include" / "sql" / "contacts_deals.sql").write_text(sql)
    return folder


def _read(path: Path) -> str:
    """Return the content of a file, without the lines in which ``dag.test()`` says what Airflow is to mask."""
    text = path.read_bytes().decode("latin-1")
    # In a task that a worker runs, the body of this message is omitted.
    return re.sub(r"(?m)^.*Sending request .* msg=MaskSecret\(.*$", "", text)


def _connections(by_id: dict[str, dict[str, Any]]) -> dict[str, str]:
    return {f"AIRFLOW_CONN_{conn_id.upper()}": json.dumps(value) for conn_id, value in by_id.items()}


def _fill_warehouse(url: sa.URL) -> None:
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "CREATE TABLE crm_links_to_remove AS SELECT 'contacts_deals' AS relation, 'c-000' || n AS parent_id, "
            "'d-000' || n AS related_id, now() - interval '1 hour' AS marked_at FROM generate_series(1, 5) AS n"
        )
    engine.dispose()


def _dump(url: sa.URL) -> str:
    """Return every row of every table as text."""
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        tables = sa.inspect(connection).get_table_names()
        assert "zoho_delink_audit" in tables
        rows = [
            row
            for table in tables
            for row in connection.exec_driver_sql(f"SELECT t::text FROM {table} AS t").scalars()  # noqa: S608
        ]
    engine.dispose()
    return "\n".join(rows)


def _forms(secret: str) -> set[str]:
    """Return how a secret may be written: as it is, in a URL, in base64."""
    encoded = {
        base64.b64encode(b"x" * shift + secret.encode())[4 if shift else 0 : -4].decode()
        for shift in range(3)
    }
    return {secret, quote(secret, safe=""), *encoded}


def test_runs_write_to_every_place_that_is_searched(written: Written) -> None:
    log = written.texts["runs.log"]
    assert "debug" in log.lower()
    assert "Traceback" in log
    assert "zoho_crm.links" in written.texts["metrics"]
    assert "c-0001" in written.texts["audit database"]
    assert len(written.secrets) > 5
    with closing(sqlite3.connect(written.metadata)) as metadata:
        for table in ("xcom", "rendered_task_instance_fields", "variable"):
            assert metadata.execute(f"SELECT count(*) FROM {table}").fetchone()[0] > 0, table  # noqa: S608


def test_no_secret_is_written_in_clear(written: Written) -> None:
    found = [
        (name, place)
        for name, secret in written.secrets.items()
        for place, text in written.texts.items()
        if any(form in text for form in _forms(secret))
    ]
    assert found == []
