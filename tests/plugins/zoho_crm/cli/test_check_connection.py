from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tests.support.databases import set_connection
from tests.support.local_zoho import ZOHO, zoho_connection
from zoho_crm.hooks.zoho_crm import ZohoCRMHook

if TYPE_CHECKING:
    import pytest

    from tests.plugins.zoho_crm.cli.conftest import Cli, Jobs
    from zoho_crm.testing.local_zoho import LocalZoho


def token_requests(zoho: LocalZoho) -> int:
    return sum(request.path == "/oauth/v2/token" for request in zoho.state.journal.requests)


def test_working_connection_is_described(cli: Cli, zoho: LocalZoho) -> None:
    document = cli.document("check-connection")
    assert document["ok"] is True
    assert document["org"]["id"]
    assert document["org"]["edition"]
    assert document["environment"] == document["org"]["type"] == "production"
    assert document["scopes"]
    assert document["max_concurrency"] == 10
    assert document["local"] is True
    assert token_requests(zoho) == 1


def test_output_holds_no_secret(cli: Cli, zoho: LocalZoho) -> None:
    for args in (["check-connection"], ["check-connection", "--json"]):
        result = cli(*args)
        assert result.exit_code == 0
        for secret in ("local-secret", "local-refresh-token", "1000."):
            assert secret not in result.output
    assert "ok: the connection works" in cli("check-connection").stdout


def test_job_metadata_is_checked_with_the_same_token(cli: Cli, zoho: LocalZoho, jobs: Jobs) -> None:
    document = cli.document("check-connection", "--job", "contacts_deals")
    assert document["job"] == "contacts_deals"
    assert token_requests(zoho) == 1
    assert any("/settings/related_lists" in request.path for request in zoho.state.journal.requests)


def test_missing_field_of_a_job_exits_with_1(cli: Cli, zoho: LocalZoho, jobs: Jobs) -> None:
    jobs.write(
        relation={
            "module": "Contacts",
            "external_field": "No_Such_Field",
            "related_list": "Deals",
            "related_external_field": "External_Deal_ID",
        }
    )
    document = cli.document("check-connection", "--job", "contacts_deals", code=1)
    assert document["ok"] is False
    (error,) = document["errors"]
    assert "No_Such_Field" in error


def test_revoked_token_exits_with_1_despite_a_stored_token(
    cli: Cli, zoho: LocalZoho, variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ZohoCRMHook(ZOHO).get_org()
    assert variables
    monkeypatch.setattr(zoho.state.tokens, "refresh_tokens", frozenset())
    document = cli.document("check-connection", code=1)
    assert "revoked" in document["errors"][0]
    assert document["data_center"] == "us"
    assert "org" not in document
    result = cli("check-connection")
    assert result.exit_code == 1
    assert "error: " in result.stdout
    assert "local-refresh-token" not in result.output


def test_token_is_not_stored(cli: Cli, zoho: LocalZoho, variables: dict[str, str]) -> None:
    assert cli("check-connection").exit_code == 0
    assert variables == {}


def test_unknown_extra_exits_with_1(cli: Cli, zoho: LocalZoho, monkeypatch: pytest.MonkeyPatch) -> None:
    set_connection(monkeypatch, ZOHO, **zoho_connection(zoho, proxy="http://elsewhere"))
    assert "unknown extra 'proxy'" in cli.document("check-connection", code=1)["errors"][0]


def test_max_concurrency_above_the_edition_limit_gets_advice(
    cli: Cli, zoho: LocalZoho, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_connection(monkeypatch, ZOHO, **zoho_connection(zoho, max_concurrency=25))
    monkeypatch.setattr(
        "zoho_crm.hooks.metadata.edition_of", lambda _org: "Zoho One"
    )  # the local Zoho is of one edition only
    document = cli.document("check-connection")
    assert document["org"]["max_concurrency"] == 20
    assert "lower it to 20" in document["advice"][0]


def test_missing_connection_is_a_usage_error(cli: Cli) -> None:
    result = cli("check-connection", "missing")
    assert result.exit_code == 2
    assert "AIRFLOW_CONN_MISSING" in result.stderr
    assert "no tables" in result.stderr or "no connection with that id" in result.stderr


def test_malformed_connection_is_a_usage_error_and_not_shown(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"AIRFLOW_CONN_{ZOHO.upper()}", '{"password": "local-secret", ')
    result = cli("check-connection")
    assert result.exit_code == 2
    assert "local-secret" not in result.output


def test_unreachable_zoho_exits_with_3(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda _seconds: None)
    values: dict[str, Any] = {
        "conn_type": "zoho_crm",
        "schema": "http",
        "host": "127.0.0.1",
        "port": 9,
        "login": "local-client",
        "password": "local-secret",
        "extra": {"refresh_token": "local-refresh-token"},
    }
    set_connection(monkeypatch, ZOHO, **values)
    result = cli("check-connection", "--json")
    assert result.exit_code == 3, result.output
    assert json.loads(result.stdout)["exit_code"] == 3
