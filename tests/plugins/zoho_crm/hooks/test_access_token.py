from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk._shared.secrets_masker import redact
from cryptography.fernet import Fernet

from zoho_crm.errors import ZohoAuthError, ZohoError, ZohoNotSentError, ZohoTokenThrottledError
from zoho_crm.hooks.access_token import Stored, TokenSource, VariableTokenStore
from zoho_crm.hooks.connection import ZohoConnection
from zoho_crm.hooks.oauth import Token

if TYPE_CHECKING:
    from collections.abc import Iterator

import logging

from airflow.sdk import Variable
from airflow.sdk.execution_time import comms, task_runner

from zoho_crm.hooks import access_token

KEY = "zoho_crm_access_token__zoho_x"
NOW = 1_000_000.0


def zoho_connection(**changes: Any) -> ZohoConnection:
    values = {"client_id": "id", "client_secret": "secret", "refresh_token": "refresh", **changes}
    return ZohoConnection(conn_id="zoho_x", **values)


@dataclass
class World:
    """A clock, and an accounts server that issues numbered tokens."""

    variables: dict[str, str]
    now: float = NOW
    connection: ZohoConnection = field(default_factory=zoho_connection)
    fetched: int = 0
    refuse: ZohoError | None = None
    lifetime_s: float = 3600.0

    def fetch(self) -> Token:
        self.fetched += 1
        if self.refuse is not None:
            raise self.refuse
        token = self.token(f"fetched-{self.fetched}", self.lifetime_s)
        return replace(token, expires_at=token.expires_at - NOW)

    def token(self, value: str, left_s: float, domain: str | None = None) -> Token:
        return Token(value, domain or self.connection.base_url, "S", self.now + left_s, left_s)

    def source(self, **kwargs: Any) -> TokenSource:
        return TokenSource(
            self.connection,
            fetch=self.fetch,
            store=self.store(),
            clock=lambda: self.now - NOW,
            **{"shared_clock": lambda: self.now, **kwargs},
        )

    def store(self) -> VariableTokenStore:
        return VariableTokenStore("zoho_x", self.connection.token_key)

    def stored(self) -> dict[str, Any]:
        return json.loads(Fernet(self.connection.token_key).decrypt(self.variables[KEY]))

    def store_record(self, record: str) -> None:
        self.variables[KEY] = Fernet(self.connection.token_key).encrypt(record.encode()).decode()


@pytest.fixture
def world(variables: dict[str, str]) -> World:
    return World(variables)


def test_the_first_fetches_and_all_others_share(world: World) -> None:
    assert world.source().get().access_token == "fetched-1"
    assert world.source().get().access_token == "fetched-1"
    assert world.fetched == 1
    assert world.stored() == {
        "access_token": "fetched-1",
        "api_domain": "https://www.zohoapis.com",
        "scope": "S",
        "throttled_until": 0.0,
    }


def test_masks_fetched_and_loaded_tokens(world: World) -> None:
    world.store().save(Stored(world.token("loaded-token-9", 3000)))
    source = world.source()
    source.get()
    assert redact("x loaded-token-9") == "x ***"
    source.replace("loaded-token-9")
    assert redact("x fetched-1") == "x ***"


@pytest.mark.parametrize("left_s", [3600, 1, -5, -3600])
def test_token_of_another_process_is_used_until_it_is_rejected(world: World, left_s: float) -> None:
    world.store().save(Stored(world.token("stored", left_s)))
    source = world.source()
    world.now += 3600
    assert source.get().access_token == "stored"
    assert source.replace("stored").access_token == "fetched-1"


def test_short_lived_token_is_renewed_for_its_last_quarter(world: World) -> None:
    world.lifetime_s = 20.0
    source = world.source()
    assert source.get().access_token == "fetched-1"
    world.now += 14.9
    assert source.get().access_token == "fetched-1"
    world.now += 0.1
    assert source.get().access_token == "fetched-2"


