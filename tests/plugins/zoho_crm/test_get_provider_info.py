from __future__ import annotations

import json
from importlib import import_module, metadata
from pathlib import Path
from typing import get_args
from urllib.parse import urlsplit

import airflow
import jsonschema
import pytest

import zoho_crm
from zoho_crm.core.links import Relation
from zoho_crm.data_centers import DataCenter, Environment
from zoho_crm.get_provider_info import get_provider_info
from zoho_crm.hooks.connection import EXTRAS, ApiVersion, ZohoConnection
from zoho_crm.hooks.zoho_crm import ZohoCRMHook
from zoho_crm.operators.report import relation_asset
from zoho_crm.ui.plugin import ZohoDelinkPlugin

CONNECTION_TYPE = get_provider_info()["connection-types"][0]
FIELDS = CONNECTION_TYPE["conn-fields"]


def test_fits_airflows_schema() -> None:
    schema = json.loads((Path(airflow.__file__).parent / "provider_info.schema.json").read_text())
    jsonschema.validate(get_provider_info(), schema)
    assert set(get_provider_info()) - {"versions"} <= set(schema["properties"])


def test_version_is_that_of_the_package() -> None:
    assert get_provider_info()["versions"] == [zoho_crm.__version__]


@pytest.mark.parametrize("kind", ["operators", "hooks"])
def test_modules_can_be_imported_and_belong_to_an_integration(kind: str) -> None:
    info = get_provider_info()
    integrations = {one["integration-name"] for one in info["integrations"]}
    for group in info[kind]:
        assert group["integration-name"] in integrations
        for module in group["python-modules"]:
            import_module(module)


def test_names_every_operator_that_the_package_exports() -> None:
    (group,) = get_provider_info()["operators"]
    exported = {getattr(zoho_crm, name).__module__ for name in zoho_crm.__all__ if name.endswith("Operator")}
    assert set(group["python-modules"]) == exported


def test_names_the_links_that_the_plugin_registers() -> None:
    registered = {
        f"{type(link).__module__}.{type(link).__qualname__}" for link in ZohoDelinkPlugin.operator_extra_links
    }
    assert set(get_provider_info()["extra-links"]) == registered


def test_assets_of_relations_have_a_scheme_of_the_provider() -> None:
    relation = Relation("Contacts", "External_Contact_ID", "Deals", "Deals", "External_Deal_ID")
    scheme = urlsplit(relation_asset("zoho_crm_default", relation).uri).scheme
    assert [scheme] == get_provider_info()["asset-uris"][0]["schemes"]


def test_package_name_is_the_distributions() -> None:
    assert get_provider_info()["package-name"] == metadata.metadata("zoho-crm-delink")["Name"]


def test_form_has_the_extras_that_the_connection_accepts_and_no_other() -> None:
    assert set(FIELDS) == EXTRAS


@pytest.mark.parametrize(
    ("field", "choices"),
    [("data_center", DataCenter), ("environment", Environment), ("api_version", ApiVersion)],
    ids=["data_center", "environment", "api_version"],
)
def test_form_offers_the_choices_that_the_connection_accepts(field: str, choices: object) -> None:
    assert set(FIELDS[field]["schema"]["enum"]) == set(get_args(choices))


@pytest.mark.parametrize("field", sorted(EXTRAS - {"refresh_token"}))
def test_form_has_the_defaults_of_the_connection(field: str) -> None:
    assert FIELDS[field]["schema"]["default"] == ZohoConnection.model_fields[field].default


def test_form_bounds_requests_in_flight_like_the_connection() -> None:
    bounds = {type(one).__name__: one for one in ZohoConnection.model_fields["max_concurrency"].metadata}
    assert FIELDS["max_concurrency"]["schema"]["minimum"] == bounds["Ge"].ge
    assert FIELDS["max_concurrency"]["schema"]["maximum"] == bounds["Le"].le


def test_secrets_are_password_fields() -> None:
    assert FIELDS["refresh_token"]["schema"]["format"] == "password"


def test_names_the_hook_as_the_hook_names_itself() -> None:
    assert CONNECTION_TYPE["connection-type"] == ZohoCRMHook.conn_type
    assert CONNECTION_TYPE["hook-name"] == ZohoCRMHook.hook_name
    assert CONNECTION_TYPE["hook-class-name"] == f"{ZohoCRMHook.__module__}.{ZohoCRMHook.__qualname__}"
