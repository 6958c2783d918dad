from __future__ import annotations

import logging
from typing import Any

import pytest
from airflow.sdk import Variable
from airflow.sdk.execution_time import comms, task_runner

from zoho_crm.hooks import token_store
from zoho_crm.hooks.oauth import Token
from zoho_crm.hooks.token_store import Stored, VariableTokenStore

TOKEN = Token("access-token-1", "https://www.zohoapis.com", "S", 5000.0)


@pytest.fixture
def real_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_store, "Variable", Variable)


class Supervisor:
    """Airflow's supervisor, as far as Variables go."""

    def __init__(self) -> None:
        self.values: dict[str, str | None] = {}

    def send(self, msg: Any) -> Any:
        if isinstance(msg, comms.PutVariable):
            self.values[msg.key] = msg.value
            return comms.OKResponse(ok=True)
        if isinstance(msg, comms.GetVariable):
            return comms.VariableResult(key=msg.key, value=self.values.get(msg.key))
        return None


@pytest.mark.usefixtures("real_variable")
def test_keeps_the_record_in_airflows_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    supervisor = Supervisor()
    monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", supervisor, raising=False)
    VariableTokenStore("zoho_x", "f").save(Stored(TOKEN, 7.0))
    assert list(supervisor.values) == ["zoho_crm_access_token__zoho_x"]
    assert token_store._in_process == {}


@pytest.mark.usefixtures("real_variable")
def test_outside_of_a_task_the_process_keeps_it_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    store = VariableTokenStore("zoho_x", "f")
    for _ in range(3):
        store.save(Stored(TOKEN))
        assert VariableTokenStore("zoho_x", "f").load() == Stored(TOKEN)
    told = [record for record in caplog.records if record.name == token_store.__name__]
    assert [record.levelname for record in told] == ["INFO"]
    assert "keeps its own access token" in told[0].getMessage()
    assert "access-token-1" not in caplog.text


def test_a_failing_backend_does_no_harm_and_is_told_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken:
        @staticmethod
        def get(key: str, default: object = None) -> object:
            raise RuntimeError("access-token-1 in a message")

        set = get

    monkeypatch.setattr(token_store, "Variable", Broken)
    caplog.set_level(logging.DEBUG)
    store = VariableTokenStore("zoho_x", "f")
    assert store.load() == Stored()
    store.save(Stored(TOKEN))
    store.save(Stored(TOKEN))
    assert store.load() == Stored(TOKEN)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "access-token-1" not in caplog.text


def test_a_variable_that_works_again_is_used_again(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    store = VariableTokenStore("zoho_x", "f")
    with monkeypatch.context() as patch:
        patch.setattr(token_store.Variable, "set", staticmethod(lambda *_: 1 / 0))
        store.save(Stored(TOKEN))
    store.save(Stored(TOKEN, 9.0))
    assert token_store._in_process == {}
    assert list(variables) == [store.key]


def test_a_record_of_other_credentials_is_none() -> None:
    VariableTokenStore("zoho_x", "f").save(Stored(TOKEN, 9.0))
    assert VariableTokenStore("zoho_x", "g").load() == Stored()
