from __future__ import annotations

from pathlib import Path

import pytest

from include.stack.settings import USERS, Layout, Secrets, airflow_environment, passwords_file

_LAYOUT = Layout(
    home=Path("/home/of/airflow"),
    dags_folder=Path("/project/dags"),
    plugins_folder=Path("/project/plugins"),
    project=Path("/project"),
    port=12345,
    database_url="postgresql+psycopg2://sync",
    async_database_url="postgresql+asyncpg://async",
)


def _environment(
    inherited: dict[str, str] | None = None, extra: dict[str, str] | None = None
) -> dict[str, str]:
    return airflow_environment(
        _LAYOUT, Secrets.generate(), parallelism=3, inherited=inherited or {}, extra=extra or {}
    )


def test_every_server_is_bound_to_and_reached_at_the_loopback_address():
    environment = _environment()

    assert environment["AIRFLOW__API__HOST"] == "127.0.0.1"
    assert environment["AIRFLOW__API__PORT"] == "12345"
    assert environment["AIRFLOW__API__BASE_URL"] == "http://127.0.0.1:12345"
    assert environment["AIRFLOW__CORE__EXECUTION_API_SERVER_URL"] == "http://127.0.0.1:12345/execution/"


def test_tells_both_database_urls():
    environment = _environment()

    assert environment["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] == "postgresql+psycopg2://sync"
    assert environment["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC"] == "postgresql+asyncpg://async"


@pytest.mark.parametrize(
    "name",
    [
        "AIRFLOW_HOME",
        "AIRFLOW_CONN_WAREHOUSE",
        "AIRFLOW__CORE__EXECUTOR",
        "PYTHONPATH",
        "PYTHONWARNINGS",
        "PYTEST_ADDOPTS",
    ],
)
def test_leaves_out_what_the_outside_says_to_airflow_and_python(name):
    assert _environment({name: "from outside"}).get(name) != "from outside"


def test_keeps_the_rest_of_the_outside():
    assert _environment({"PATH": "/bin", "SSL_CERT_FILE": "/certificates"}).items() >= {
        ("PATH", "/bin"),
        ("SSL_CERT_FILE", "/certificates"),
    }


def test_goes_around_proxies_to_itself_and_respects_other_exceptions():
    environment = _environment({"NO_PROXY": "intranet"})

    assert environment["NO_PROXY"] == environment["no_proxy"] == "intranet,127.0.0.1,localhost"


def test_extra_comes_last():
    extra = {"AIRFLOW__CORE__PARALLELISM": "99", "AIRFLOW_CONN_WAREHOUSE": "{}"}

    assert _environment({"AIRFLOW_CONN_WAREHOUSE": "other"}, extra).items() >= extra.items()


def test_secrets_stay_the_same_and_are_their_owners_alone(tmp_path):
    first = Secrets.keep(tmp_path)

    assert Secrets.keep(tmp_path) == first
    assert first.passwords.keys() == USERS.keys()
    files = {tmp_path / "secrets.json", passwords_file(tmp_path)}
    assert set(tmp_path.iterdir()) == files
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}
