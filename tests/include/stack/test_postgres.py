from __future__ import annotations

import psycopg
import pytest

from include.stack import LocalPostgres
from include.stack.processes import living_processes


def test_listens_on_loopback_alone_and_keeps_its_data(tmp_path, listening_addresses):
    with LocalPostgres(tmp_path / "postgres") as server:
        assert server.create_database("ledger")
        with psycopg.connect(server.url("ledger")) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 42 AS value")
        processes = server.processes()
        assert len(processes) > 1
        assert listening_addresses(processes) == {"127.0.0.1"}

    assert not processes & living_processes().keys()

    with LocalPostgres(tmp_path / "postgres") as server:
        assert not server.create_database("ledger")
        with psycopg.connect(server.url("ledger")) as connection:
            assert connection.execute("SELECT value FROM kept").fetchone() == (42,)


def test_refuses_a_wrong_password(tmp_path):
    with LocalPostgres(tmp_path / "postgres") as server:
        url = server.url("postgres").replace(server.url("postgres").split(":")[2].split("@")[0], "guessed")

        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(url)
