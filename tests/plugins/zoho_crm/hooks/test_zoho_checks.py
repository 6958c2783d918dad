from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from zoho_crm.core.links import Relation
from zoho_crm.core.models import RELINK
from zoho_crm.errors import ZohoAuthError, ZohoError, ZohoNotSentError, ZohoResponseError
from zoho_crm.hooks.connection import ZohoConnection
from zoho_crm.hooks.zoho_checks import check_relation, describe_connection, missing_scopes

if TYPE_CHECKING:
    from collections.abc import Callable

ALL = frozenset({"ZohoCRM.modules.ALL", "ZohoCRM.settings.ALL"})
RELATION = Relation("Contacts", "F_C", "Deals_X", "Deals", "F_D")


def connection(**changes: Any) -> ZohoConnection:
    return ZohoConnection(conn_id="x", client_id="i", client_secret="s", refresh_token="r", **changes)


@dataclass
class Metadata:
    """What Zoho tells, all in order unless a test spoils it."""

    connection: ZohoConnection = field(default_factory=connection)
    scopes: frozenset[str] = ALL
    org: dict[str, Any] = field(default_factory=lambda: {"type": "production"})
    modules: list[dict[str, Any]] = field(
        default_factory=lambda: [{"api_name": "Contacts"}, {"api_name": "Deals", "api_supported": True}]
    )
    fields: dict[str, list[dict[str, Any]]] = field(
        default_factory=lambda: {
            "Contacts": [
                {"api_name": "F_C", "external": {"type": "org", "show": True}},
                {"api_name": "Plain"},
            ],
            "Deals": [
                {"api_name": "F_D", "external": {"type": "user"}},
                {"api_name": "Null", "external": None},
            ],
        }
    )
    related_list: dict[str, Any] = field(
        default_factory=lambda: {
            "api_name": "Deals_X",
            "href": "Contacts/{ENTITYID}/Deals_X",
            "module": {"api_name": "Deals", "id": "1"},
            "status": "visible",
        }
    )
    asked: list[str] = field(default_factory=list)
    raises: dict[str, ZohoError] = field(default_factory=dict)

    def _tell(self, name: str, value: Any) -> Any:
        self.asked.append(name)
        if name in self.raises:
            raise self.raises[name]
        return value

    def get_modules(self) -> Any:
        return self._tell("modules", self.modules)

    def get_fields(self, module: str) -> Any:
        return self._tell(f"fields {module}", self.fields[module])

    def get_related_lists(self, module: str) -> Any:
        return self._tell(f"lists {module}", [{"api_name": "Notes"}, self.related_list])

    def get_org(self) -> Any:
        return self._tell("org", self.org)

    def granted_scopes(self) -> frozenset[str]:
        return self.scopes


def test_nothing_is_wrong_at_the_price_of_five_credits() -> None:
    zoho = Metadata()
    assert check_relation(zoho, RELATION) == []
    assert zoho.asked == ["org", "modules", "fields Contacts", "fields Deals", "lists Contacts"]


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda z: z.modules.pop(), ["There is no module 'Deals'."]),
        (
            lambda z: z.modules[1].update(api_name="deals"),
            ["There is no module 'Deals'; did you mean 'deals'?"],
        ),
        (
            lambda z: z.modules[1].update(api_supported=False),
            ["The module 'Deals' is not supported by the API."],
        ),
        (
            lambda z: z.fields["Contacts"].pop(0),
            ["There is no field in module 'Contacts' with the name 'F_C'."],
        ),
        (
            lambda z: z.fields["Contacts"][0].update(api_name="f_c"),
            ["There is no field in module 'Contacts' with the name 'F_C'; did you mean 'f_c'?"],
        ),
        (
            lambda z: z.fields["Deals"][0].update(external=None),
            ["The field Deals.F_D is not an external field: mark it as one in Zoho's setup."],
        ),
        (
            lambda z: z.fields["Deals"][0].pop("external"),
            ["The field Deals.F_D is not an external field: mark it as one in Zoho's setup."],
        ),
        (
            lambda z: z.related_list.update(api_name="deals_x"),
            [
                "There is no related list of module 'Contacts' with the name 'Deals_X'; did you mean 'deals_x'?"
            ],
        ),
        (
            lambda z: z.related_list.update(href=None),
            [
                "The related list 'Deals_X' of module 'Contacts' cannot be reached by the API (its href is null)."
            ],
        ),
        (
            lambda z: z.related_list.update(status="user_hidden"),
            [
                "The related list 'Deals_X' of module 'Contacts' is not visible but user_hidden: "
                "show it in the module's layout."
            ],
        ),
        (
            lambda z: z.related_list.update(module={"api_name": "Leads"}),
            ["The related list 'Deals_X' of module 'Contacts' holds records of 'Leads', not of 'Deals'."],
        ),
        (
            lambda z: z.related_list.update(module=None),
            ["The related list 'Deals_X' of module 'Contacts' holds records of None, not of 'Deals'."],
        ),
        (
            lambda z: z.org.update(type="sandbox"),
            [
                "Connection 'x' says production, but Zoho says that the organisation is of type sandbox: "
                "correct environment, or use a refresh token made for production."
            ],
        ),
        (lambda z: z.org.clear(), []),
    ],
    ids=[
        "module",
        "module-case",
        "module-api",
        "field",
        "field-case",
        "not-external",
        "no-external",
        "list-case",
        "href",
        "hidden",
        "other-module",
        "grouped",
        "environment",
        "no-type",
    ],
)
def test_says_what_is_wrong(spoil: Callable[[Metadata], Any], says: list[str]) -> None:
    zoho = Metadata()
    spoil(zoho)
    assert check_relation(zoho, RELATION) == says


