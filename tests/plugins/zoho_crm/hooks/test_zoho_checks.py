from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from zoho_crm.core.links import Relation
from zoho_crm.core.models import RELINK
from zoho_crm.errors import ZohoAuthError, ZohoError, ZohoNotSentError, ZohoResponseError
from zoho_crm.hooks.connection import ZohoConnection
from zoho_crm.hooks.zoho_checks import (
    check_relation,
    describe_connection,
    missing_scopes,
    needed_scopes,
    scope_name,
)

if TYPE_CHECKING:
    from collections.abc import Callable

ORG = "ZohoCRM.org.READ"
ALL = frozenset({"ZohoCRM.modules.ALL", "ZohoCRM.settings.ALL", ORG})
RELATION = Relation("Contacts", "F_C", "Deals_X", "Deals", "F_D")


def connection(**changes: Any) -> ZohoConnection:
    return ZohoConnection(conn_id="x", client_id="i", client_secret="s", refresh_token="r", **changes)


@dataclass
class Metadata:
    """Zoho's metadata, without errors unless a test spoils it."""

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
                {"api_name": "F_D", "external": {"type": "org"}},
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
    requested: list[str] = field(default_factory=list)
    raises: dict[str, ZohoError] = field(default_factory=dict)

    def _return(self, name: str, value: Any) -> Any:
        self.requested.append(name)
        if name in self.raises:
            raise self.raises[name]
        return value

    def get_modules(self) -> Any:
        return self._return("modules", self.modules)

    def get_fields(self, module: str) -> Any:
        return self._return(f"fields {module}", self.fields[module])

    def get_related_lists(self, module: str) -> Any:
        return self._return(f"lists {module}", [{"api_name": "Notes"}, self.related_list])

    def get_org(self) -> Any:
        return self._return("org", self.org)

    def granted_scopes(self) -> frozenset[str]:
        return self.scopes


def test_a_relation_without_errors_costs_five_credits() -> None:
    zoho = Metadata()
    assert check_relation(zoho, RELATION) == []
    assert zoho.requested == ["org", "modules", "fields Contacts", "fields Deals", "lists Contacts"]


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (
            lambda z: z.modules.pop(),
            ["Module 'Deals' does not exist: use an API name from Zoho's setup."],
        ),
        (
            lambda z: z.modules[1].update(api_name="deals"),
            ["Module 'Deals' does not exist: did you mean 'deals'?"],
        ),
        (
            lambda z: z.modules[1].update(api_supported=False),
            ["Module 'Deals' is not supported by Zoho's API: use another module."],
        ),
        (
            lambda z: z.fields["Contacts"].pop(0),
            ["Module 'Contacts': field 'F_C' does not exist: use an API name from Zoho's setup."],
        ),
        (
            lambda z: z.fields["Contacts"][0].update(api_name="f_c"),
            ["Module 'Contacts': field 'F_C' does not exist: did you mean 'f_c'?"],
        ),
        (
            lambda z: z.fields["Deals"][0].update(external=None),
            ["Field Deals.F_D is not an external field: mark it as external in Zoho's setup."],
        ),
        (
            lambda z: z.fields["Deals"][0].pop("external"),
            ["Field Deals.F_D is not an external field: mark it as external in Zoho's setup."],
        ),
        (
            lambda z: z.related_list.update(api_name="deals_x"),
            ["Module 'Contacts': related list 'Deals_X' does not exist: did you mean 'deals_x'?"],
        ),
        (
            lambda z: z.related_list.update(href=None),
            [
                "Module 'Contacts': related list 'Deals_X' is not available in Zoho's API (its href is null): "
                "use another related list."
            ],
        ),
        (
            lambda z: z.related_list.update(status="user_hidden"),
            [
                "Module 'Contacts': related list 'Deals_X' has status user_hidden, not visible: "
                "show it in the module's layout."
            ],
        ),
        (
            lambda z: z.related_list.update(module={"api_name": "Leads"}),
            [
                "Module 'Contacts': related list 'Deals_X' holds records of 'Leads', not of 'Deals': "
                "correct related_module."
            ],
        ),
        (
            lambda z: z.related_list.update(module=None),
            [
                "Module 'Contacts': related list 'Deals_X' holds records of None, not of 'Deals': "
                "correct related_module."
            ],
        ),
        (
            lambda z: z.org.update(type="sandbox"),
            [
                "Connection 'x': environment is production, but the organization is of type sandbox; "
                "correct environment, or use a refresh token generated for production."
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
def test_names_the_error(spoil: Callable[[Metadata], Any], says: list[str]) -> None:
    zoho = Metadata()
    spoil(zoho)
    assert check_relation(zoho, RELATION) == says


def test_names_all_errors_at_once() -> None:
    zoho = Metadata(scopes=frozenset({"ZohoCRM.modules.READ", "ZohoCRM.settings.ALL", ORG}))
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
    faults = missing_scopes(frozenset(scopes | {ORG} if scopes else ()), RELATION)
    assert faults == (
        []
        if missing is None
        else [f"The refresh token lacks the scope {missing}: generate a refresh token that includes it."]
    )


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("Contacts", "contacts"),
        ("Price_Books", "pricebooks"),
        ("Appointments__s", "appointments"),
        ("Services__s", "services"),
        ("Services", "services"),
        ("Sales_Orders", "salesorders"),
        ("Projects", "custom"),
        ("Deals_X_Contacts", "custom"),
        ("CustomModule1", "custom"),
    ],
)
def test_names_a_module_as_scopes_do(module: str, name: str) -> None:
    assert scope_name(module) == name


