from __future__ import annotations

import stat
from pathlib import Path

import pytest

from include.stack import LocalAirflow
from include.stack.settings import USERS, airflow_settings, clean_environment, load_passwords


def _clean(inherited: dict[str, str]) -> dict[str, str]:
    return clean_environment(Path("/home/of/airflow"), Path("/project"), inherited)


def _settings(home: Path) -> dict[str, str]:
    return airflow_settings(home, port=12345, dags_folder=home / "dags", plugins_folder=home / "plugins")


def test_every_server_is_bound_to_loopback(tmp_path):
    settings = _settings(tmp_path)

    assert settings["AIRFLOW__API__HOST"] == "127.0.0.1"
    assert settings["AIRFLOW__API__PORT"] == "12345"
    assert settings["AIRFLOW__API__BASE_URL"] == "http://127.0.0.1:12345"
    assert settings["AIRFLOW__CORE__EXECUTION_API_SERVER_URL"] == "http://127.0.0.1:12345/execution/"


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
def test_drops_settings_of_airflow_and_python_from_outside(name):
    assert _clean({name: "from outside"}).get(name) != "from outside"


def test_keeps_other_variables_from_outside():
    outside = {"PATH": "/bin", "SSL_CERT_FILE": "/certificates"}

    assert _clean(outside).items() >= outside.items()


def test_excludes_loopback_from_proxies():
    environment = _clean({"NO_PROXY": "intranet"})

    assert environment["NO_PROXY"] == environment["no_proxy"] == "intranet,127.0.0.1,localhost"


def test_given_variables_override_all_settings(tmp_path):
    extra = {"AIRFLOW__CORE__PARALLELISM": "99", "AIRFLOW__CORE__EXECUTOR": "other", "AIRFLOW_HOME": "/other"}

    airflow = LocalAirflow(tmp_path, env=extra)
    airflow.postgres = _Urls()

    assert airflow.environment().items() >= extra.items()
    assert airflow.environment()["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] == "postgresql+psycopg2://airflow"
    assert (
        airflow.environment()["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC"] == "postgresql+asyncpg://airflow"
    )


def test_secrets_are_stable_and_only_their_owner_can_read_them(tmp_path):
    settings, passwords = _settings(tmp_path), load_passwords(tmp_path)

    assert (_settings(tmp_path), load_passwords(tmp_path)) == (settings, passwords)
    assert passwords.keys() == USERS.keys()
    files = {file.name: stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()}
    assert files == dict.fromkeys(["api_secret_key", "fernet_key", "jwt_secret", "passwords.json"], 0o600)


class _Urls:
    def url(self, database: str, driver: str) -> str:
        return f"postgresql+{driver}://{database}"
