"""The connection type `zoho_crm` in a running Airflow: its form, its Test button, its provider."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

import zoho_crm

if TYPE_CHECKING:
    from tests.support.airflow_world import World

pytest_plugins = ["tests.support.airflow_world"]


@pytest.fixture(scope="session")
def stack_env(jobs_env: dict[str, str]) -> dict[str, str]:
    return jobs_env


def test_connection_form_has_the_custom_fields_and_hides_secrets(world: World):
    forms = world.airflow.api("GET", "/ui/connections/hook_meta")

    (form,) = [form for form in forms if form["connection_type"] == "zoho_crm"]
    assert form["hook_name"] == "Zoho CRM"
    assert form["standard_fields"]["login"]["title"] == "Client ID"
    assert form["standard_fields"]["password"]["title"] == "Client secret"
    fields = form["extra_fields"]
    assert set(fields) == {"refresh_token", "data_center", "environment", "api_version", "max_concurrency"}
    assert fields["refresh_token"]["schema"]["format"] == "password"
    assert fields["data_center"]["schema"]["enum"][0] == "us"


def test_connection_test_names_the_organization(world: World):
    response = _press_test(world)

    assert response["status"] is True
    assert response["message"].startswith("Connected to Local Zoho (an imitation) (org 700000001, ")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"password": "wrong-client-secret"},
            "invalid_client_secret: the client secret is wrong: check password (client secret)",
        ),
        (
            {"extra": {"refresh_token": "wrong-refresh-token"}},
            "invalid_code: the refresh token is revoked or wrong, or belongs to another data center: "
            "check refresh_token and data_center",
        ),
    ],
    ids=["client_secret", "refresh_token"],
)
def test_connection_test_names_the_wrong_field_and_shows_no_secret(
    world: World, changes: dict[str, Any], said: str
):
    response = _press_test(world, **changes)

    assert response["status"] is False
    assert response["message"].endswith(said)
    for secret in ("wrong-client-secret", "wrong-refresh-token", "local-secret", "local-refresh-token"):
        assert secret not in json.dumps(response)


def test_provider_is_listed_by_the_command_line(world: World):
    listed = subprocess.run(
        [sys.executable, "-m", "airflow", "providers", "list", "--output", "json"],
        env=world.airflow.environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )

    providers = {each["package_name"]: each for each in json.loads(listed.stdout)}
    assert providers["zoho-crm-delink"]["version"] == zoho_crm.__version__


def _press_test(world: World, **changes: Any) -> Any:
    connection = {
        "connection_id": "zoho_being_created",
        "conn_type": "zoho_crm",
        "schema": "http",
        "host": "127.0.0.1",
        "port": world.zoho.port,
        "login": "local-client",
        "password": "local-secret",
        "extra": {"refresh_token": "local-refresh-token"},
        **changes,
    }
    body = {**connection, "extra": json.dumps(connection["extra"])}
    return world.airflow.api("POST", "/api/v2/connections/test", body)
