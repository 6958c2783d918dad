from __future__ import annotations

import re
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.support.deployment import COMPOSE, COMPOSE_TEXT, ENV_EXAMPLE, OURS, PROJECT, SECRETS, SERVICES

if TYPE_CHECKING:
    from pathlib import Path

_VARIABLE = re.compile(r"(?<!\$)\$\{([A-Z_]+)([^}]*)\}")
_SECRET_NAME = re.compile(
    r"PASSWORD|SECRET|TOKEN|FERNET|_CONN_|SQL_ALCHEMY_CONN|BROKER_URL|RESULT_BACKEND|AUTH$"
)
# A literal password, in a URL or as a JSON value.
_LITERAL = re.compile(r"://[^/\s@]*:(?!\$\{)[^/\s@]+@|\"(?:password|refresh_token)\": \"(?!\$\{)[^\"]")


def test_variables_match_the_env_example():
    assert {name for name, _ in _VARIABLE.findall(COMPOSE_TEXT)} == ENV_EXAMPLE.keys()


def test_missing_secret_is_refused_with_a_description():
    refused = {name for name, rest in _VARIABLE.findall(COMPOSE_TEXT) if re.fullmatch(r":\?.{10,}", rest)}
    assert refused == SECRETS
    assert {"POSTGRES_PASSWORD", "REDIS_PASSWORD", "AIRFLOW_FERNET_KEY", "AIRFLOW_JWT_SECRET"} <= SECRETS


def test_defaults_match_the_env_example():
    defaults = {name: rest[2:] for name, rest in _VARIABLE.findall(COMPOSE_TEXT) if rest.startswith(":-")}
    assert defaults == {name: value for name, value in ENV_EXAMPLE.items() if value}


def test_compose_file_has_no_secret():
    assert not _LITERAL.search(COMPOSE_TEXT)
    for service in SERVICES.values():
        for name, value in service["environment"].items():
            if _SECRET_NAME.search(name):
                assert _VARIABLE.search(value), name


def test_every_image_has_a_version():
    for service in SERVICES.values():
        assert re.search(r":\d+\.\d+(\.\d+)?(-[a-z]+)?$", service["image"]), service["image"]


def test_only_the_api_server_is_published_and_only_locally():
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert published == {"api-server": ["127.0.0.1:${AIRFLOW_PORT:-8080}:8080"]}
    assert not any("network_mode" in service or "privileged" in service for service in SERVICES.values())


def test_every_service_but_init_has_a_health_check_and_restarts():
    assert set(OURS) == {"init", "api-server", "scheduler", "dag-processor", "triggerer", "worker"}
    for name, service in SERVICES.items():
        if name == "init":
            assert service["restart"] == "no"
            assert "init" not in service["depends_on"]
        else:
            assert service["restart"] == "unless-stopped"
            assert service["healthcheck"]["test"]
        if name in OURS:
            assert service["cap_drop"] == ["ALL"]
            assert service["depends_on"]["postgres"] == {"condition": "service_healthy"}


def test_workers_can_scale_and_have_time_to_finish_their_chunks():
    worker = SERVICES["worker"]
    assert not {"container_name", "hostname", "ports"} & worker.keys()
    assert worker["stop_grace_period"] == "10m"


def test_mounted_files_exist():
    mounts = [mount for service in SERVICES.values() for mount in service["volumes"]]
    folders = {mount.split(":")[0] for mount in mounts if mount.startswith("./")}
    assert folders == {"./include/jobs", "./include/sql", "./deploy/postgres/create_audit_database.sql"}
    assert all((PROJECT / folder).exists() for folder in folders)
    assert {mount.split(":")[0] for mount in mounts if not mount.startswith("./")} == COMPOSE[
        "volumes"
    ].keys()


def test_audit_connection_uses_the_database_that_is_created_for_it():
    made = (PROJECT / "deploy" / "postgres" / "create_audit_database.sql").read_text()
    name = SERVICES["worker"]["environment"]["AIRFLOW_CONN_ZOHO_DELINK_AUDIT"].rpartition("/")[2]
    assert f"CREATE DATABASE {name};" in made


def compose() -> list[str]:
    """Return the command of the installed Docker Compose; skip the test without one."""
    for command in (["docker", "compose"], ["docker-compose"]):
        program = shutil.which(command[0])
        if (
            program
            and subprocess.run([*command, "version"], capture_output=True, check=False).returncode == 0
        ):
            return [program, *command[1:]]
    pytest.skip("no Docker Compose on this machine (Debian and Ubuntu: apt-get install docker-compose)")


def check(tmp_path: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    file = tmp_path / "env"
    file.write_text("".join(f"{name}={value}\n" for name, value in env.items()))
    command = [*compose(), "--env-file", str(file), "-f", str(PROJECT / "compose.yaml"), "config", "--quiet"]
    return subprocess.run(command, env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True, check=False)


@pytest.fixture
def filled() -> dict[str, str]:
    return ENV_EXAMPLE | dict.fromkeys(SECRETS, "abc123")


@pytest.mark.systems
def test_compose_accepts_the_file_with_all_secrets(tmp_path, filled):
    done = check(tmp_path, filled)
    assert done.returncode == 0, done.stderr


@pytest.mark.systems
@pytest.mark.parametrize("missing", ["POSTGRES_PASSWORD", "ZOHO_REFRESH_TOKEN"])
def test_compose_refuses_the_file_without_a_secret(tmp_path, filled, missing):
    done = check(tmp_path, {**filled, missing: ""})
    assert done.returncode != 0
    assert missing in done.stderr or "docs/connection.md" in done.stderr
