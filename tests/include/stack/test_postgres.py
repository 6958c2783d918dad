from __future__ import annotations

import psycopg
import pytest

from include.stack import LocalPostgres
from include.stack.guard import living_processes
from include.stack.network import listeners_of

pytestmark = pytest.mark.integration


def test_listens_on_the_loopback_address_alone_and_keeps_its_data(tmp_path):
    with LocalPostgres(tmp_path / "postgres") as server:
        assert server.create_database("ledger")
        with psycopg.connect(server.url("ledger")) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
        processes = server.processes()
        assert len(processes) > 1
        assert {str(one.address) for one in listeners_of(processes)} == {"127.0.0.1"}

    assert not processes & {process.pid for process in living_processes()}

    with LocalPostgres(tmp_path / "postgres") as server:
        assert not server.create_database("ledger")
        with psycopg.connect(server.url("ledger")) as connection:
            assert connection.execute("SELECT answer FROM kept").fetchone() == (42,)


def test_refuses_whoever_has_no_password(tmp_path):
    with LocalPostgres(tmp_path / "postgres") as server:
        url = server.url("postgres").replace(server.url("postgres").split(":")[2].split("@")[0], "guessed")

        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(url)