def test_says_all_at_once() -> None:
    zoho = Metadata(scopes=frozenset({"ZohoCRM.modules.READ", "ZohoCRM.settings.ALL"}))
    zoho.org["type"] = "bigin"
    zoho.fields["Deals"].clear()
    zoho.related_list.update(href=None, status="scheduled_for_deletion")
    assert len(check_relation(zoho, RELATION)) == 5


@pytest.mark.parametrize(
    ("scopes", "missing"),
    [
        ({"ZohoCRM.modules.ALL", "ZohoCRM.settings.ALL"}, None),
        ({"zohocrm.modules.all", "ZOHOCRM.SETTINGS.ALL"}, None),
        ({"ZohoCRM.modules.READ", "ZohoCRM.modules.DELETE", "ZohoCRM.settings.READ"}, None),
        ({"ZohoCRM.modules.contacts.ALL", "ZohoCRM.modules.deals.ALL", "ZohoCRM.settings.ALL"}, None),
        (
            {
                "ZohoCRM.modules.contacts.READ",
                "ZohoCRM.modules.Contacts.DELETE",
                "ZohoCRM.modules.deals.ALL",
                "ZohoCRM.settings.modules.READ",
                "ZohoCRM.settings.fields.ALL",
                "ZohoCRM.settings.related_lists.READ",
            },
            None,
        ),
        (
            {"ZohoCRM.modules.READ", "ZohoCRM.settings.ALL"},
            "ZohoCRM.modules.contacts.DELETE, ZohoCRM.modules.deals.DELETE",
        ),
        (
            {"ZohoCRM.modules.contacts.ALL", "ZohoCRM.modules.deals.WRITE", "ZohoCRM.settings.ALL"},
            "ZohoCRM.modules.deals.READ, ZohoCRM.modules.deals.DELETE",
        ),
        (
            {"ZohoCRM.modules.ALL", "ZohoCRM.settings.modules.READ"},
            "ZohoCRM.settings.fields.READ, ZohoCRM.settings.related_lists.READ",
        ),
        (
            {"ZohoCRM.modules.contact.ALL", "ZohoCRM.modules.deals.ALL", "ZohoCRM.settings.ALL"},
            "ZohoCRM.modules.contacts.READ, ZohoCRM.modules.contacts.DELETE",
        ),
        (set(), None),
    ],
    ids=[
        "all",
        "any-case",
        "operations",
        "per-module",
        "smallest",
        "no-delete",
        "write-only",
        "settings",
        "look-alike",
        "unknown",
    ],
)
def test_scopes(scopes: set[str], missing: str | None) -> None:
    faults = missing_scopes(frozenset(scopes), RELATION)
    assert faults == (
        []
        if missing is None
        else [f"The refresh token lacks the scope {missing}: make a new one that has it."]
    )


@pytest.mark.parametrize(
    ("granted", "missing"),
    [
        pytest.param({"ALL"}, None, id="all"),
        pytest.param({"READ", "UPDATE"}, None, id="update"),
        pytest.param({"READ", "WRITE"}, None, id="write"),
        pytest.param(
            {"READ", "DELETE"},
            "ZohoCRM.modules.contacts.UPDATE, ZohoCRM.modules.deals.UPDATE",
            id="those of taking out",
        ),
        pytest.param(
            {"UPDATE"}, "ZohoCRM.modules.contacts.READ, ZohoCRM.modules.deals.READ", id="without reading"
        ),
    ],
)
def test_scopes_to_put_links_back(granted: set[str], missing: str | None) -> None:
    scopes = frozenset({"ZohoCRM.settings.ALL", *(f"ZohoCRM.modules.{right}" for right in granted)})
    faults = (
        []
        if missing is None
        else [f"The refresh token lacks the scope {missing}: make a new one that has it."]
    )
    assert missing_scopes(scopes, RELATION, RELINK) == faults
    assert check_relation(Metadata(scopes=scopes), RELATION, RELINK) == faults


@pytest.mark.parametrize(
    "refusal",
    [
        ZohoAuthError("no scope", http_status=401, code="OAUTH_SCOPE_MISMATCH"),
        ZohoAuthError("no right", http_status=403, code="NO_PERMISSION"),
        ZohoResponseError("odd", http_status=400, code="INVALID_MODULE"),
    ],
    ids=["scope", "permission", "400"],
)
def test_what_zoho_refuses_to_tell_is_a_finding(refusal: ZohoError) -> None:
    zoho = Metadata(raises={"org": refusal, "fields Contacts": refusal})
    assert check_relation(zoho, RELATION) == [f"Zoho does not tell what has to be checked: {refusal}."] * 2
    assert "lists Contacts" in zoho.asked


@pytest.mark.parametrize(
    "trouble",
    [
        ZohoNotSentError("down"),
        ZohoResponseError("busy", http_status=429, code="TOO_MANY_REQUESTS"),
        ZohoResponseError("down", http_status=503),
        ZohoAuthError("revoked", code="invalid_code"),
        ZohoAuthError("bad token", http_status=401, code="INVALID_TOKEN"),
    ],
    ids=["not-sent", "429", "503", "revoked", "token"],
)
def test_what_zoho_cannot_tell_just_now_is_none(trouble: ZohoError) -> None:
    with pytest.raises(type(trouble)):
        check_relation(Metadata(raises={"modules": trouble}), RELATION)


def test_describes_an_organisation_that_tells_little() -> None:
    assert describe_connection(connection(data_center="eu"), {}, frozenset()) == (
        True,
        "Connected to unnamed (org unknown, edition unknown), production environment, data center eu; "
        "granted scopes: not told by Zoho",
    )