def test_scopes_of_modules_whose_scope_name_is_another() -> None:
    relation = Relation("Products", "F_P", "Price_Books", "Price_Books", "F_B")
    rights = {f"ZohoCRM.modules.{name}.ALL" for name in ("products", "pricebooks")}
    assert missing_scopes(frozenset({*rights, "ZohoCRM.settings.ALL", ORG}), relation) == []
    custom = Relation("Projects", "F_P", "Members", "Members", "F_M")
    (missing,) = missing_scopes(
        frozenset({"ZohoCRM.modules.custom.READ", "ZohoCRM.settings.ALL", ORG}), custom
    )
    assert "lacks the scope ZohoCRM.modules.custom.DELETE:" in missing


@pytest.mark.parametrize("names", [("appointments", "services"), ("Appointments__s", "Services__s")])
def test_modules_in_scopes_may_be_named_as_on_any_page_of_zoho(names: tuple[str, str]) -> None:
    rights = {f"ZohoCRM.modules.{name}.{right}" for name in names for right in ("READ", "DELETE")}
    relation = Relation("Appointments__s", "F_A", "Services__s", "Services__s", "F_S")
    assert missing_scopes(frozenset({*rights, "ZohoCRM.settings.ALL", ORG}), relation) == []


def test_the_scope_of_the_organization_is_named_too() -> None:
    assert missing_scopes(ALL - {ORG}, RELATION) == [
        "The refresh token lacks the scope ZohoCRM.org.READ: generate a refresh token that includes it."
    ]
    assert missing_scopes(ALL - {ORG} | {"ZohoCRM.org.ALL"}, RELATION) == []


def test_needed_scopes_are_the_smallest_that_suffice() -> None:
    needed = needed_scopes(Relation("Products", "F_P", "Price_Books", "Price_Books", "F_B"))
    assert needed == [
        "ZohoCRM.modules.products.READ",
        "ZohoCRM.modules.products.DELETE",
        "ZohoCRM.modules.pricebooks.READ",
        "ZohoCRM.modules.pricebooks.DELETE",
        "ZohoCRM.settings.modules.READ",
        "ZohoCRM.settings.fields.READ",
        "ZohoCRM.settings.related_lists.READ",
        "ZohoCRM.org.READ",
    ]


