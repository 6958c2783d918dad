"""The hook and the async client against the local Zoho, which shares no code with them."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest

from tests.support.local_zoho import link_all, zoho_connection
from zoho_crm.core.links import Link, Relation
from zoho_crm.core.outcomes import Outcome
from zoho_crm.core.request import delete_related, get_related
from zoho_crm.core.verdict import Action
from zoho_crm.errors import ZohoTokenThrottledError, ZohoUnansweredError
from zoho_crm.hooks.zoho_crm import ZohoCRMHook

if TYPE_CHECKING:
    from zoho_crm.testing.local_zoho import LocalZoho

    pass


@pytest.fixture
def local(zoho_server: LocalZoho) -> LocalZoho:
    zoho_server.reset()
    link_all(zoho_server, [(f"c-{n}", f"d-{n}") for n in range(30)])
    return zoho_server


@pytest.fixture
def hook(local: LocalZoho, monkeypatch: pytest.MonkeyPatch) -> ZohoCRMHook:
    monkeypatch.setenv("AIRFLOW_CONN_ZOHO_CRM_DEFAULT", json.dumps(zoho_connection(local)))
    hook = ZohoCRMHook(read_timeout_s=2.0)
    hook.sleep = lambda _: None  # type: ignore[method-assign]
    return hook


def sent(local: LocalZoho, method: str) -> list[str]:
    return [
        one.path
        for one in local.state.journal.requests
        if one.method == method and one.path.startswith("/crm")
    ]


def test_takes_one_link_away_and_no_other(local: LocalZoho, hook: ZohoCRMHook, relation: Relation) -> None:
    link = Link("c-1", "d-1")
    assert hook.get_related_record(relation, link)
    assert hook.delete_related_record(relation, link).outcome is Outcome.REMOVED
    assert not hook.get_related_record(relation, link)
    assert hook.delete_related_record(relation, link).outcome is Outcome.ALREADY_ABSENT
    assert len(local.state.links("Contacts", "Deals")) == 29
    assert not local.state.journal.harms


@pytest.mark.parametrize(
    "value", ["a/b", "x..%2F..y", "a?b#c", "ä ß 🦄", "100%", "a;b", "a+b", "x" * 255, "a\\b"]
)
def test_any_id_finds_its_record(local: LocalZoho, hook: ZohoCRMHook, relation: Relation, value: str) -> None:
    local.state.link("Contacts", value, "Deals", f"d{value}"[:255])
    link = Link(value, f"d{value}"[:255])
    assert hook.delete_related_record(relation, link).outcome is Outcome.REMOVED
    assert not local.state.linked("Contacts", value, "Deals", f"d{value}"[:255])
    assert not local.state.journal.harms


def test_knows_records(hook: ZohoCRMHook) -> None:
    assert hook.record_exists("Contacts", "External_Contact_ID", "c-1")
    assert not hook.record_exists("Contacts", "External_Contact_ID", "unknown")


def test_reads_all_pages(local: LocalZoho, hook: ZohoCRMHook, relation: Relation) -> None:
    for n in range(2405):
        local.state.link("Contacts", "many", "Deals", f"many-{n}")
    rows = list(hook.get_related_records(relation, "many", fields=("id", "External_Deal_ID")))
    assert {row["External_Deal_ID"] for row in rows} == {f"many-{n}" for n in range(2405)}
    assert len(rows) == 2405


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({}, None),
        (
            {
                "module": "Campaigns",
                "external_field": "External_Campaign_ID",
                "related_list": "Leads",
                "related_module": "Leads",
                "related_external_field": "External_Lead_ID",
            },
            None,
        ),
        (
            {
                "module": "Deals",
                "external_field": "External_Deal_ID",
                "related_list": "Contact_Roles",
                "related_module": "Contacts",
                "related_external_field": "External_Contact_ID",
            },
            None,
        ),
        ({"module": "contacts"}, "did you mean 'Contacts'"),
        ({"external_field": "Last_Name"}, "not an external field"),
        ({"related_list": "deals"}, "did you mean 'Deals'"),
        (
            {"related_list": "Cases", "related_module": "Cases", "related_external_field": "Name"},
            "user_hidden",
        ),
        (
            {"related_list": "Emails", "related_module": "Emails", "related_external_field": "Name"},
            "not supported",
        ),
        (
            {"related_module": "Leads", "related_external_field": "External_Lead_ID"},
            "holds records of 'Deals'",
        ),
    ],
    ids=[
        "fine",
        "other",
        "other-name",
        "module-case",
        "field",
        "list-case",
        "hidden",
        "unsupported",
        "other-module",
    ],
)
def test_preflight(hook: ZohoCRMHook, relation: Relation, changes: dict[str, str], says: str | None) -> None:
    faults = hook.check_relation(Relation(**{**relation.__dict__, **changes}))
    assert (faults == []) if says is None else any(says in fault for fault in faults), faults


def test_preflight_without_the_scope_to_delete(
    local: LocalZoho, hook: ZohoCRMHook, relation: Relation
) -> None:
    local.state.configure(
        granted_scopes=["ZohoCRM.modules.READ", "ZohoCRM.settings.READ", "ZohoCRM.org.READ"]
    )
    assert hook.check_relation(relation) == [
        "The refresh token lacks the scope ZohoCRM.modules.contacts.DELETE, ZohoCRM.modules.deals.DELETE: "
        "generate a refresh token that includes it."
    ]


def test_the_test_button(local: LocalZoho, hook: ZohoCRMHook) -> None:
    ok, message = hook.test_connection()
    assert ok, message
    assert "Local Zoho (an imitation) (org 700000001" in message
    local.state.configure(environment="sandbox")
    assert not hook.test_connection()[0]
    local.state.configure(environment="production", granted_scopes=["ZohoCRM.modules.ALL"])
    assert "scope" in hook.test_connection()[1]


def test_a_killed_token_is_replaced(local: LocalZoho, hook: ZohoCRMHook, relation: Relation) -> None:
    hook.get_org()
    local.state.tokens.revoke_all()
    assert hook.delete_related_record(relation, Link("c-2", "d-2")).outcome is Outcome.REMOVED


def test_a_throttle_is_left_alone(local: LocalZoho, hook: ZohoCRMHook, relation: Relation) -> None:
    local.state.configure(tokens_per_window=1)
    hook.test_connection()
    for _ in range(5):
        with pytest.raises(ZohoTokenThrottledError):
            ZohoCRMHook().delete_related_record(relation, Link("c-2", "d-2"))
    assert sum(one.path.startswith("/oauth") for one in local.state.journal.requests) == 2


@pytest.mark.parametrize("deed", ["reset", "close_mid_body"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_lost_response_is_raised_and_not_repeated(
    local: LocalZoho, hook: ZohoCRMHook, relation: Relation, deed: str, when: str
) -> None:
    local.state.faults.add(do=deed, when=when, match={"method": "DELETE"})
    with pytest.raises(ZohoUnansweredError):
        hook.delete_related_record(relation, Link("c-3", "d-3"))
    assert len(sent(local, "DELETE")) == 1


@pytest.mark.parametrize("deed", ["html", "redirect", "truncate", "status"])
def test_a_spoilt_response_is_to_be_verified(
    local: LocalZoho, hook: ZohoCRMHook, relation: Relation, deed: str
) -> None:
    local.state.faults.add(do=deed, when="after", match={"method": "DELETE"})
    assert hook.delete_related_record(relation, Link("c-3", "d-3")).action is Action.VERIFY
    assert len(sent(local, "DELETE")) == 1


async def test_takes_many_away_at_once(local: LocalZoho, hook: ZohoCRMHook, relation: Relation) -> None:
    local.state.faults.add(do="reset", when="after", match={"method": "DELETE", "external_id": "c-7"})
    async with hook.async_client(max_connections=10) as client:
        answers = await asyncio.gather(
            *(client.send(delete_related("v7", relation, Link(f"c-{n}", f"d-{n}"))) for n in range(30)),
            return_exceptions=True,
        )
        unanswered = [n for n, answer in enumerate(answers) if isinstance(answer, ZohoUnansweredError)]
        check = await client.send(get_related("v7", relation, Link("c-7", "d-7")))
    assert unanswered == [7]
    assert check.status == 204
    assert {answer.status for answer in answers if not isinstance(answer, BaseException)} == {200}
    assert local.state.links("Contacts", "Deals") == set()
    assert len(sent(local, "DELETE")) == 30
    assert not local.state.journal.harms