def test_workers_with_wrong_clocks_fetch_no_extra_token(world: World) -> None:
    for skew_s in (0, 3600, -3600, *[0] * 21):
        source = world.source(shared_clock=lambda skew_s=skew_s: world.now + skew_s)
        world.now += 1
        assert source.get().access_token == "fetched-1"
    assert world.fetched == 1


def test_renews_the_current_token_a_minute_before_it_expires(world: World) -> None:
    source = world.source()
    source.get()
    world.now += 3600 - 61
    assert source.get().access_token == "fetched-1"
    world.now += 1
    assert source.get().access_token == "fetched-2"


@pytest.mark.parametrize(
    "change",
    [
        {"refresh_token": "new"},
        {"client_id": "new"},
        {"client_secret": "new"},
        {"data_center": "eu"},
        {"environment": "sandbox"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_changed_credentials_never_use_the_old_token(world: World, change: dict[str, Any]) -> None:
    world.source().get()
    world.connection = zoho_connection(**change)
    assert world.source().get().access_token == "fetched-2"


@pytest.mark.parametrize(
    "text",
    ["", "nonsense", "[]", "{}", "5", '{"access_token": 5}', "[" * 100_000],
    ids=["empty", "words", "list", "object", "number", "wrong", "deep"],
)
@pytest.mark.parametrize("is_encrypted", [False, True])
def test_a_broken_variable_is_none(world: World, text: str, is_encrypted: bool) -> None:
    if is_encrypted:
        world.store_record(text)
    else:
        world.variables[KEY] = text
    assert world.source().get().access_token == "fetched-1"


@pytest.mark.parametrize(
    "changes",
    [
        {"api_domain": "https://evil.example"},
        {"access_token": ""},
        {"api_domain": None},
        {"scope": 3},
    ],
    ids=str,
)
def test_an_edited_variable_is_ignored(world: World, changes: dict[str, Any]) -> None:
    world.source().get()
    world.store_record(json.dumps({**world.stored(), **changes}))
    assert world.source().get().access_token == "fetched-2"


def test_replaces_a_refused_token_once(world: World) -> None:
    source = world.source()
    source.get()
    assert source.replace("fetched-1").access_token == "fetched-2"
    assert source.replace("fetched-1").access_token == "fetched-2"
    assert source.get().access_token == "fetched-2"
    assert world.fetched == 2


def test_replacing_takes_a_token_stored_by_another_worker(world: World) -> None:
    source = world.source()
    source.get()
    world.store().save(Stored(world.token("of-another", 3000)))
    assert source.replace("fetched-1").access_token == "of-another"
    assert world.fetched == 1
    assert source.replace("of-another").access_token == "fetched-2"


def test_two_refused_tokens_do_not_alternate(world: World) -> None:
    source = world.source()
    source.get()
    world.store().save(Stored(world.token("b", 3000)))
    assert source.replace("fetched-1").access_token == "b"
    world.store().save(Stored(world.token("fetched-1", 3000)))
    assert source.replace("b").access_token == "fetched-2"


def test_a_throttle_is_remembered_for_everybody(world: World) -> None:
    world.refuse = ZohoTokenThrottledError("wait", retry_after_s=600)
    with pytest.raises(ZohoTokenThrottledError):
        world.source().get()
    world.refuse = None
    world.now += 100
    for source in (world.source(), world.source()):
        with pytest.raises(ZohoTokenThrottledError) as caught:
            source.get()
        assert caught.value.retry_after_s == 500
    assert world.fetched == 1
    world.now += 501
    assert world.source().get().access_token == "fetched-2"


def test_a_throttle_from_a_wrong_clock_does_not_last(world: World) -> None:
    world.store().save(Stored(None, NOW + 1e9))
    assert world.source().get().access_token == "fetched-1"


@pytest.mark.parametrize(
    ("refuse", "held_s"), [(ZohoAuthError("no"), 60.0), (ZohoNotSentError("down"), 10.0)]
)
def test_a_failure_is_not_asked_for_again_at_once(world: World, refuse: ZohoError, held_s: float) -> None:
    world.refuse = refuse
    source = world.source()
    for _ in range(5):
        with pytest.raises(type(refuse)):
            source.get()
    assert world.fetched == 1
    world.now += held_s
    world.refuse = None
    assert source.get().access_token == "fetched-2"


def test_fifty_threads_with_an_expired_token_refresh_once(world: World) -> None:
    world.lifetime_s = 20.0
    source = world.source()
    source.get()
    world.now += 20
    barrier = threading.Barrier(50)

    def get(_: int) -> str:
        barrier.wait()
        return source.get().access_token

    with ThreadPoolExecutor(50) as pool:
        assert set(pool.map(get, range(50))) == {"fetched-2"}
    assert world.fetched == 2


def test_fifty_threads_with_a_refused_token_refresh_once(world: World) -> None:
    source = world.source()
    source.get()
    with ThreadPoolExecutor(50) as pool:
        assert {token.access_token for token in pool.map(source.replace, ["fetched-1"] * 50)} == {"fetched-2"}
    assert world.fetched == 2


def test_a_fleet_with_a_lock_refreshes_once(world: World) -> None:
    shared = threading.Lock()
    entered = []

    @contextmanager
    def lock() -> Iterator[None]:
        with shared:
            entered.append(1)
            yield

    workers = [world.source(refresh_lock=lock) for _ in range(20)]
    barrier = threading.Barrier(20)

    def get(source: TokenSource) -> str:
        barrier.wait()
        return source.get().access_token

    with ThreadPoolExecutor(20) as pool:
        assert set(pool.map(get, workers)) == {"fetched-1"}
    assert world.fetched == 1
    assert entered


TOKEN = Token("access-token-1", "https://www.zohoapis.com", "S")
TOKEN_KEY = zoho_connection().token_key


@pytest.fixture
def real_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access_token, "Variable", Variable)


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
    VariableTokenStore("zoho_x", TOKEN_KEY).save(Stored(TOKEN, 7.0))
    assert list(supervisor.values) == ["zoho_crm_access_token__zoho_x"]
    assert access_token._in_process == {}
    # Airflow logs this message at level DEBUG.
    assert "access-token-1" not in str(supervisor.values)
    assert VariableTokenStore("zoho_x", TOKEN_KEY).load() == Stored(TOKEN, 7.0)


@pytest.mark.usefixtures("real_variable")
def test_outside_of_a_task_the_process_keeps_it_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    store = VariableTokenStore("zoho_x", TOKEN_KEY)
    for _ in range(3):
        store.save(Stored(TOKEN))
        assert VariableTokenStore("zoho_x", TOKEN_KEY).load() == Stored(TOKEN)
    records = [record for record in caplog.records if record.name == access_token.__name__]
    assert [record.levelname for record in records] == ["INFO"]
    assert "uses its own access token" in records[0].getMessage()
    assert "access-token-1" not in caplog.text


def test_a_failing_backend_is_logged_once_and_raises_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken:
        @staticmethod
        def get(key: str, default: object = None) -> object:
            raise RuntimeError("access-token-1 in a message")

        set = get

    monkeypatch.setattr(access_token, "Variable", Broken)
    caplog.set_level(logging.DEBUG)
    store = VariableTokenStore("zoho_x", TOKEN_KEY)
    assert store.load() == Stored()
    store.save(Stored(TOKEN))
    store.save(Stored(TOKEN))
    assert store.load() == Stored(TOKEN)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "access-token-1" not in caplog.text


def test_a_variable_that_works_again_is_used_again(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    store = VariableTokenStore("zoho_x", TOKEN_KEY)
    with monkeypatch.context() as patch:
        patch.setattr(access_token.Variable, "set", staticmethod(lambda *_: 1 / 0))
        store.save(Stored(TOKEN))
    store.save(Stored(TOKEN, 9.0))
    assert access_token._in_process == {}
    assert list(variables) == [store.key]


def test_a_record_of_other_credentials_is_none() -> None:
    VariableTokenStore("zoho_x", TOKEN_KEY).save(Stored(TOKEN, 9.0))
    assert VariableTokenStore("zoho_x", zoho_connection(client_id="other").token_key).load() == Stored()