def test_a_user_based_field_is_refused_unless_the_job_allows_it() -> None:
    zoho = Metadata()
    zoho.fields["Deals"][0].update(external={"type": "user"})
    assert check_relation(zoho, RELATION) == [
        "Field Deals.F_D is a user-based external field: each value belongs to one Zoho user, and the token of "
        "another user finds another record or none. Use an organization-based external field, or set "
        "allow_user_external_field: true in the job file if the refresh token is that user's."
    ]
    assert check_relation(zoho, RELATION, allow_user_fields=True) == []


@pytest.mark.parametrize(
    "module", [{"api_name": "Contact_Roles"}, {"api_name": "Contacts"}, None], ids=["list", "module", "null"]
)
def test_metadata_may_name_any_module_for_a_documented_list(module: dict[str, str] | None) -> None:
    zoho = Metadata()
    zoho.related_list.update(api_name="Contact_Roles", href="Deals/{ENTITYID}/Contact_Roles", module=module)
    assert check_relation(zoho, Relation("Deals", "F_D", "Contact_Roles", "Contacts", "F_C")) == []


@pytest.mark.parametrize(
    ("granted", "missing"),
    [
        pytest.param({"ALL"}, None, id="all"),
        pytest.param({"READ", "UPDATE"}, None, id="update"),
        pytest.param({"READ", "WRITE"}, None, id="write"),
        pytest.param(
            {"READ", "DELETE"},
            "ZohoCRM.modules.contacts.UPDATE, ZohoCRM.modules.deals.UPDATE",
            id="those of a delink",
        ),
        pytest.param(
            {"UPDATE"}, "ZohoCRM.modules.contacts.READ, ZohoCRM.modules.deals.READ", id="without reading"
        ),
    ],
)
def test_scopes_of_a_relink(granted: set[str], missing: str | None) -> None:
    scopes = frozenset({"ZohoCRM.settings.ALL", ORG, *(f"ZohoCRM.modules.{right}" for right in granted)})
    faults = (
        []
        if missing is None
        else [f"The refresh token lacks the scope {missing}: generate a refresh token that includes it."]
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
def test_metadata_that_zoho_refuses_to_return_is_an_error(refusal: ZohoError) -> None:
    zoho = Metadata(raises={"org": refusal, "fields Contacts": refusal})
    assert (
        check_relation(zoho, RELATION)
        == [f"Zoho refuses to return the metadata for this check: {refusal}."] * 2
    )
    assert "lists Contacts" in zoho.requested


@pytest.mark.parametrize(
    "trouble",
    [
        ZohoNotSentError("down"),
        ZohoResponseError("busy", http_status=429, code="TOO_MANY_REQUESTS"),
        ZohoResponseError("down", http_status=503),
        ZohoAuthError("revoked", code="invalid_code"),
        ZohoAuthError("bad token", http_status=401, code="INVALID_TOKEN"),
        ZohoResponseError("HTML", http_status=200),
        ZohoResponseError("a proxy's page", http_status=404),
        ZohoResponseError("redirect", http_status=302),
        ZohoResponseError("timeout", http_status=408, code="REQUEST_TIMEOUT"),
        ZohoResponseError("error", http_status=200, code="INTERNAL_ERROR"),
        ZohoResponseError("busy", http_status=400, code="TOO_MANY_REQUESTS"),
    ],
    ids=[
        "not-sent",
        "429",
        "503",
        "revoked",
        "token",
        "html",
        "404-html",
        "redirect",
        "408",
        "internal",
        "busy",
    ],
)
def test_a_temporary_failure_is_raised(trouble: ZohoError) -> None:
    with pytest.raises(type(trouble)):
        check_relation(Metadata(raises={"modules": trouble}), RELATION)


def test_describes_an_organization_with_little_metadata() -> None:
    assert describe_connection(connection(data_center="eu"), {}, frozenset()) == (
        True,
        "Connected to unnamed (org unknown, edition unknown), production environment, data center eu; "
        "granted scopes: not reported by Zoho",
    )
