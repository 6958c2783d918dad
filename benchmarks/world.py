"""Shared parts of the benchmarks: a local Zoho in a separate process, databases, and connections."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import requests

from include.stack.processes import StackError, Supervisor, tail

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from include.stack import LocalPostgres

PROJECT = Path(__file__).resolve().parents[1]
CONCURRENCY = 20
LATENCY_S = 0.1
LIMIT_PER_S = CONCURRENCY / LATENCY_S
"""Maximum requests per second: each takes the latency, and the requests in flight are limited."""

Pair = tuple[str, str]

RELATION: dict[str, Any] = {
    "module": "Contacts",
    "external_field": "External_Contact_ID",
    "related_list": "Deals",
    "related_module": "Deals",
    "related_external_field": "External_Deal_ID",
}
X_EXTERNAL = "Contacts.External_Contact_ID,Deals.External_Deal_ID"


@dataclass(frozen=True, slots=True)
class Zoho:
    """A running local Zoho."""

    url: str

    def seed(self, pairs: Sequence[Pair]) -> None:
        """Link these contacts and deals."""
        for start in range(0, len(pairs), 10_000):
            part = pairs[start : start + 10_000]
            links = [{"module": "Contacts", "related_list": "Deals", "pairs": part}]
            _request("POST", f"{self.url}/_local/seed", json={"links": links})

    def state(self) -> dict[str, Any]:
        """Return the counters of the local Zoho."""
        state: dict[str, Any] = _request("GET", f"{self.url}/_local/state?include_links=false")
        return state

    def links(self) -> int:
        """Return the number of links."""
        return len(_request("GET", f"{self.url}/_local/state")["links"])

    def token(self) -> str:
        """Return an access token."""
        response = _request(
            "POST",
            f"{self.url}/oauth/v2/token",
            data={
                "grant_type": "refresh_token",
                "client_id": "local-client",
                "client_secret": "local-secret",
                "refresh_token": "local-refresh-token",
            },
        )
        return str(response["access_token"])

    def connection(self) -> dict[str, Any]:
        """Return the Airflow connection to it."""
        parts = urlsplit(self.url)
        return {
            "conn_type": "zoho_crm",
            "schema": "http",
            "host": parts.hostname,
            "port": parts.port,
            "login": "local-client",
            "password": "local-secret",
            "extra": {"refresh_token": "local-refresh-token", "max_concurrency": CONCURRENCY},
        }


@contextmanager
def local_zoho(folder: Path) -> Iterator[Zoho]:
    """Run a local Zoho with the latency and the limit that all benchmarks share."""
    port_file, log = folder / "zoho.port", folder / "logs" / "zoho.log"
    port_file.unlink(missing_ok=True)
    settings = {"latency_s": LATENCY_S, "concurrency_limit": CONCURRENCY, "journal_size": 1_000}
    options = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
    with Supervisor() as supervisor:
        supervisor.start(
            "zoho",
            [sys.executable, "-m", "zoho_crm.testing.local_zoho", "--port-file", str(port_file), *options],
            env=os.environ,
            log=log,
            cwd=PROJECT,
        )
        supervisor.wait_until(port_file.exists, 30, lambda: f"the local Zoho has not started.\n{tail(log)}")
        yield Zoho(f"http://127.0.0.1:{int(port_file.read_text())}")


def links_of(count: int, per_parent: int = 1) -> list[Pair]:
    """Return ``count`` links, ``per_parent`` of each contact."""
    return [(f"c-{number // per_parent:07}", f"d-{number:07}") for number in range(count)]


def sqlite_connection(path: Path) -> dict[str, Any]:
    """Return the Airflow connection to a SQLite file."""
    return {"conn_type": "sqlite", "host": str(path)}


def postgres_connection(postgres: LocalPostgres, database: str) -> dict[str, Any]:
    """Create a database, whose commits wait for the disk, and return the Airflow connection to it."""
    postgres.create_database(database)
    parts = urlsplit(postgres.url(database))
    return {
        "conn_type": "postgres",
        "host": parts.hostname,
        "port": parts.port,
        "login": parts.username,
        "password": parts.password,
        "schema": database,
    }


def as_environment(connections: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Return connections as environment variables for Airflow."""
    return {f"AIRFLOW_CONN_{name.upper()}": json.dumps(value) for name, value in connections.items()}


def write_links(warehouse: Path, table: str, pairs: Sequence[Pair]) -> None:
    """Write links into a table of a warehouse in SQLite."""
    with closing(sqlite3.connect(warehouse)) as connection, connection:
        connection.execute(f"CREATE TABLE {table} (external_id TEXT, related_external_id TEXT)")
        connection.executemany(f"INSERT INTO {table} VALUES (?, ?)", pairs)  # noqa: S608 - fixed names


def run_child(
    module: str,
    arguments: Mapping[str, object],
    *,
    folder: Path,
    connections: Mapping[str, Mapping[str, Any]],
    timeout_s: float = 300.0,
) -> dict[str, Any]:
    """
    Run a measurement in a separate process, and return its result.

    :param module: module with a function ``measure`` that takes ``arguments``
    """
    result = folder / f"{module}.json"
    result.unlink(missing_ok=True)
    home = folder / "child"
    home.mkdir(exist_ok=True)
    env = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")} | {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home / 'airflow.db'}",
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "WARNING",
        **as_environment(connections),
    }
    argv = [sys.executable, "-m", "benchmarks.child", module, json.dumps(arguments), str(result)]
    with (folder / "child.log").open("ab") as log:
        done = subprocess.run(  # noqa: S603 - our own program
            argv, env=env, cwd=PROJECT, stdout=log, stderr=log, timeout=timeout_s, check=False
        )
    if done.returncode != 0:
        raise StackError(f"{module} ended with code {done.returncode}.\n{tail(folder / 'child.log')}")
    found: dict[str, Any] = json.loads(result.read_text())
    return found


def _request(method: str, url: str, **content: Any) -> Any:
    with requests.Session() as session:
        session.trust_env = False
        response = session.request(method, url, timeout=60, **content)
    response.raise_for_status()
    return response.json()
